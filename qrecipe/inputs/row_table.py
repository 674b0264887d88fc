"""Rows of a manifest, kept by column, so that a million of them fit."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, starmap
from pathlib import Path
from typing import Any, NamedTuple, overload

from qrecipe.inputs.codes import Codes, CodesColumn, WrittenCodes

AT_ONCE = 4096
"""Rows that are looked at together, where something is read for each."""
NO_LENGTH = -2.0
"""Stands for seconds that cannot be known: of a row without sound, or of a recording that is none."""


class Row(NamedTuple):
    """One row of a manifest that can be used as far as its text goes."""

    line: int
    """Line of the manifest, from 1; of a table without lines, its number."""
    text: str
    """NFC, stripped."""
    audio: Path | None = None
    reference: Path | None = None
    reference_text: str | None = None
    speaker: str | None = None
    codes: Codes | None = None
    """Ready codes."""
    cut: bool = False
    language: str | None = None
    """The language that the row itself states, which counts for nothing."""


class Rows(Sequence[Row]):
    """Rows by column: each is put together when it is asked for."""

    def __init__(self, folder: Path, codes: CodesColumn, columns: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.codes = codes
        self._columns: Mapping[str, Any] = columns or {field: codes if field == "codes" else [] for field in Row._fields}
        self._lists = tuple(self._columns.values())
        self.seconds = array("d")
        """Of the first rows' recordings, `UNMEASURED` for those that nobody needed, and `NO_LENGTH`."""

    def __len__(self) -> int:
        return len(self._lists[0])

    def append(self, *values: Any) -> None:
        """Adds a row by its fields in their order; recordings are text, below the folder or whole."""
        for column, value in zip(self._lists, values):
            column.append(value)

    def add(self, columns: Mapping[str, Sequence[Any]], codes: WrittenCodes | None) -> None:
        """Adds rows by column, with all their fields but the codes."""
        self.codes.extend(codes, len(columns["text"]))
        for name, values in columns.items():
            self._columns[name].extend(values)

    def extend(self, other: Rows, lines: int) -> None:
        """Adds rows of another part of the manifest, which begins after so many lines."""
        self.seconds += other.seconds
        for name, column in self._columns.items():
            if name == "codes":
                self.codes.join(other.codes)
            else:
                column += [lines + line for line in other.column(name)] if name == "line" else other.column(name)

    def column(self, field: str) -> Sequence[Any]:
        """One field of every row; recordings as text, below the folder or whole."""
        column: Sequence[Any] = self._columns[field]
        return column

    def spoken_by(self, reference: Path, text: str | None) -> Rows:
        """The same rows with one reference for all."""
        references: dict[str, list[Any]] = {"reference": [str(reference.absolute())] * len(self), "reference_text": [text] * len(self)}
        return Rows(self.folder, self.codes, {**self._columns, **references})

    def shares(self) -> Iterator[tuple[int, int]]:
        """The first row and the end of each share of rows that are looked at together."""
        return ((start, start + AT_ONCE) for start in range(0, len(self), AT_ONCE))

    def recordings(self, start: int, stop: int) -> list[str]:
        """Recordings and references of some rows, each once."""
        names = chain(self._columns["audio"][start:stop], self._columns["reference"][start:stop])
        return list(dict.fromkeys(name for name in names if name is not None))

    def contents(self, start: int, stop: int, checksums: Mapping[str, str]) -> list[tuple[Any, ...]]:
        """Some rows: text, recording, reference, its text, speaker, codes, cut, with hashes for recordings and codes."""
        names = ("text", "audio", "reference", "reference_text", "speaker", "cut")
        text, audio, reference, reference_text, speaker, cut = (self._columns[name][start:stop] for name in names)
        sounds = (map(checksums.get, audio), map(checksums.get, reference))
        return list(zip(text, *sounds, reference_text, speaker, self.codes.digests(start, stop), cut))

    def path(self, recording: str | None) -> Path | None:
        """A recording as rows have it."""
        return None if recording is None else self.folder / recording

    def _row(self, line: int, text: str, audio: str | None, reference: str | None, *others: Any) -> Row:
        return Row(line, text, self.path(audio), self.path(reference), *others)

    def __iter__(self) -> Iterator[Row]:
        return starmap(self._row, zip(*self._lists))

    @overload
    def __getitem__(self, i: int) -> Row: ...
    @overload
    def __getitem__(self, i: slice) -> list[Row]: ...
    def __getitem__(self, i: int | slice) -> Row | list[Row]:
        if isinstance(i, slice):
            return list(starmap(self._row, zip(*(column[i] for column in self._lists))))
        return self._row(*(column[i] for column in self._lists))
