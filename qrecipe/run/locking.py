"""The lock beside a recipe: what a run resolved, for review. Holds nothing of one machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from qrecipe.errors import Place, Problem, Problems, UserError
from qrecipe.files import digest, read_json, write_json
from qrecipe.inputs.documents.check import check
from qrecipe.inputs.documents.lock import Lock, LockBase, LockStage
from qrecipe.inputs.evaluators import version_of
from qrecipe.plan.changes import changes
from qrecipe.plan.complete import RunPlan, as_complete
from qrecipe.plan.fingerprints import NUMERICS
from qrecipe.plan.planned import Planned
from qrecipe.plan.trainable import Trainable

PACKAGES = ("peft", "qrecipe", "qwen-tts", "torch", "transformers")
"""Packages whose versions change numbers."""


def versions() -> dict[str, str]:
    """Versions of the packages that change numbers."""
    return {name: version_of(name).split("+")[0] for name in PACKAGES}


def make_lock(planned: RunPlan) -> Lock:
    """The lock of a complete plan."""
    plan, base = planned.plan, planned.base
    return Lock(
        lock=1,
        recipe=plan.recipe,
        plan=plan.hash,
        base=LockBase(model=base.model, revision=base.revision, identity=base.identity, dtype=base.dtype),
        languages=planned.rows,
        datasets={k: v.sha256 for k, v in plan.datasets.items() if v.sha256 is not None},
        evaluators={k: v.identity for k, v in plan.evaluators.items() if v.identity is not None},
        taught={f"{s.id}.{t.dataset}": t.digest for s in plan.stages for t in s.taught if t.digest is not None},
        stages=[lock_stage(s.id, planned.trainables[s.id], base.tensors) for s in plan.stages],
        numerics=NUMERICS,
        versions=versions(),
    )


def lock_stage(name: str, trainable: Trainable, shapes: dict[str, tuple[int, ...]]) -> LockStage:
    """A stage's exact trainable set. `shapes` are those of the base's tensors."""
    tensors: dict[str, int] = {}
    rows: dict[str, str] = {}
    for group in trainable.groups:
        for tensor in group.tensors:
            chosen = trainable.rows_of(tensor)
            if group.train.lora is not None:
                tensors[tensor] = group.train.lora.rank * sum(shapes[tensor])
            elif chosen is None:
                tensors[tensor] = math.prod(shapes[tensor])
            else:
                tensors[tensor] = len(chosen) * shapes[tensor][1]
                rows[tensor] = digest(list(chosen))
    return LockStage(id=name, tensors=dict(sorted(tensors.items())), rows=dict(sorted(rows.items())))


def lock_path(recipe: Path) -> Path:
    """`NAME.lock` beside `NAME.yaml`."""
    return recipe.with_suffix(".lock")


def read_lock(path: Path) -> Lock:
    """The lock in a file. Raises `UserError`."""
    place = Place(str(path))
    try:
        value = read_json(path)
    except FileNotFoundError:
        raise UserError(Problem("QR072", "there is no lock", place, "run once without `--locked` and commit what is written")) from None
    except (OSError, ValueError) as e:
        raise UserError(Problem("QR062", f"cannot be read: {e}", place)) from None
    check("lock", value, place).raise_any(UserError)
    return Lock.model_validate(value)


def differences(old: Lock, new: Lock) -> list[str]:
    """Everything in which two locks differ, in the order of the file."""
    return [f"{c.path}: {c.before} in the lock, {c.after} now" for c in changes(_by_stage(old), _by_stage(new))]


def _by_stage(lock: Lock) -> dict[str, Any]:
    """The lock with its stages by their names instead of in a list."""
    plain = lock.model_dump(mode="json")
    stages = {s.pop("id"): {"place": i, **s} for i, s in enumerate(plain.pop("stages"), 1)}
    return {**plain, "stages": stages}


def drift(planned: Planned) -> Problems:
    """Differences between what would run and the lock beside the recipe. Raises `UserError` if there is no readable lock."""
    path = lock_path(planned.loaded.file)
    old = read_lock(path)
    complete = as_complete(planned)
    if complete is None:
        message = "cannot be compared: the base or some data is not on this machine"
        return Problems([Problem("QR072", message, Place(str(path)), "the warnings name what is missing")])
    help_ = "run without `--locked` if it is meant, and commit the new lock"
    return Problems(Problem("QR072", d, Place(str(path)), help_) for d in differences(old, make_lock(complete)))


def require_lock(planned: Planned) -> None:
    """Raises `UserError` for whatever differs from the lock beside the recipe, and if there is none."""
    drift(planned).raise_any(UserError)


def write_lock(lock: Lock, path: Path) -> bool:
    """Writes the lock; False if its folder cannot be written to, which is no reason not to train."""
    try:
        write_json(path, lock.model_dump(mode="json"))
    except OSError:
        return False
    return True
