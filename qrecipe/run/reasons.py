"""Why a stage trains or is reused: what a run was asked to do, compared with what the run before it was asked to do.

Reads and writes `inputs.json` of a run's folder. Never imports torch, so that `plan` can say it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qrecipe.files import FileHashes, digest, read_json, write_json
from qrecipe.plan.contents import row_content
from qrecipe.plan.plan import Planned

INPUTS = "inputs.json"
SHOWN = 6
"""Differences of one stage that are named."""

State = Literal["done", "resumes", "new", "changed", "unknown"]


@dataclass(frozen=True)
class Standing:
    """Where a stage stands before a run."""

    state: State
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


def inputs(planned: Planned, hashes: FileHashes) -> dict[str, Any]:
    """What a run is asked to do, in plain data that can be compared later."""
    plan, recipe = planned.plan, planned.loaded.recipe
    datasets = {}
    for name, dataset in plan.datasets.items():
        manifest = planned.manifests.get(name)
        rows = [digest(row_content(r, hashes))[:12] for r in manifest.rows] if manifest else []
        datasets[name] = {"path": recipe.datasets[name].path, "sha256": dataset.sha256, "rows": rows}
    stages = {}
    for stage, resolved in zip(recipe.stages, plan.stages, strict=True):
        trainable = planned.trainables[stage.id]
        stages[stage.id] = {
            "settings": stage.model_dump(mode="json", by_alias=True, exclude={"gates", "on_pass", "on_fail"}),
            "measured": [recipe.evaluation.layouts, recipe.evaluation.prompt] if stage.select else None,
            "data": [u.dataset for u in stage.uses] + ([stage.select.data] if stage.select else []),
            "taught": [[t.dataset, t.digest] for t in resolved.taught],
            "trains": digest([[g.tensors, g.rows] for g in trainable.groups]),
            "fingerprint": resolved.fingerprint,
        }
    start = {
        "numerics of the engine": plan.numerics,
        "base": plan.base.identity,
        "languages": {k: v.model_dump() for k, v in plan.languages.items()},
        "seed": plan.seed,
    }
    return {"start": start, "datasets": datasets, "stages": stages}


def standings(planned: Planned, folder: Path, hashes: FileHashes) -> dict[str, Standing]:
    """Where every stage of a plan stands in a run's folder."""
    now, before = inputs(planned, hashes), read(folder)
    found: dict[str, Standing] = {}
    changed: str | None = None
    for name, stage in now["stages"].items():
        standing = _standing(name, stage, now, before, folder, changed)
        if standing.state == "changed" and changed is None:
            changed = name
        found[name] = standing
    return found


def write(folder: Path, value: dict[str, Any]) -> None:
    """Keeps what this run was asked to do for the next one to compare with."""
    write_json(folder / INPUTS, value)


def read(folder: Path) -> dict[str, Any] | None:
    """What the last run of this folder was asked to do."""
    try:
        value = read_json(folder / INPUTS)
        return value if {"start", "datasets", "stages"} <= value.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _standing(
    name: str, stage: dict[str, Any], now: dict[str, Any], before: dict[str, Any] | None, folder: Path, changed: str | None
) -> Standing:
    fingerprint = stage["fingerprint"]
    if fingerprint is None:
        return Standing("unknown", [])
    stored = folder / "stages" / fingerprint[:16]
    if (stored / "result.json").is_file():
        return Standing("done", [])
    checkpoints = sorted(f.name for f in (stored / "checkpoints").glob("step-????????"))
    if checkpoints:
        return Standing("resumes", [f"after step {int(checkpoints[-1].removeprefix('step-'))}"])
    if before is None or name not in before["stages"]:
        return Standing("new", [])
    old = before["stages"][name]
    if old["fingerprint"] == fingerprint:
        return Standing("new", [])  # was to be trained and has not begun
    why = list(_differences(before["start"], now["start"], ""))
    why += _differences(old["settings"], stage["settings"], "")
    if old["measured"] != stage["measured"]:
        why.append("how `select` measures changed")
    for dataset in stage["data"]:
        why += _data(dataset, before["datasets"].get(dataset), now["datasets"][dataset])
    if old.get("taught", []) != stage["taught"]:
        why.append("what the base says for it changed: sentences, spelling, voices or `teacher`")
    if old["trains"] != stage["trains"]:
        why.append("other rows or tensors train")
    if changed is not None:
        why.append(f"`{changed}` before it trains again")
    return Standing("changed", why or ["the stages before it changed"])


def _data(name: str, old: dict[str, Any] | None, new: dict[str, Any]) -> Iterator[str]:
    if old is None or old["sha256"] == new["sha256"]:
        return
    was, now = Counter(old["rows"]), Counter(new["rows"])
    added, gone = (now - was).total(), (was - now).total()
    if added and added == gone:
        yield f"data changed: {added} row{'s' if added != 1 else ''} of {new['path']}"
    elif added or gone:
        parts = [f"{n} rows {what}" for n, what in ((added, "more"), (gone, "fewer")) if n]
        yield f"data changed: {' and '.join(parts)} in {new['path']}"
    else:
        yield f"data changed: the order of {new['path']}, or the reference or limits of `{name}`"


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    """Where two plain values differ, as `path: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _differences(a, b, f"{path}.{i}")
    elif old != new:
        yield f"{path}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value) if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
