"""Files that nothing refers to any more: listed first, removed only when asked. Never imports torch.

A run refers to its start, to the stages of its last plan, to the stage that it is training, and to the values
measured on them. A cache entry is in use while runs use it; one that was not read for a long time is garbage.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qrecipe.files import read_json
from qrecipe.inputs.unpacked import ROWS
from qrecipe.run.reasons import read_inputs
from qrecipe.run.record import read_record
from qrecipe.store import TEMPORARY_AGE, is_temporary, leftovers, try_lock, unused

DAY = 86_400
STORES = ("codes", "x-vectors", "taught", "states")
"""Folders of the cache whose entries are made again where they are missing."""


@dataclass(frozen=True)
class Garbage:
    """One file or folder that nothing refers to."""

    path: Path
    why: str
    bytes: int


@dataclass(frozen=True)
class Listing:
    """The list of `gc`."""

    garbage: list[Garbage]
    busy: list[Path]
    """Run folders that a run holds; nothing of them is listed."""


def find(runs: Path, bundles: Path, cache: Path, unused_days: float) -> Listing:
    """Looks through folders of runs, of bundles, and the cache."""
    garbage: list[Garbage] = []
    busy: list[Path] = []
    for folder in sorted(f.parent for f in runs.glob("*/.held")):
        with _free(folder) as free:
            if free:
                garbage += _of_run(folder)
            else:
                busy.append(folder)
    garbage += _temporary(bundles, deep=False)
    garbage += _of_cache(cache, unused_days)
    return Listing(garbage, busy)


def remove(listing: Listing) -> None:
    """Removes the listed files and folders; one that is gone already is no error."""
    for item in listing.garbage:
        if item.path.is_dir() and not item.path.is_symlink():
            shutil.rmtree(item.path, ignore_errors=True)
        else:
            item.path.unlink(missing_ok=True)


@contextmanager
def _free(folder: Path) -> Iterator[bool]:
    """Whether no process works in a folder; none can start while the block lasts."""
    try:
        lock = try_lock(folder / ".held")
    except OSError:
        lock = None
    if lock is None:
        yield False
        return
    with lock:
        yield True


def _of_run(folder: Path) -> Iterator[Garbage]:
    record, inputs = read_record(folder), read_inputs(folder)
    if record is None:
        return  # not a run's folder, or one that is not to be judged
    planned = [s.fingerprint for s in inputs.stages.values()] if inputs is not None else []
    states = {s for s in (record.start, record.training, *record.results.values(), *planned) if s is not None}
    short = {s[:16] for s in states}
    for stage in sorted((folder / "stages").glob("*")):
        if stage.name not in short and not is_temporary(stage.name):
            yield _item(stage, "a stage that the last run does not refer to")
    for file in sorted((folder / "values").glob("*.json")):
        try:
            measured = [k for k in read_json(file)["key"] if isinstance(k, str)]
        except (OSError, ValueError, KeyError, TypeError):
            measured = []
        if not states.intersection(measured):
            yield _item(file, "values of a stage that the last run does not refer to")
    yield from _temporary(folder, deep=True, age=0)  # the lock says that no process is writing them


def _of_cache(cache: Path, unused_days: float) -> Iterator[Garbage]:
    for base in sorted((cache / "bases").glob("mini-*")):
        yield _item(base, "an embedded base as it was built before it came with the package")
    for store in STORES:
        for file in unused(cache / store, unused_days * DAY):
            yield _item(file, f"not used for {unused_days:g} days")
    for rows in sorted((cache / "unpacked").glob(f"*/{ROWS}")):
        if time.time() - rows.stat().st_mtime > unused_days * DAY:
            yield _item(rows.parent, f"recordings of a table, not used for {unused_days:g} days")
    for lock in sorted((cache / "numba").glob("*/.held")):
        with _free(lock.parent) as free:
            if free and time.time() - lock.stat().st_mtime > unused_days * DAY:
                yield _item(lock.parent, f"functions compiled for a process, not used for {unused_days:g} days")
    yield from _temporary(cache, deep=True)


def _temporary(folder: Path, deep: bool, age: float = TEMPORARY_AGE) -> Iterator[Garbage]:
    for path in leftovers(folder, deep, age):
        yield _item(path, "left by a process that was killed")


def _item(path: Path, why: str) -> Garbage:
    files = [path] if not path.is_dir() else [f for f in path.rglob("*") if f.is_file() and not f.is_symlink()]
    return Garbage(path, why, sum(f.lstat().st_size for f in files))


def as_json(listing: Listing) -> str:
    """The list for programs."""
    return json.dumps(
        {
            "garbage": [{"path": str(g.path), "why": g.why, "bytes": g.bytes} for g in listing.garbage],
            "bytes": sum(g.bytes for g in listing.garbage),
            "busy": [str(b) for b in listing.busy],
        },
        indent=2,
    )
