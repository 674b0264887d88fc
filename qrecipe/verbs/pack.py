"""`pack` and `bundle build --packs`: a language as a file of its own, and several of them on one base, judged again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from qrecipe.bundle.build import Composition, build_packs
from qrecipe.bundle.merge import MergeRule, Shared, merge, place_rows, require_fit
from qrecipe.bundle.pack import SUFFIX, Pack, read_pack, write_pack
from qrecipe.bundle.verify import read_manifest
from qrecipe.data.lead import with_lead
from qrecipe.data.prepare import Requirements, prepare
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.errors import BundleError, DataError, Place, Problem, Problems, RecipeError
from qrecipe.evaluate.evaluators import EvaluatorChoice, EvaluatorSet
from qrecipe.files import digest
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import LocalBase
from qrecipe.inputs.documents.ballots import Ballot
from qrecipe.inputs.documents.bundle import PackJudging, PackManifest
from qrecipe.inputs.documents.verdicts import Verdict
from qrecipe.inputs.fetch import resolve
from qrecipe.inputs.manifest import read_manifest as read_rows
from qrecipe.inputs.weight_files import weight_files
from qrecipe.model.languages import initial_rows, require_free
from qrecipe.model.load import LoadedBase
from qrecipe.model.working import WorkingWeights
from qrecipe.plan import complete_plan
from qrecipe.plan.complete import RunPlan
from qrecipe.recipe import load
from qrecipe.recipe.base import Base
from qrecipe.recipe.dataset import SpeechDataset
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.judges import is_taught
from qrecipe.recipe.language import lead_frames
from qrecipe.recipe.metrics import PREFERENCE, spec_of
from qrecipe.recipe.recipe import NAME, VERSION, Evaluation
from qrecipe.run.datasets import Prepared, prepare_all
from qrecipe.run.events import Events, Listener
from qrecipe.run.judging import Baselines, Judge
from qrecipe.run.session import Session, open_session
from qrecipe.run.store import RunStore
from qrecipe.run.synthetic import prepare_synthetic
from qrecipe.store import Journal

MAX_SECONDS = 600.0
"""Of a recording in a pack: its own recipe has checked how long it may be."""


def pack(bundle: Path, recipe: Path | None, out: Path | None, listener: Listener | None = None) -> tuple[Path, PackManifest]:
    """Writes the pack of a bundle, with the data that its gates read. Raises `UserError`.

    `recipe` is the recipe that the bundle was made from; default: the file of its name, here or in `recipes/`.
    """
    manifest = read_manifest(bundle)
    plan = complete_plan(load(recipe or _recipe_of(manifest.name)))
    if plan.plan.hash != manifest.plan:
        help_ = "check out the recipe as it was when the bundle was built"
        raise BundleError(
            Problem("QR060", f"the bundle was made from another plan than {plan.loaded.file} is now", Place(str(bundle)), help_)
        )
    events = Events(None, listener)
    data = _judging_data(plan, open_session(plan.base, plan.hashes, events)) if plan.loaded.recipe.accept else {}
    spec = plan.loaded.recipe
    judging = PackJudging(
        accept=[g for g in spec.accept if g.metric != PREFERENCE],
        datasets={name: d.language for name, d in data.items()},
        settings=dict(spec.languages),
        evaluation=spec.evaluation,
        evaluators=spec.evaluators,
        rewarded=sorted({g.metric for g in spec.accept if is_taught(spec, g.metric, "accept")}),
    )
    files: dict[str, bytes] = {}
    for name, dataset in data.items():
        lines = [json.dumps(_line(row, files), ensure_ascii=False) + "\n" for row in dataset.rows]
        files[f"data/{name}.jsonl"] = "".join(lines).encode()
    target = out or Path(f"{manifest.name}-{manifest.version}{SUFFIX}")
    return target, write_pack(bundle, plan.base, judging, files, target)


def _recipe_of(name: str) -> Path:
    for file in (Path(f"{name}.yaml"), Path("recipes") / f"{name}.yaml"):
        if file.is_file():
            return file
    message = f"the gates' data come from the recipe of `{name}`, and there is no {name}.yaml here or in recipes/"
    raise RecipeError(Problem("QR070", message, Place("--recipe"), "give --recipe FILE"))


def _judging_data(plan: RunPlan, session: Session) -> dict[str, SpeechData]:
    """The datasets that `accept` reads; texts in a language of the base are spoken by it, as in a run."""
    names = list(dict.fromkeys(g.data for g in plan.loaded.recipe.accept if g.metric != PREFERENCE))
    spoken = [n for n in names if n in plan.synthetic]
    recorded = prepare_all(plan, session, [n for n in names if n not in spoken]).speech
    return {**recorded, **prepare_synthetic(plan, session, spoken)}


def _line(row: SpeechRow, files: dict[str, bytes]) -> dict[str, Any]:
    """A row as a line of the pack's manifest; its recordings are added to `files` under names made of their content."""

    def stored(path: Path) -> str:
        content = path.read_bytes()
        suffix = path.suffix.lower() if re.fullmatch(r"\.[a-z0-9]{1,8}", path.suffix.lower()) else ""
        name = hashlib.sha256(content).hexdigest()[:32] + suffix
        files[f"data/{name}"] = content
        return name

    line: dict[str, Any] = {"text": row.text}
    line |= {"audio": stored(row.audio)} if row.audio is not None else {"audio_codes": row.codes.tolist()}
    if row.reference is not None:
        line["reference"] = stored(row.reference)
    if row.reference_text is not None:
        line["reference_text"] = row.reference_text
    if row.speaker:
        line["speaker"] = row.speaker
    return line | ({"cut": True} if row.cut else {})


