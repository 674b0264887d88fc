"""Why a stage trains or is reused: the inputs of a plan, compared with those of the run before it.

Reads and writes `inputs.json` of a run's folder. Never imports torch, so that `plan` can say it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from qrecipe.files import digest, read_json, write_json
from qrecipe.hashes import FileHashes
from qrecipe.inputs.contents import row_hashes
from qrecipe.plan.changes import Changed, changes
from qrecipe.plan.planned import Planned

INPUTS = "inputs.json"
SHOWN = 6
"""Differences of one stage that are named."""
LONGEST = 40
"""Characters of a value that are shown."""

StageState = Literal["done", "resumes", "new", "changed", "unknown"]


@dataclass(frozen=True)
class Standing:
    """State of a stage before a run."""

    state: StageState
    why: list[str]
    """For `changed`: every difference. For `resumes`: after which step."""

    def __str__(self) -> str:
        if self.state == "done":
            return "done before"
        if self.state == "resumes":
            return f"goes on {self.why[0]}"
        if self.state == "changed":
            more = f"; and {len(self.why) - SHOWN} more" if len(self.why) > SHOWN else ""
            return "trains again: " + "; ".join(self.why[:SHOWN]) + more
        return ""


class DatasetInputs(BaseModel):
    """A dataset, with a hash of every row."""

    path: str
    sha256: str | None
    rows: list[str]


class StoredInputs(BaseModel):
    """`StageInputs` with long lists as hashes."""

    settings: dict[str, Any]
    measured: list[Any] | None
    data: list[str]
    taught: list[tuple[str, str | None]] = []
    """Names and hashes of what the base speaks or respells for it."""
    trains: str
    fingerprint: str | None


class Inputs(BaseModel):
    """inputs.json: what a run was to do."""

    start: dict[str, Any]
    datasets: dict[str, DatasetInputs]
    stages: dict[str, StoredInputs]

    def write(self, folder: Path) -> None:
        """Keeps them in a run's folder for the next run to compare with."""
        write_json(folder / INPUTS, self.model_dump(mode="json"))


def inputs_of(planned: Planned, hashes: FileHashes) -> Inputs:
    """The inputs of a plan, as a run's folder keeps them."""
    plan = planned.plan
    datasets = {}
    for name, dataset in plan.datasets.items():
        manifest = planned.manifests.get(name)
        rows = [h[:12] for h in row_hashes(manifest, hashes)] if manifest else []
        datasets[name] = DatasetInputs(path=planned.loaded.recipe.datasets[name].path, sha256=dataset.sha256, rows=rows)
    stages = {
        stage.id: StoredInputs(
            settings=stage.inputs.settings,
            measured=stage.inputs.measured,
            data=stage.inputs.datasets,
            taught=[(t.dataset, t.digest) for t in stage.taught],
            trains=digest(stage.inputs.trained),
            fingerprint=stage.fingerprint,
        )
        for stage in plan.stages
    }
    _, numerics, base, languages, seed = plan.start
    start = {"numerics of the engine": numerics, "base": base, "languages": languages, "seed": seed}
    return Inputs(start=start, datasets=datasets, stages=stages)


def read_inputs(folder: Path) -> Inputs | None:
    """The inputs of the last run of a folder; None if there are none that this version can read."""
    try:
        return Inputs.model_validate(read_json(folder / INPUTS))
    except (OSError, ValueError):  # a `ValidationError` is a `ValueError`
        return None


def standings(planned: Planned, folder: Path, hashes: FileHashes) -> dict[str, Standing]:
    """The state of every stage of a plan in a run's folder."""
    before = read_inputs(folder)
    now = inputs_of(planned, hashes) if before is not None else None
    result: dict[str, Standing] = {}
    for stage in planned.plan.stages:
        earlier = next((s for s, standing in result.items() if standing.state == "changed"), None)
        result[stage.id] = _in_folder(folder, stage.fingerprint) or _compared(stage.id, now, before, earlier)
    return result


def _in_folder(folder: Path, fingerprint: str | None) -> Standing | None:
    """Whether a stage is finished there or was begun; None if neither."""
    if fingerprint is None:
        return Standing("unknown", [])
    stored = folder / "stages" / fingerprint[:16]
    if (stored / "result.json").is_file():
        return Standing("done", [])
    checkpoints = sorted(f.name for f in (stored / "checkpoints").glob("step-????????"))
    return Standing("resumes", [f"after step {int(checkpoints[-1].removeprefix('step-'))}"]) if checkpoints else None


def _compared(name: str, now: Inputs | None, before: Inputs | None, earlier: str | None) -> Standing:
    """Why a stage that is not in the folder trains; `earlier` is a stage before it that trains again."""
    if now is None or before is None:
        return Standing("new", [])
    old = before.stages.get(name)
    if old is None or old.fingerprint == now.stages[name].fingerprint:
        return Standing("new", [])  # in the last case it was to be trained and has not begun
    why = [*map(_short, changes(before.start, now.start)), *_differences(old, now.stages[name])]
    for dataset in now.stages[name].data:
        why += _rows(dataset, before.datasets.get(dataset), now.datasets[dataset])
    if earlier is not None:
        why.append(f"`{earlier}` before it trains again")
    return Standing("changed", why or ["the stages before it changed"])


def _differences(old: StoredInputs, new: StoredInputs) -> Iterator[str]:
    yield from map(_short, changes(old.settings, new.settings))
    if old.measured != new.measured:
        yield "how `select` measures changed"
    if old.taught != new.taught:
        yield "what the base says for it changed: sentences, spelling, voices or `teacher`"
    if old.trains != new.trains:
        yield "other rows or tensors train"


def _rows(name: str, old: DatasetInputs | None, new: DatasetInputs) -> Iterator[str]:
    """How the content of a dataset changed."""
    if old is None or old.sha256 == new.sha256:
        return
    was, now = Counter(old.rows), Counter(new.rows)
    added, gone = (now - was).total(), (was - now).total()
    if added and added == gone:
        yield f"data changed: {added} row{'s' if added != 1 else ''} of {new.path}"
    elif added or gone:
        parts = [f"{n} rows {what}" for n, what in ((added, "more"), (gone, "fewer")) if n]
        yield f"data changed: {' and '.join(parts)} in {new.path}"
    else:
        yield f"data changed: the order of {new.path}, or the reference or limits of `{name}`"


def _short(changed: Changed) -> str:
    return str(changed._replace(before=_cut(changed.before), after=_cut(changed.after)))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
