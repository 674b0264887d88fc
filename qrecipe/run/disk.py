"""Disk space that a run needs, computed from its plan before it starts. An upper bound; never imports torch."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qrecipe.errors import Place, Problem, Problems, UserError
from qrecipe.files import cache_dir
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import BaseInfo, base_files
from qrecipe.plan.compute import BF16
from qrecipe.plan.estimates import SPEECH_TOKENIZER, estimates
from qrecipe.plan.planned import Planned
from qrecipe.plan.synthetic import bytes_of
from qrecipe.plan.trainable import Trainable
from qrecipe.run.record import read_record

FLOAT = 4
"""Bytes of a trained number on disk."""
SMALL = 100_000_000
"""Numbers of a base that trains on a CPU, too, where AdamW's moments are stored in float32 and not in bfloat16."""
SLACK = 64 << 20
"""For events, values, samples and what a file system needs itself."""


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that one folder needs."""

    what: str
    folder: Path
    bytes: int


def needs(planned: Planned, run: Path, bundles: Path, done: Collection[str] = (), hashes: FileHashes | None = None) -> list[DiskNeed]:
    """Bytes that the run's folder, the bundle and the cache still need at most; stages that are `done` need none."""
    plan, base = planned.plan, planned.base
    bundle = 0 if (bundles / plan.bundle).exists() else _bundle(base)  # one that exists is compared, not written again
    if (status := _status_of(planned, run, done)) is not None:
        return [DiskNeed("bundle", bundles, bundle)] if bundle and status == "accepted" else []
    peak = results = 0
    moment = FLOAT if sum(math.prod(s) for s in (base.tensors or {}).values()) < SMALL else BF16
    copies = max(2, planned.loaded.recipe.checkpoints.keep)
    for stage, resolved in zip(planned.loaded.recipe.stages, planned.plan.stages, strict=True):
        if stage.id in done:
            continue
        trained = resolved.parameters or resolved.parameters_max or 0
        result = _result(planned.trainables[stage.id], base.tensors or {}) * FLOAT
        # weights and two moments of AdamW; the best weights are linked, and are of their own beside the oldest alone
        one, best = trained * (FLOAT + 2 * moment), trained * FLOAT if stage.select else 0
        peak = max(peak, results + copies * one + best, results + one + best + result)
        results += result
    spoken: dict[str, int] = {}
    for data in (t for s in planned.plan.stages if s.id not in done for t in s.taught):
        spoken[data.dataset] = max(data.frames, spoken.get(data.dataset, 0))
    groups = int(base.talker.get("num_code_groups") or 0)
    synthetic = sum(bytes_of(frames, groups) for frames in spoken.values())
    states = sum((c.cache_bytes or 0) * FLOAT // BF16 for s, c in estimates(planned, hashes or FileHashes()).items() if s not in done)
    return [
        DiskNeed("checkpoints and results", run, peak + SLACK),
        *(
            DiskNeed(what, folder, size)
            for what, folder, size in (
                ("bundle", bundles, bundle),
                ("speech of the base", cache_dir(), synthetic),
                ("states of frozen layers", cache_dir(), states),
            )
            if size
        ),
    ]


def _status_of(planned: Planned, run: Path, done: Collection[str]) -> str | None:
    """How the last run of this plan ended, if it came to its end and every result of it is still stored."""
    record = read_record(run)
    if record is None or record.plan != planned.plan.hash or record.status in ("running", "until"):
        return None
    return record.status if all(s.status == "skipped" or s.id in done for s in record.stages) else None


def _bundle(base: BaseInfo) -> int:
    """A copy of the base; where it is not on this machine, as large as its tensors and the published speech tokenizer."""
    if base.folder is not None:
        return sum(f.stat().st_size for f in base_files(base.folder))
    return sum(math.prod(s) for s in base.tensors.values()) * BF16 + SPEECH_TOKENIZER if base.tensors else 0


def _result(trainable: Trainable, shapes: dict[str, tuple[int, ...]]) -> int:
    """Numbers of a stage's result: whole tensors, also where low-rank deltas of them are trained, or rows."""
    chosen = ((shapes.get(n, ()), trainable.rows_of(n)) for g in trainable.groups for n in g.tensors)
    return sum(math.prod(shape) if rows is None else len(rows) * math.prod(shape[1:]) for shape, rows in chosen)


def require(needed: list[DiskNeed], tell: Callable[..., None]) -> None:
    """Tells what is needed, and raises `UserError` if a file system has less. Folders on the same one are added up."""
    tell(needs=[{"what": n.what, "folder": str(n.folder), "bytes": n.bytes} for n in needed])
    by_device: dict[int, list[DiskNeed]] = {}
    for need in needed:
        by_device.setdefault(os.stat(_existing(need.folder)).st_dev, []).append(need)
    problems = Problems()
    for together in by_device.values():
        free = shutil.disk_usage(_existing(together[0].folder)).free
        wanted = sum(n.bytes for n in together)
        if wanted > free:
            parts: Any = " and ".join(f"{n.bytes / 1e9:.2f} GB for {n.what} in {n.folder}" for n in together)
            message = f"the disk has {free / 1e9:.2f} GB left, and the run needs up to {parts}"
            help_ = "free some room, or give --runs or --bundles another disk"
            problems.append(Problem("QR073", message, Place(str(together[0].folder)), help_))
    problems.raise_any(UserError)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