@dataclass(frozen=True)
class PackRequest:
    """Packs and how they are put together."""

    packs: Sequence[Path]
    name: str
    version: str
    base: str | None = None
    """Folder of the base; default: the base that the packs name."""
    rule: MergeRule = "sum"
    """How weights that several packs changed are merged."""
    runs: Path = Path("runs")
    bundles: Path = Path("bundles")


@dataclass
class ComposedPacks:
    """How packs went together."""

    bundle: Path | None
    """None if a gate did not pass."""
    rows: dict[str, int]
    shared: list[Shared]
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    """By pack."""

    def as_json(self) -> dict[str, Any]:
        """The last line of the command line's output."""
        return {
            "status": "accepted" if self.bundle else "rejected",
            "bundle": str(self.bundle) if self.bundle else None,
            "rows": self.rows,
            "shared": [s.as_json() for s in self.shared],
            "verdicts": {name: [v.as_json() for v in vs] for name, vs in self.verdicts.items()},
        }


def compose(request: PackRequest, listener: Listener | None = None) -> ComposedPacks:
    """Puts packs onto one base, judges the gates of all of them again, and writes a bundle if they pass.

    Values and samples are stored in the run's folder, so that the same command resumes. Raises `UserError`.
    """
    _check_names(request)
    packs = [read_pack(path) for path in request.packs]
    hashes = FileHashes()
    first = packs[0].manifest.base
    name = request.base or first.model
    place = Place("--base") if request.base else Place(str(packs[0].path))
    base = resolve(Base(model=name, revision=None if request.base else first.revision), Path.cwd(), place, hashes)
    require_fit(packs, base)

    # languages get their rows, and what several packs changed is merged or refused, before anything is loaded
    rows, deltas = place_rows(packs, base)
    delta, shared = merge([p.manifest.name for p in packs], deltas, lambda tensor: _tensor(base, tensor))
    if shared and request.rule == "refuse":
        places = "; ".join(f"{s.tensor}: {s.elements:,} of {s.of:,} elements ({', '.join(s.packs)})" for s in shared[:8])
        raise BundleError(
            Problem("QR064", f"packs change the same weights: {places}", Place("--merge"), "`--merge sum` adds their changes up")
        )
    composition = Composition(request.name, request.version, base, tuple(packs), rows, delta, request.rule)
    composition.target(request.bundles)

    # the gates of every pack are judged on the weights that the bundle gets
    store = RunStore(request.runs / request.name)
    composed = ComposedPacks(None, rows, shared)
    with store.held():
        events = Events(store.folder / "events.jsonl", listener)
        try:
            events.emit("languages", rows=rows)
            session = open_session(base, hashes, events)
            working = WorkingWeights(session.opened)
            for key, row in rows.items():
                require_free(session.opened.net, row, base.languages, Place(key), automatic=True)
            working.add_languages(rows)
            for one in packs:
                bench = _bench(one, session, store.folder / one.manifest.name)
                composed.verdicts[one.manifest.name] = _judged(one, bench, working, composition)
            session.opened.close()
        finally:
            events.close()
    if all(v.counts_as_pass for verdicts in composed.verdicts.values() for v in verdicts):
        composed.bundle = build_packs(composition, composed.verdicts, request.bundles)
    return composed


