"""Ready codes of rows. Those of a large manifest stay in its file and are read when they are asked for: a million rows of them fit.

Written codes are checked as text, all of a block at once, without making numbers of them.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, overload

from msgspec import json

from qrecipe.errors import DataError, Place, Problem
from qrecipe.qwen3 import CODEBOOK_SIZE

NONE, IN_MEMORY = -1, -2
"""Offsets of rows without codes, and of those whose codes are not in a file."""
DIGEST = 32
"""Bytes of a SHA-256."""
MAX_DIGITS = len(str(CODEBOOK_SIZE - 1))


class Codes:
    """Ready codes of a row, frames x codebooks, in two bytes each."""

    __slots__ = ("_codes", "width")

    def __init__(self, frames: Sequence[Sequence[int]]) -> None:
        """Raises `ValueError` for frames of different widths."""
        self.width = len(frames[0])
        if len(set(map(len, frames))) > 1:
            raise ValueError("`audio_codes` has frames of different widths")
        self._codes = array("H", chain.from_iterable(frames))

    def __len__(self) -> int:
        """Frames."""
        return len(self._codes) // self.width

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Codes) and (self.width, self._codes) == (other.width, other._codes)

    def __hash__(self) -> int:
        return hash((self.width, self._codes.tobytes()))

    def tolist(self) -> list[list[int]]:
        """A list of frames."""
        codes = self._codes.tolist()
        return [codes[i : i + self.width] for i in range(0, len(codes), self.width)]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the list of frames as Python's `json` writes it."""
        return sha256(json.encode(self.tolist()).replace(b",", b", ")).digest()


@dataclass(frozen=True)
class WrittenCodes:
    """Ready codes of many rows, as JSON in a manifest."""

    offsets: array[int]
    """Of the rows' codes in the file."""
    sizes: array[int]
    """Bytes."""
    frames: array[int]
    digests: bytes
    """`Codes.digest` of each."""


@dataclass
class CodesColumn(Sequence[Codes | None]):
    """Codes of every row of a manifest, None for a row without."""

    path: Path
    """The manifest."""
    stamp: tuple[int, int] = (0, 0)
    """Size and time of the manifest when it was read."""
    _count: int = 0
    _offsets: array[int] = field(default_factory=lambda: array("q"))
    """Shorter than the column where no later row has codes."""
    _sizes: array[int] = field(default_factory=lambda: array("i"))
    _frames: array[int] = field(default_factory=lambda: array("i"))
    _digests: bytearray = field(default_factory=bytearray)
    _memory: dict[int, Codes] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> CodesColumn:
        """An empty column for a manifest."""
        try:
            status = os.stat(path)
        except OSError:
            return cls(path)
        return cls(path, (status.st_size, status.st_mtime_ns))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, i: int) -> Codes | None: ...
    @overload
    def __getitem__(self, i: slice) -> list[Codes | None]: ...
    def __getitem__(self, i: int | slice) -> Codes | list[Codes | None] | None:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(self._count))]
        i += self._count if i < 0 else 0
        if i >= self._count:
            raise IndexError(i)
        if i >= len(self._offsets) or self._offsets[i] == NONE:
            return None
        return self._memory[i] if self._offsets[i] == IN_MEMORY else self._read(i)

    def __iter__(self) -> Iterator[Codes | None]:
        return map(self.__getitem__, range(self._count))

    def has(self, i: int) -> bool:
        """Whether a row has codes."""
        return i < len(self._offsets) and self._offsets[i] != NONE

    def frames(self, start: int, stop: int) -> list[int | None]:
        """Frames of some rows' codes; None for a row without."""
        count = min(stop, self._count) - start
        written = zip(self._offsets[start:stop], self._frames[start:stop])
        frames: list[int | None] = [None if offset == NONE else frames for offset, frames in written]
        return frames + [None] * (count - len(frames))

    def digests(self, start: int, stop: int) -> list[str | None]:
        """`Codes.digest` of some rows, in hex; None for a row without."""
        count = min(stop, self._count) - start
        if start >= len(self._offsets):
            return [None] * count
        written = self._digests[DIGEST * start : DIGEST * stop].hex()
        digests = [written[i : i + 2 * DIGEST] for i in range(0, len(written), 2 * DIGEST)]
        offsets = self._offsets[start:stop]
        return [None if offset == NONE else digest for offset, digest in zip(offsets, digests)] + [None] * (count - len(digests))

    def append(self, codes: Codes | None) -> None:
        """Adds a row."""
        if codes is not None:
            self._pad()
            self._memory[self._count] = codes
            self._add(array("q", [IN_MEMORY]), array("i", [0]), array("i", [len(codes)]), codes.digest)
        self._count += 1

    def extend(self, codes: WrittenCodes | None, count: int) -> None:
        """Adds `count` rows, all with or all without codes in the file."""
        if codes is not None:
            self._pad()
            self._add(codes.offsets, codes.sizes, codes.frames, codes.digests)
        self._count += count

    def join(self, other: CodesColumn) -> None:
        """Adds the rows of another column of the same manifest."""
        if other._offsets:
            self._pad()
            self._memory |= {self._count + i: codes for i, codes in other._memory.items()}
            self._add(other._offsets, other._sizes, other._frames, other._digests)
        self._count += other._count

    def _pad(self) -> None:
        lacking = self._count - len(self._offsets)
        self._add(array("q", [NONE]) * lacking, array("i", [0]) * lacking, array("i", [0]) * lacking, bytes(DIGEST * lacking))

    def _add(self, offsets: array[int], sizes: array[int], frames: array[int], digests: bytes | bytearray) -> None:
        self._offsets += offsets
        self._sizes += sizes
        self._frames += frames
        self._digests += digests

    def _read(self, i: int) -> Codes:
        with open(self.path, "rb") as f:
            status = os.fstat(f.fileno())
            f.seek(self._offsets[i])
            written = f.read(self._sizes[i])
        if (status.st_size, status.st_mtime_ns) != self.stamp:
            message = "the manifest changed while its codes were used"
            raise DataError(Problem("QR040", message, Place(str(self.path)), "run the command again, and leave the file alone meanwhile"))
        frames: list[list[int]] = json.decode(written)
        return Codes(frames)


