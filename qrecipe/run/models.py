"""Resolves a MODEL argument: a base, a bundle, or `runs/NAME@STAGE`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from qrecipe.bundle.verify import MANIFEST, read_manifest
from qrecipe.errors import BaseModelError, Place, Problem, UserError, nearest, suggest
from qrecipe.files import is_file
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import LocalBase
from qrecipe.inputs.fetch import resolve
from qrecipe.inputs.replacements import Replacements
from qrecipe.model.weights import Delta
from qrecipe.model.working import WorkingWeights
from qrecipe.plan.replacements import replacements_of
from qrecipe.recipe import load
from qrecipe.recipe.base import Base
from qrecipe.recipe.language import lead_frames
from qrecipe.run.events import Events
from qrecipe.run.record import RECORD, RunRecord, require_record
from qrecipe.run.session import Session, open_session
from qrecipe.run.store import RunStore
from qrecipe.world import World

SHOWN_LANGUAGES = 20
"""Languages that a help lists."""


def open_argument(model: str, hashes: FileHashes, events: Events, world: World | None = None) -> Session:
    """Opens what a MODEL argument names, whose work `world` shares. Raises `UserError`."""
    place = Place(model)
    folder, at_sign, stage = model.rpartition("@")
    if at_sign and (Path(folder) / RECORD).is_file():
        return _open_stage(Path(folder), stage, hashes, events, world)
    name, _, revision = model.partition("@") if "/" in model and not Path(model).exists() else (model, "", "")
    base = resolve(Base(model=name, revision=revision or None), Path.cwd(), place, hashes)
    return open_session(base, hashes, events, world)


class Habits(NamedTuple):
    """How a model learned a language: what text and speech for it have to be like."""

    replacements: Replacements = Replacements()
    lead: int = 0
    """Frames of silence before every sentence."""


def habits_of_model(model: str, language: str) -> Habits:
    """How a bundle, or a run of a recipe, speaks a language; nothing special for a base. Raises `UserError`."""
    folder, at_sign, _ = model.rpartition("@")
    if at_sign and (Path(folder) / RECORD).is_file():
        loaded = load(Path(require_record(Path(folder)).file))
        return Habits(replacements_of(loaded, language)[0], loaded.recipe.lead(language))
    if not is_file(Path(model) / MANIFEST):
        return Habits()
    languages = read_manifest(Path(model)).languages
    if language not in languages:
        return Habits()
    return Habits(Replacements.of(languages[language].replace), lead_frames(languages[language].lead))


def base_of_run(record: RunRecord, place: Place, hashes: FileHashes) -> LocalBase:
    """The base that a run used. Raises `UserError`."""
    return resolve(Base(model=record.base.model, revision=record.base.revision), Path(record.file).parent, place, hashes)


def _open_stage(folder: Path, stage: str, hashes: FileHashes, events: Events, world: World | None) -> Session:
    record, place = require_record(folder), Place(f"{folder}@{stage}")
    if stage not in record.results:
        raise UserError(Problem("QR020", f"the run has no stage `{stage}`", place, suggest(stage, record.results)))
    base = base_of_run(record, place, hashes)
    # what the stage learned on: the kept stages before it, whether or not it was kept itself
    earlier = list(record.results)[: list(record.results).index(stage)]
    states = [record.start, *(record.results[s] for s in earlier if s in record.kept), record.results[stage]]
    delta = stages_delta(RunStore(folder), states, place)
    base = replace(base, identity=f"{base.identity}+{states[-1]}", tags={**base.tags, **record.tags})
    session = open_session(base, hashes, events, world)
    working = WorkingWeights(session.opened)
    working.add_languages(record.languages)
    working.set(delta)
    return session


def stages_delta(store: RunStore, fingerprints: list[str], place: Place) -> Delta:
    """The merged result of stages. Raises `UserError` if one is not there any more."""
    merged = Delta()
    for fingerprint in fingerprints:
        stored = store.load_stage(fingerprint)
        if stored is None:
            raise UserError(Problem("QR070", f"the stage {fingerprint[:16]} is not in the run's folder any more", place))
        merged = merged.then(stored.delta)
    return merged


def language_of(session: Session, language: str, place: Place) -> str:
    """A language by the name that the model lists, in any case, or by its BCP 47 tag; or `auto`.

    A tag may say more or less than the model's own (`ms-MY`, `zh`), as long as it means one language. Raises `UserError`.
    """
    name = language.lower()
    listed: list[str] = sorted(session.opened.config.talker_config.codec_language_id)
    if name == "auto" or name in listed:
        return name
    tags = {k: session.base.tags[k].lower() for k in listed if k in session.base.tags}
    wanted = name.replace("_", "-")
    exact = [k for k, tag in tags.items() if tag == wanted]
    alike = [k for k, tag in tags.items() if tag.split("-")[0] == wanted.split("-")[0]]
    meant = exact or alike
    meant = [k for k in meant if "dialect" not in k] or meant  # Chinese and its dialects have one tag
    if len(meant) == 1:
        return meant[0]
    shown = [f"`{k}`" + (f" ({tags[k]})" if k in tags else "") for k in (meant or listed)[:SHOWN_LANGUAGES]]
    if meant:
        message, help_ = f"`{language}` may be one of several languages", f"give a name: {', '.join(shown)}"
    else:
        close = nearest(name, listed)
        message = f"the model does not list `{language}`"
        help_ = f"did you mean `{close}`?" if close else f"known: {', '.join(shown)}, `auto`"
    raise BaseModelError(Problem("QR020", message, place, help_))
