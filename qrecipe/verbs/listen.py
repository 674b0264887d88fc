"""`listen`: what a run's model and the base said of the same prompts, heard blindly, and the ballots of those who heard it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import soundfile

from qrecipe.bundle.verify import MANIFEST, read_manifest
from qrecipe.errors import Place, Problem, Problems, UserError, suggest
from qrecipe.evaluate.samples import Where, stored_samples
from qrecipe.files import digest, write_json
from qrecipe.inputs.ballots import parse_ballot
from qrecipe.inputs.documents.ballots import Ballot
from qrecipe.report.listening import KIND, HeardPair, Scale, Sound, listening_page, pair_of, set_id
from qrecipe.report.serve import Response, Site, message
from qrecipe.run.record import RunRecord, require_record
from qrecipe.run.store import RunStore


@dataclass(frozen=True)
class ListenRequest:
    """Pairs that are heard, and how they are asked for."""

    target: str
    """A run's folder, `runs/NAME@STAGE`, or a bundle."""
    against: str = "base"
    """`base`, or a stage of the run."""
    data: str | None = None
    """One dataset; default: all that both spoke."""
    pairs: int = 20
    """At most so many sentences."""
    runs: Path = Path("runs")
    """Where the run of a bundle is looked for."""


def pairs_of(request: ListenRequest) -> tuple[str, list[HeardPair]]:
    """A title, and the pairs that two states of a run spoke. Raises `UserError`."""
    folder, record, stage = _run(request)
    place = Place(request.target)
    store = RunStore(folder)
    model = _said(store, _state(record, stage, place))
    other = _said(store, _state(record, request.against, Place("--against")))
    datasets = {w[0] for w in model.keys() & other.keys()}
    if request.data is not None and request.data not in datasets:
        raise UserError(Problem("QR020", f"both spoke no `{request.data}`", Place("--data"), suggest(request.data, datasets)))
    both = sorted(w for w in model.keys() & other.keys() if request.data in (None, w[0]))
    sounds = [(w[2], _sound(model[w]), _sound(other[w])) for w in both]
    pairs = [pair_of(text, a, b) for text, a, b in sounds if a.sha256 != b.sha256]
    if not pairs:
        help_ = "a gate on generated speech, or on `preference`, lets a run keep what both say of the same prompts"
        raise UserError(Problem("QR045", f"{stage} and {request.against} said nothing that can be compared", place, help_))
    # a set that is too long keeps sentences from everywhere
    step = max(1.0, len(pairs) / request.pairs)
    return f"{record.recipe}: two readings", [pairs[int(i * step)] for i in range(min(len(pairs), request.pairs))]


def _run(request: ListenRequest) -> tuple[Path, RunRecord, str]:
    """The run's folder, its record, and the stage that is heard."""
    folder, stage = Path(request.target), ""
    if not folder.exists():
        name, _, stage = request.target.rpartition("@")
        folder = Path(name) if name else folder
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        own = request.runs / manifest.name
        record = require_record(own)
        if record.plan != manifest.plan:
            message_ = f"{own} holds another run than the one that made this bundle"
            raise UserError(Problem("QR070", message_, Place(request.target), "give `--runs`, or run its recipe again"))
        folder = own
    else:
        record = require_record(folder)
    if not stage and not record.kept:
        raise UserError(Problem("QR020", "the run kept no stage", Place(request.target), "name one: RUNS/NAME@STAGE"))
    return folder, record, stage or record.kept[-1]


def _state(record: RunRecord, name: str, place: Place) -> str:
    """Fingerprint of the base or of a stage."""
    if name == "base":
        return record.start
    if name not in record.results:
        raise UserError(Problem("QR020", f"the run has no stage `{name}`", place, suggest(name, ["base", *record.results])))
    return record.results[name]


def _said(store: RunStore, state: str) -> dict[Where, Path]:
    return dict(stored_samples(store.stage_folder(state) / "samples"))


def _sound(file: Path) -> Sound:
    samples, _ = soundfile.read(str(file), dtype="float32")
    return Sound(hashlib.sha256(samples.tobytes()).hexdigest(), file.read_bytes())


def listening_site(title: str, pairs: list[HeardPair], scale: Scale, votes: Path) -> Site:
    """The page with its sounds; ballots that are sent are checked and written into `votes`."""
    sounds = {f"/sound/{s.sha256}": s for p in pairs for s in p.sounds}
    allowed = {frozenset(s.sha256 for s in p.sounds) for p in pairs}
    name = set_id(pairs)[:8]

    def get(path: str) -> Response | None:
        if path == "/":
            return Response(listening_page(title, pairs, scale, "/ballot", site.token).encode(), "text/html; charset=utf-8")
        sound = sounds.get(path)
        return None if sound is None else Response(sound.content, KIND)

    def post(path: str, body: bytes) -> Response | None:
        if path != "/ballot":
            return None
        ballot = _received(body)
        if isinstance(ballot, Problems):
            return message(ballot[0].message, 400)
        if any(frozenset((a.first, a.second)) not in allowed for a in ballot.answers):
            return message("these answers are of other sounds: load the page again", 409)
        file = votes / f"{ballot.listener}-{name}.json"
        if file.exists():
            return message(f"`{ballot.listener}` has answered already: take another name", 409)
        write_json(file, ballot.model_dump(mode="json"))
        return message(f"Kept as {file}. This window can be closed.")

    site = Site(get, post)
    return site


def _received(body: bytes) -> Ballot | Problems:
    """Answers as a sealed ballot, or what is wrong with them."""
    place = Place("ballot")
    try:
        value = json.loads(body.decode("utf-8"))
        if not isinstance(value, dict):
            raise ValueError
        rest = {k: v for k, v in value.items() if k != "sha256"}
        return parse_ballot({**rest, "sha256": digest(rest)}, place)
    except (ValueError, RecursionError):  # also NaN, and halves of surrogate pairs
        return Problems([Problem("QR066", "the answers are no JSON object", place)])