def with_spaces(written: Sequence[bytes]) -> list[bytes]:
    """Codes of rows as Python's `json` writes them, a space behind every comma, which nearly every manifest has already."""
    return [row if b" " in row else row.replace(b",", b", ") for row in written]


def check_written(written: Sequence[bytes]) -> array[int] | None:
    """Frames of rows' codes by their text `with_spaces`; None if one of them is not codes of one width."""
    import numpy as np

    if not all(row.startswith(b"[[") and row.endswith(b"]]") for row in written):
        return None
    # rows stand side by side as frames do, with a comma before the first and behind the last
    text = np.frombuffer(b", ".join([b"", *written, b""]), np.uint8)
    digits, comma, opens, closes = text - np.uint8(ord("0")) < 10, text == ord(","), text == ord("["), text == ord("]")
    if not _are_lists(text, digits, comma, opens, closes):
        return None

    # a frame has as many commas as codes, with the one before it; only the bracket that ends a row has none
    ends = np.flatnonzero(closes)
    widths = np.add.reduceat(comma, np.append(0, ends), dtype=np.int32)[:-1]
    row_ends = np.flatnonzero(widths == 0)
    if len(row_ends) != len(written) or np.count_nonzero(opens) != len(ends):
        return None
    frames = np.diff(row_ends, prepend=-1) - 1
    expected = np.repeat(widths[row_ends - frames], frames + 1)
    expected[row_ends] = 0
    if not np.array_equal(widths, expected) or not _are_codes(text, digits):
        return None
    return array("i", frames.tolist())


def _are_lists(text: Any, digits: Any, comma: Any, opens: Any, closes: Any) -> bool:
    """Whether every character may stand beside its neighbours in lists of numbers and of such lists; the others mark its kinds."""
    import numpy as np

    space = text == ord(" ")
    before, behind = space | opens, comma | closes  # of a number or a list
    if not np.all(digits | before | behind) or not np.array_equal(space[1:], comma[:-1]):
        return False
    wrong = (behind[1:] & before[:-1]) | (digits[1:] & closes[:-1]) | (opens[1:] > before[:-1])
    # a comma is between two numbers or between two lists
    wrong[:-2] |= comma[1:-2] & (closes[:-3] != opens[3:])
    return not np.any(wrong)


def _are_codes(characters: Any, digits: Any) -> bool:
    """Whether all numbers of a text are codes as JSON writes them; `digits` marks their characters."""
    import numpy as np

    zero = characters[1:-1] == ord("0")
    if np.any((zero & digits[2:]) > digits[:-2]):  # one leads
        return False
    longest = digits[:-MAX_DIGITS]
    for i in range(1, MAX_DIGITS):
        longest = longest & digits[i : i - MAX_DIGITS]
    if np.any(longest & digits[MAX_DIGITS:]):
        return False
    # few numbers begin like the largest code or above it
    starts = np.flatnonzero(longest & (characters[:-MAX_DIGITS] >= ord(str(CODEBOOK_SIZE)[0])))
    values = sum((characters[starts + i].astype(np.int32) - ord("0")) * 10 ** (MAX_DIGITS - 1 - i) for i in range(MAX_DIGITS))
    return not np.any(np.asarray(values) >= CODEBOOK_SIZE)
