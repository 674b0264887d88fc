"""SHA-256 of files, and how long recordings are: read once, and remembered as long as a file stays what it was."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from qrecipe.files import cache_dir, real_folder
from qrecipe.hash_table import UNMEASURED, HashTable, Known, Stored

T = TypeVar("T")

Measure = Callable[[bytes, int], float]
"""Seconds of a recording by its first bytes and its size, or `UNMEASURED`."""

_CHUNK, _START = 1 << 20, 1 << 16
READERS = 8
"""Threads that hash files."""
SHARE = 64
"""Files that a thread hashes before it is given others: handing one over takes as long as reading a small one."""
SLOW = 2e-4
"""Seconds for a file from which several threads read, because files are large or a disk is waited for."""
MAX_UNSAVED = 50_000
"""Hashes of files that are held in memory before they are stored."""


def sha256(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return _read(path)[0]


def sha256_while_synced(path: Path) -> str:
    """SHA-256 of a file that was just written, read from memory while the disk takes it. Afterwards it is durable."""
    with open(path, "rb+") as f, ThreadPoolExecutor(1) as pool:
        synced = pool.submit(os.fsync, f.fileno())
        digest = sha256(path)
        synced.result()
    return digest


class FileHashes:
    """SHA-256 of files, remembered by path, size and times, so that a plan does not read gigabytes twice."""

    def __init__(self, store: Path | None = None) -> None:
        self.store = store or cache_dir() / "hashes.sqlite"
        self._table = HashTable(self.store)
        self._known: dict[str, Known] = {}
        """Entries that were asked for one by one, and those that are not stored yet."""
        self._new: dict[str, None] = {}
        """Names of those that are not stored yet, in order: a table takes neighbours faster."""
        self._added: list[Stored] = []
        self._read: dict[Hashable, Any] = {}

    def known(self, path: Path | str) -> str | None:
        """The hash if the file was hashed before and has not changed since."""
        name, state = located(path)
        known = self._lookup(name)
        return known.sha256 if known is not None and known.state == state else None

    def sha256(self, path: Path | str) -> str:
        """The file's hash, computed if it is not known."""
        name, state = located(path)
        known = self._lookup(name)
        if known is None or known.state != state:
            known = self._learn(name, Known(state, sha256(path)))
        return known.sha256

    def sha256_of_all(self, paths: Sequence[str]) -> list[str]:
        """The hashes of many files; those that are not known are read, by several threads where that takes long."""
        return [known.sha256 for known in self.entries([located(path) for path in paths])]

    def seconds_of_all(self, paths: Sequence[str], measure: Callable[[Path | str], float | None]) -> list[float | None]:
        """How long recordings are, each measured once and remembered beside the hash."""
        files, lengths = [located(path) for path in paths], list[float | None]()
        for path, (name, _), known in zip(paths, files, self.entries(files)):
            if known.seconds == UNMEASURED:
                known = self._learn(name, known._replace(seconds=measure(path)))
            lengths.append(known.seconds)
        self._make_room()
        return lengths

    def entries(self, files: Sequence[tuple[str, str]], measure: Measure | None = None) -> list[Known]:
        """Entries of files that were `located`. Those that are not known are read, and measured."""
        stored = self._table.get([name for name, _ in files if name not in self._known])
        known = [self._known.get(name) or stored.get(name) for name, _ in files]
        unread = [i for i, (k, (_, state)) in enumerate(zip(known, files)) if k is None or k.state != state]
        for i, (checksum, seconds) in zip(unread, _read_all([files[i][0] for i in unread], measure)):
            name, state = files[i]
            known[i] = self._learn(name, Known(state, checksum, seconds))
        self._make_room()
        return [k for k in known if k is not None]

    def take(self) -> list[Stored]:
        """Entries that were learned and are not stored, which are then forgotten here: for another process to `add`."""
        entries = [(os.fsencode(name), *self._known.pop(name)) for name in self._new]
        self._new.clear()
        return entries

    def add(self, entries: Iterable[Stored]) -> None:
        """Adds entries that other hashes have learned. They are looked up here after `save`."""
        self._added += entries
        if len(self._added) > MAX_UNSAVED:
            self.save()

    def once(self, key: Hashable, read: Callable[[], T], is_current: Callable[[T], bool]) -> T:
        """The result of `read`, which is read again only where it is no longer current.

        Not kept on disk: for a command that reads one file for several recipes.
        """
        if key not in self._read or not is_current(self._read[key]):
            self._read[key] = read()
        value: T = self._read[key]
        return value

    def save(self) -> None:
        """Stores what was learned; a cache that cannot be written is no error."""
        entries = [*self._added, *((os.fsencode(name), *self._known[name]) for name in self._new)]
        if entries and self._table.put(entries):
            self._new.clear()
        else:
            self._known.update({os.fsdecode(name): Known(state, checksum, seconds) for name, state, checksum, seconds in self._added})
        self._added.clear()

    def _lookup(self, name: str) -> Known | None:
        if name not in self._known:
            self._known.update(self._table.get([name]))
        return self._known.get(name)

    def _learn(self, name: str, known: Known) -> Known:
        self._known[name] = known
        self._new[name] = None
        return known

    def _make_room(self) -> None:
        """Stores what was learned where it is so much that it would fill the memory."""
        if len(self._new) > MAX_UNSAVED:
            self.save()
            if not self._new:
                self._known.clear()


def _read_all(paths: Sequence[str], measure: Measure | None) -> Iterator[tuple[str, float]]:
    """SHA-256 and seconds of files: read here, or by several threads as soon as that takes long."""

    def read(paths: Sequence[str]) -> list[tuple[str, float]]:
        contents = map(_read, paths)
        return [(checksum, UNMEASURED if measure is None else measure(start, size)) for checksum, start, size in contents]

    for at in range(0, len(paths), SHARE):
        begin = time.perf_counter()
        yield from read(paths[at : at + SHARE])
        if time.perf_counter() - begin > SLOW * SHARE:
            with ThreadPoolExecutor(READERS) as pool:
                shares = (paths[i : i + SHARE] for i in range(at + SHARE, len(paths), SHARE))
                yield from chain.from_iterable(pool.map(read, shares))
            return


def _read(path: Path | str) -> tuple[str, bytes, int]:
    """SHA-256 of a file's bytes, in hex, the first of them, and how many there are. Raises `OSError` with the path."""
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            start = os.read(fd, _START)
            h, size = hashlib.sha256(start), len(start)
            while chunk := os.read(fd, _CHUNK):
                h.update(chunk)
                size += len(chunk)
        finally:
            os.close(fd)
    except OSError as e:
        e.filename = str(path)
        raise
    return h.hexdigest(), start, size


def located(path: Path | str) -> tuple[str, str]:
    """The name of a file with links followed, and its `state_of`. Raises `OSError`."""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return os.path.realpath(path), state_of(os.stat(path))
    folder, _, last = os.path.abspath(path).rpartition(os.sep)
    return f"{real_folder(folder or os.sep)}{os.sep}{last}", state_of(status)


def state_of(status: os.stat_result) -> str:
    """Size, times and number of a file: whoever replaces it can set its size and its first time, and neither of the others."""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
