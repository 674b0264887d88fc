"""A run's folder: finished stages by fingerprint, measured values by content, and a lock so that two runs do not meet."""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qrecipe.errors import EngineError, Place, Problem, UserError
from qrecipe.evaluate.values import Value
from qrecipe.files import WriteError, read_sealed, sealed, write_json
from qrecipe.hashes import sha256
from qrecipe.model.weights import Delta
from qrecipe.store import JsonStore, key_of, try_lock
from qrecipe.world import World

RESULT = "result.json"
DELTA = "delta.safetensors"
HEARD = "heard.jsonl"
"""Answers of evaluators by what they heard."""
HELD = ".held"
"""Locked while a run works in the folder."""


@dataclass(frozen=True)
class StoredStage:
    """A stage that was trained."""

    delta: Delta
    result: dict[str, Any]


class RunStore:
    """`runs/NAME`."""

    def __init__(self, folder: Path, world: World | None = None) -> None:
        """Of several ranks the first holds the folder and writes; what is there is what it sees."""
        self.folder = folder
        self._world = world or World()
        self._values = JsonStore(folder / "values")

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Holds the folder for one run; false where the file system has no locks. Raises `UserError` that says who holds it."""
        if not self._world.first:
            yield True
            return
        path = self.folder / HELD
        try:
            lock = try_lock(path)
        except WriteError:
            raise
        except OSError:
            yield False
            return
        if lock is None:
            who = path.read_text("utf-8").strip() or "another process"
            raise UserError(Problem("QR071", f"another run works here: {who}", Place(str(self.folder))))
        with lock:
            lock.truncate(0)
            lock.write(f"process {os.getpid()}\n".encode())
            lock.flush()
            yield True

    def is_held(self) -> bool:
        """Whether a process holds the folder. Takes the lock for an instant if none does, so not to be called all the time."""
        try:
            with open(self.folder / HELD, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # nobody ever held it, or files cannot be locked here
            return False
        return False

    def put_aside(self) -> Path | None:
        """Renames the folder, so that a run starts over and loses nothing; returns the new name, `NAME.1` or the next free one."""
        if not (self.folder / "events.jsonl").exists():
            return None
        with self.held():
            number = next(n for n in itertools.count(1) if not self.folder.with_name(f"{self.folder.name}.{n}").exists())
            aside = self.folder.with_name(f"{self.folder.name}.{number}")
            os.rename(self.folder, aside)
        return aside

    def stage_folder(self, fingerprint: str) -> Path:
        """Where a stage's result lies."""
        return self.folder / "stages" / fingerprint[:16]

    def checkpoint_folder(self, fingerprint: str) -> Path:
        """Where the state of a stage that is not finished lies."""
        return self.stage_folder(fingerprint) / "checkpoints"

    def load_stage(self, fingerprint: str) -> StoredStage | None:
        """A finished stage, or None. It is complete when its result, written last, names the fingerprint and the delta's hash."""
        stored = self._load_stage(fingerprint) if self._world.first else None
        if not self._world.from_first(lambda: stored is not None, "looking for finished stages") or self._world.first:
            return stored
        stored = self._load_stage(fingerprint)
        if stored is None:
            raise EngineError(
                f"rank {self._world.rank} cannot read the stage {fingerprint[:16]} in {self.folder}, which the first rank can"
            )
        return stored

    def _load_stage(self, fingerprint: str) -> StoredStage | None:
        folder = self.stage_folder(fingerprint)
        try:
            result = read_sealed(folder / RESULT)
            if result["fingerprint"] != fingerprint or result["delta_sha256"] != sha256(folder / DELTA):
                return None
            return StoredStage(Delta.load(folder / DELTA), result)
        except (OSError, ValueError, KeyError):
            return None

    def save_stage(self, fingerprint: str, delta: Delta, result: dict[str, Any]) -> None:
        """Keeps a finished stage."""
        if not self._world.first:
            return
        folder = self.stage_folder(fingerprint)
        written = delta.save(folder / DELTA)
        write_json(folder / RESULT, sealed({"fingerprint": fingerprint, "delta_sha256": written, **result}))

    def load_values(self, inputs: Any) -> list[Value] | None:
        """Measured values by what they were measured on, or None."""
        entry = self._world.from_first(lambda: self._values.get(key_of(inputs)), "looking for measured values")
        try:
            return None if entry is None else [Value(**v) for v in entry["values"]]
        except (KeyError, TypeError):
            return None

    def save_values(self, inputs: Any, values: list[Value]) -> None:
        """Stores measured values, with their inputs: `gc` looks in them for the state that was measured."""
        if self._world.first:
            self._values.put(key_of(inputs), {"key": inputs, "values": [asdict(v) for v in values]})