def _check_names(request: PackRequest) -> None:
    for option, value, pattern in (("--name", request.name, NAME), ("--version", request.version, VERSION)):
        if not re.match(pattern, value):
            raise RecipeError(Problem("QR070", f"`{value}` cannot be used", Place(option), "such as `malay-turkish` and `0.1.0`"))


def _tensor(base: LocalBase, name: str) -> torch.Tensor:
    for file in weight_files(base.folder):
        with safe_open(str(file), framework="pt") as f:
            if name in f.keys():  # noqa: SIM118  # not a dict
                tensor: torch.Tensor = f.get_tensor(name)
                return tensor
    raise AssertionError("every name was compared with the base's")


@dataclass(frozen=True)
class _Bench:
    """Context in which the gates of one pack are judged: its data, its settings, its evaluators."""

    base: LocalBase
    opened: LoadedBase
    events: Events
    store: RunStore
    data: Prepared
    evaluators: EvaluatorSet
    evaluation: Evaluation
    start_state: str
    contents: dict[str, str]
    metrics_of_rewards: tuple[str, ...]

    def content(self, dataset: str) -> str | None:
        """Hash of a dataset."""
        return self.contents[dataset]

    def ballots(self, gate: Gate) -> list[Ballot]:
        """None: nobody has heard what packs say together."""
        return []

    def rewarded(self, metric: str, where: str) -> bool:
        """Whether a stage of the pack's own run was rewarded by a metric."""
        return metric in self.metrics_of_rewards


def _bench(one: Pack, session: Session, folder: Path) -> _Bench:
    """Unpacks and encodes the data of a pack. Raises `UserError` where an evaluator is missing."""
    one.extract(folder)
    judging, prepared = one.manifest.judging, Prepared()
    for name, language in judging.datasets.items():
        path = folder / "data" / f"{name}.jsonl"
        manifest = read_rows(path, "speech", session.opened.tokenizer)
        (manifest.problems.errors or manifest.problems).raise_any(DataError)
        dataset = SpeechDataset(kind="speech", language=language, path=str(path), max_seconds=MAX_SECONDS)
        requirements = Requirements(need_reference=False)
        data = prepare(name, dataset, manifest, session.encoder, requirements)
        own = one.manifest.languages.get(language)
        prepared.speech[name] = with_lead(session.opened, data, 0 if own is None else lead_frames(own.lead))
    tags = {k: v.bcp47 for k, v in one.manifest.languages.items() if v.bcp47}
    choice = EvaluatorChoice(judging.evaluators, Path.cwd(), tags)
    evaluators = EvaluatorSet(session.opened, session.base.identity, choice, session.hashes, Journal(folder / "heard.jsonl"))
    problems = Problems()
    for gate in judging.accept:
        if not gate.optional and (missing := evaluators.missing(spec_of(gate.metric))) is not None:
            problems.append(missing)
    problems.raise_any(BundleError)
    contents = {n: hashlib.sha256(one.files[f"data/{n}.jsonl"]).hexdigest() for n in judging.datasets}
    start = digest([session.base.identity, one.id.model_dump(mode="json")])
    return _Bench(
        session.base,
        session.opened,
        session.events,
        RunStore(folder),
        prepared,
        evaluators,
        judging.evaluation,
        start,
        contents,
        tuple(judging.rewarded),
    )


def _judged(one: Pack, bench: _Bench, working: WorkingWeights, composition: Composition) -> list[Verdict]:
    """Verdicts of a pack's gates on the composition; relative ones compare with the base and the languages at their init."""
    gates, judge = one.manifest.judging.accept, Judge(bench)
    baselines = Baselines({})
    if any(g.baseline == "base" for g in gates):
        chosen = {k: (composition.rows[k], v) for k, v in one.manifest.judging.settings.items()}
        working.set(initial_rows(bench.opened.net, chosen, composition.base.languages))
        baselines = Baselines(judge.baseline(gates, "base", bench.start_state), judge.best_languages(gates, bench.start_state))
    working.set(composition.delta)
    return judge.judge(gates, composition.hash, one.manifest.name, baselines)
