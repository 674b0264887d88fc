"""Recordings that the rows of a manifest name: whether they are there, their content and their length. Each is looked at once."""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from msgspec import json, msgpack

from qrecipe.hash_table import Known, Stored
from qrecipe.hashes import FileHashes, located, state_of
from qrecipe.inputs.durations import by_start, row_seconds
from qrecipe.inputs.row_table import Rows

MAX_SEEN = 50_000
"""Recordings that are remembered."""
_LEARNED = msgpack.Decoder(list[Stored])
SILENT = "0" * 64
"""Hash of a row of text."""


class UnreadableRecording(Exception):
    """A recording that is there and cannot be read."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True)
class RowContents:
    """Content of rows: what a dataset's hash is made of."""

    text: bytes = b""
    """The rows as JSON, with hashes for recordings and codes; without the brackets of the list."""
    sounds: array[int] = field(default_factory=lambda: array("q"))
    """64 bits of the hash of every row's recording or codes; 0 for a row of text. Equal ones are the same sound."""
    states: bytes = b""
    """Digest of the states in which the recordings were read."""
    packed: bytes = b"\x90"
    """Entries of files that were read for it, as MessagePack: pickling them takes three times as long."""

    @property
    def learned(self) -> list[Stored]:
        """Entries of files that were read for it."""
        return _LEARNED.decode(self.packed)


def are_current(rows: Rows, blocks: Iterable[tuple[int, bytes]]) -> bool:
    """Whether the recordings of rows are the files that were read: `blocks` have the number of their rows and `RowContents.states`."""
    start = 0
    for count, states in blocks:
        try:
            now = [state_of(os.stat(os.path.join(rows.folder, name))) for name in rows.recordings(start, start + count)]
        except OSError:
            return False
        if _digest(now) != states:
            return False
        start += count
    return True


def _digest(states: Iterable[str]) -> bytes:
    return blake2b("\n".join(states).encode(), digest_size=16).digest()


class RecordingFiles:
    """Recordings in the folders that a manifest may read."""

    def __init__(self, folder: Path, roots: tuple[str, ...], store: Path | None) -> None:
        """`store` is that of the hashes; without it there are no contents."""
        self._folder, self._roots = str(folder), roots
        self._hashes = FileHashes(store) if store is not None else None
        self._folders: dict[str, str | None] = {}
        """Folders with links followed; None for those that recordings may not be in."""
        self._located: dict[str, tuple[str, str]] = {}
        """Recordings that were seen: files of many rows are looked for once."""
        self._known: dict[str, Known] = {}

    def is_here(self, text: str) -> bool:
        """Whether a row names a file, and no link, of a folder that it may read: in one look, as nearly every row does."""
        if text in self._located:
            return True
        path = self._path(text)
        folder, _, name = path.rpartition("/")
        try:
            status = os.lstat(path)
        except (OSError, ValueError):
            return False
        if folder not in self._folders:
            real = os.path.realpath(folder)
            self._folders[folder] = real if f"{real}/".startswith(self._roots) else None
        real_folder = self._folders[folder]
        if real_folder is None or not stat.S_ISREG(status.st_mode):
            return False
        self._located[text] = f"{real_folder}/{name}", state_of(status)
        return True

    def contents(self, rows: Rows) -> RowContents:
        """Content of all rows, which then have the seconds of their recordings as far as a first look tells them."""
        if self._hashes is None:
            return RowContents()
        entries = self._entries(self._hashes, rows.recordings(0, len(rows)))
        lengths = {name: entry.seconds for name, entry in entries.items()}
        rows.seconds = row_seconds(rows.column("audio"), rows.codes.frames(0, len(rows)), lengths)
        contents = rows.contents(0, len(rows), {name: entry.sha256 for name, entry in entries.items()})
        sounds = array("q", bytes.fromhex("".join([(row[5] or row[1] or SILENT)[:16] for row in contents])))
        states = _digest(entry.state for entry in entries.values())
        return RowContents(json.encode(contents)[1:-1], sounds, states, msgpack.encode(self._hashes.take()))

    def _entries(self, hashes: FileHashes, names: Sequence[str]) -> dict[str, Known]:
        if len(self._known) > MAX_SEEN:
            self._located, self._known = {name: self._located[name] for name in names if name in self._located}, {}
        unread = [name for name in names if name not in self._known]
        try:
            files = [self._located.get(name) or located(self._path(name)) for name in unread]
            self._known.update(zip(unread, hashes.entries(files, by_start)))
        except OSError as e:
            raise UnreadableRecording(e) from None
        return {name: self._known[name] for name in names}

    def _path(self, text: str) -> str:
        return text if text.startswith("/") else f"{self._folder}/{text}"
