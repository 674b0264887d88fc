"""Entries about files, in a SQLite file of the cache. A cache that cannot be read is empty, and one that cannot be written is no error."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

AT_ONCE = 500
"""Names of one query; SQLite takes 999 everywhere."""
TOGETHER = 200
"""Entries that are written by one statement."""
PATIENCE = 5.0
"""Seconds to wait for another process that writes."""
UNMEASURED = -1.0
_ANY = "SELECT 1 FROM files WHERE name BETWEEN ? AND ? LIMIT 1"
_MEMORY = "PRAGMA cache_size = -65536"
"""64 MB: what is written stays in memory until all of it is, and does not keep others from reading."""
_CREATE = "CREATE TABLE IF NOT EXISTS files (name BLOB PRIMARY KEY, state TEXT NOT NULL, sha256 TEXT NOT NULL, seconds REAL) WITHOUT ROWID"


class Known(NamedTuple):
    """Entry of a file."""

    state: str
    """Size, times and number of the file when it was read."""
    sha256: str
    """In hex."""
    seconds: float | None = UNMEASURED
    """Duration of a recording; None for what is none, `UNMEASURED` before anybody asked."""


Stored = tuple[bytes, str, str, float | None]
"""An entry with its name, as the table holds it."""


class HashTable:
    """Files by their names, for all processes that share a cache. Can be used by several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None

    def get(self, names: Sequence[str]) -> dict[str, Known]:
        """Entries of files, by name."""
        known: dict[str, Known] = {}
        names_as_stored = [os.fsencode(n) for n in names]
        with self._lock:
            # mostly all are stored or none is, which one look tells
            if not names or not self._rows(_ANY, (min(names_as_stored), max(names_as_stored))):
                return known
            for start in range(0, len(names), AT_ONCE):
                keys = names_as_stored[start : start + AT_ONCE]
                marks = ",".join("?" * len(keys))
                for name, *values in self._rows(f"SELECT name, state, sha256, seconds FROM files WHERE name IN ({marks})", keys):
                    known[os.fsdecode(name)] = Known(*values)
        return known

    def put(self, entries: Sequence[Stored]) -> bool:
        """Adds what was learned to what other processes have written; whether that was possible."""
        with self._lock:
            self._close()
            with suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._written(entries):
                return True
            if not self._damaged():
                return False
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            return self._written(entries)

    def _rows(self, query: str, keys: Iterable[bytes]) -> list[tuple[Any, ...]]:
        try:
            if self._connection is None:
                if not self.path.is_file():
                    return []
                self._connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", PATIENCE, uri=True, check_same_thread=False)
            return self._connection.execute(query, tuple(keys)).fetchall()
        except (sqlite3.Error, OSError):
            return []

    def _written(self, entries: Sequence[Stored]) -> bool:
        try:
            with closing(sqlite3.connect(self.path, PATIENCE)) as connection, connection:
                connection.execute(_CREATE)
                connection.execute(_MEMORY)
                for start in range(0, len(entries), TOGETHER):
                    part = entries[start : start + TOGETHER]
                    marks = ",".join(["(?,?,?,?)"] * len(part))
                    connection.execute(f"INSERT OR REPLACE INTO files VALUES {marks}", list(chain.from_iterable(part)))
        except (sqlite3.Error, OSError):
            return False
        return True

    def _damaged(self) -> bool:
        """Whether the file is no SQLite file, or one without what is written here."""
        try:
            with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", PATIENCE, uri=True)) as connection:
                connection.execute("SELECT name, state, sha256, seconds FROM files LIMIT 1").fetchall()
        except sqlite3.OperationalError as e:
            return "no such" in str(e)
        except sqlite3.DatabaseError:
            return True
        return False

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
