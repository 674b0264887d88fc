"""What nothing refers to any more: listed first, removed only when asked. Never imports torch.

A run refers to its start, to the stages of its last plan, to the stage that it is training, and to the values measured
on them. A cache entry is in use while runs use it; one that was not read for a long time is garbage.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qrecipe.files import read_json
from qrecipe.run.reasons import read_inputs
from qrecipe.run.record import read_record

DAY = 86_400
TEMPORARY_AGE = 3600
"""Seconds after which a temporary file of a shared folder belongs to nobody; in a run's folder the lock says so."""
_TEMPORARY = re.compile(r"\..+\.tmp\Z")


@dataclass(frozen=True)
class Garbage:
    """One file or folder that nothing refers to."""

    path: Path
    why: str
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """For `--format json`."""
        return {"path": str(self.path), "why": self.why, "bytes": self.bytes}


@dataclass(frozen=True)
class Found:
    """What `gc` lists."""

    garbage: list[Garbage]
    busy: list[Path]
    """Run folders that a run holds; nothing of them is listed."""


def find(runs: Path, bundles: Path, cache: Path, unused_days: float) -> Found:
    """Looks through folders of runs, of bundles, and the cache."""
    garbage: list[Garbage] = []
    busy: list[Path] = []
    for folder in sorted(f.parent for f in runs.glob("*/.held")):
        with _held(folder) as free:
            if free:
                garbage += _of_run(folder)
            else:
                busy.append(folder)
    garbage += _temporary(bundles, deep=False)
    garbage += _of_cache(cache, unused_days * DAY)
    return Found(garbage, busy)


def remove(found: Found) -> None:
    """Removes what was found; what is gone already is no error, and a run folder that is held by now is left alone."""
    for item in found.garbage:
        if item.path.is_dir() and not item.path.is_symlink():
            shutil.rmtree(item.path, ignore_errors=True)
        else:
            item.path.unlink(missing_ok=True)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Whether no run works in a folder; none can start while the block lasts."""
    with open(folder / ".held", "a", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _of_run(folder: Path) -> Iterator[Garbage]:
    record, inputs = read_record(folder), read_inputs(folder)
    if record is None:
        return  # not a run's folder, or one that is not to be judged
    planned = [s.fingerprint for s in inputs.stages.values()] if inputs is not None else []
    states = {s for s in (record.start, record.training, *record.results.values(), *planned) if s is not None}
    short = {s[:16] for s in states}
    for stage in sorted((folder / "stages").glob("*")):
        if stage.name not in short and not _TEMPORARY.match(stage.name):
            yield _item(stage, "a stage that the last run does not refer to")
    for file in sorted((folder / "values").glob("*.json")):
        try:
            key = [k for k in read_json(file)["key"] if isinstance(k, str)]
        except (OSError, ValueError, KeyError, TypeError):
            key = []
        if not states.intersection(key):
            yield _item(file, "values of a stage that the last run does not refer to")
    yield from _temporary(folder, deep=True, age=0)


def _of_cache(cache: Path, unused: float) -> Iterator[Garbage]:
    now = time.time()
    for base in sorted((cache / "bases").glob("mini-*")):
        yield _item(base, "an embedded base as it was built before it came with the package")
    for kind in ("codes", "x-vectors", "taught", "states"):
        for file in sorted((cache / kind).rglob("*")):
            if file.is_file() and not _TEMPORARY.match(file.name) and now - file.stat().st_mtime > unused:
                yield _item(file, f"not used for {unused / DAY:g} days")
    for held in sorted((cache / "numba").glob("*/.held")):
        with _held(held.parent) as free:
            if free and now - held.stat().st_mtime > unused:
                yield _item(held.parent, f"functions compiled for a process, not used for {unused / DAY:g} days")
    yield from _temporary(cache, deep=True)


def _temporary(folder: Path, deep: bool, age: float = TEMPORARY_AGE) -> Iterator[Garbage]:
    """What a killed process left behind."""
    if not folder.is_dir():
        return
    now = time.time()
    for path in sorted(folder.rglob(".*.tmp") if deep else folder.glob(".*.tmp")):
        if any(_TEMPORARY.match(p) for p in path.relative_to(folder).parts[:-1]):
            continue  # goes with the folder that it lies in
        if now - path.stat().st_mtime >= age:
            yield _item(path, "left by a process that was killed")


def _item(path: Path, why: str) -> Garbage:
    files = [path] if not path.is_dir() else [f for f in path.rglob("*") if f.is_file() and not f.is_symlink()]
    return Garbage(path, why, sum(f.lstat().st_size for f in files))


def as_json(found: Found) -> str:
    """The list for programs."""
    return json.dumps(
        {
            "garbage": [g.as_json() for g in found.garbage],
            "bytes": sum(g.bytes for g in found.garbage),
            "busy": [str(b) for b in found.busy],
        },
        indent=2,
    )
