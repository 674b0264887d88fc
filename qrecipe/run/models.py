"""What a MODEL argument means: a base, a bundle, or `runs/NAME@STAGE`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qrecipe.errors import BaseModelError, Place, Problem, UserError, suggest
from qrecipe.files import FileHashes
from qrecipe.model.opened import Opened, open_model, resolve
from qrecipe.model.weights import Delta
from qrecipe.model.working import WorkingWeights
from qrecipe.plan.bases import BaseInfo
from qrecipe.recipe.base import Base
from qrecipe.run.store import RunStore


def open_argument(model: str, hashes: FileHashes) -> tuple[Opened, BaseInfo]:
    """Opens what a MODEL argument names. Raises `UserError`."""
    place = Place(model)
    folder, at_sign, stage = model.rpartition("@")
    if at_sign and (Path(folder) / "run.json").is_file():
        return _open_stage(Path(folder), stage, hashes)
    name, _, revision = model.partition("@") if "/" in model and not Path(model).exists() else (model, "", "")
    info = resolve(Base(model=name, revision=revision or None), Path.cwd(), place, hashes)
    return open_model(info), info


def base_of_run(store: RunStore, place: Place, hashes: FileHashes) -> BaseInfo:
    """The base that a run used."""
    latest = store.latest()
    if latest is None:
        raise UserError(Problem("QR070", "this folder holds no run", place))
    base = latest["base"]
    return resolve(Base(model=base["model"], revision=base["revision"]), Path(latest["file"]).parent, place, hashes)


def _open_stage(folder: Path, stage: str, hashes: FileHashes) -> tuple[Opened, BaseInfo]:
    store = RunStore(folder)
    latest = store.latest()
    assert latest is not None
    done = [s for s in latest["stages"] if s["fingerprint"]]
    ids = [s["id"] for s in done]
    place = Place(f"{folder}@{stage}")
    if stage not in ids:
        raise UserError(Problem("QR020", f"the run has no stage `{stage}`", place, suggest(stage, ids)))
    info = base_of_run(store, place, hashes)
    opened = open_model(info)
    working = WorkingWeights(opened)
    working.add_languages(latest["languages"])
    wanted = [s["fingerprint"] for s in done[: ids.index(stage) + 1] if s["status"] == "kept" or s["id"] == stage]
    states = [latest["start"], *wanted]
    working.set(stages_delta(store, states, place))
    return opened, replace(info, identity=f"{info.identity}+{states[-1]}")


def stages_delta(store: RunStore, fingerprints: list[str], place: Place) -> Delta:
    """The merged result of stages. Raises `UserError` if one is not there any more."""
    merged = Delta()
    for fingerprint in fingerprints:
        stored = store.load_stage(fingerprint)
        if stored is None:
            raise UserError(Problem("QR070", f"the stage {fingerprint[:16]} is not in the run's folder any more", place))
        merged = merged.then(stored.delta)
    return merged


def language_of(opened: Opened, language: str, place: Place) -> str:
    """A language that the model lists, or `auto`. Raises `UserError`."""
    listed = dict(opened.config.talker_config.codec_language_id)
    if language != "auto" and language not in listed:
        raise BaseModelError(Problem("QR020", f"the model does not list `{language}`", place, suggest(language, [*listed, "auto"])))
    return language
