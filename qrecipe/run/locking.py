"""The lock beside a recipe: what a run resolved, for review. Holds nothing of one machine."""

from __future__ import annotations

import math
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from qrecipe.files import digest, write_json
from qrecipe.plan.bases import BaseInfo
from qrecipe.plan.documents import Lock, LockBase, LockStage
from qrecipe.plan.fingerprints import NUMERICS
from qrecipe.plan.plan import Planned
from qrecipe.plan.trainable import Trainable

PACKAGES = ("qrecipe", "qwen-tts", "torch", "transformers")
"""Packages whose versions change numbers."""


def versions() -> dict[str, str]:
    """Versions of the packages that change numbers."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name).split("+")[0]
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def make_lock(planned: Planned, base: BaseInfo) -> Lock:
    """The lock of a complete plan."""
    assert base.identity is not None
    assert base.tensors is not None
    plan = planned.plan
    return Lock(
        lock=1,
        recipe=plan.recipe,
        plan=plan.hash,
        base=LockBase(model=base.model, revision=base.revision, identity=base.identity, dtype=base.dtype),
        languages={k: v.token_id for k, v in plan.languages.items() if v.token_id is not None},
        datasets={k: v.sha256 for k, v in plan.datasets.items() if v.sha256 is not None},
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
            if chosen is None:
                tensors[tensor] = math.prod(shapes[tensor])
            else:
                tensors[tensor] = len(chosen) * shapes[tensor][1]
                rows[tensor] = digest(list(chosen))
    return LockStage(id=name, tensors=dict(sorted(tensors.items())), rows=dict(sorted(rows.items())))


def lock_path(recipe: Path) -> Path:
    """`NAME.lock` beside `NAME.yaml`."""
    return recipe.with_suffix(".lock")


def write_lock(lock: Lock, path: Path) -> bool:
    """Writes the lock; False if its folder cannot be written to, which is no reason not to train."""
    try:
        write_json(path, lock.model_dump(mode="json"))
    except OSError:
        return False
    return True
