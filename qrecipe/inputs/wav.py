"""The chunks of a WAV file: how much sound its header promises, and how much is there. Reads no samples."""

from __future__ import annotations

import os
import struct
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

STREAMED = (0, 0x7FFFFFFF, 0xFFFFFFFF)
"""Sizes that a program writes which does not know yet how long the sound will be, such as ffmpeg into a pipe."""
HEADER = 512
"""Bytes that are read at once: nearly every header is shorter."""
_USUAL = struct.Struct("<4s4x8sI8xI4x4sI")
"""Header of nearly every file: RIFF, WAVE with its format of 16 bytes, in it bytes a second, and the data's size."""
SLACK = 0x1000
"""Such sizes may be less by the header's own bytes."""


class Wav(NamedTuple):
    """The `data` chunk of a WAV file."""

    start: int
    """Offset of the first sample, bytes."""
    promised: int
    """Size of the chunk by its header, bytes."""
    present: int
    """Bytes from `start` to the end of the file."""
    byte_rate: int
    """Bytes of a second."""

    @property
    def streamed(self) -> bool:
        """Whether the size is none: the sound goes to the end of the file."""
        if self.promised < STREAMED[1] - SLACK:
            return self.promised == STREAMED[0] and self.present > 0
        return any(size - SLACK <= self.promised <= size for size in STREAMED[1:])

    @property
    def seconds(self) -> float:
        """Duration of the sound that is there."""
        size = self.present if self.streamed else min(self.promised, self.present)
        return size / self.byte_rate

    @property
    def missing_seconds(self) -> float:
        """Duration of the sound that the header promises and the file does not hold."""
        return 0.0 if self.streamed else max(0, self.promised - self.present) / self.byte_rate


def read_wav(path: Path | str) -> Wav | None:
    """The `data` chunk of a RIFF file; None for any other file or one without such a chunk. Raises `OSError`."""
    with open(path, "rb", buffering=HEADER) as f:
        return _wav_of(f, os.fstat(f.fileno()).st_size)


def wav_by_start(start: bytes, size: int) -> Wav | None:
    """The `data` chunk of a file of so many bytes by the first of them; None also where they end before the chunk."""
    if len(start) >= _USUAL.size:
        riff, wave, length, byte_rate, data, promised = _USUAL.unpack_from(start)
        if (riff, wave, length, data) == (b"RIFF", b"WAVEfmt ", 16, b"data") and byte_rate:
            return Wav(_USUAL.size, promised, size - _USUAL.size, byte_rate)
    return _wav_of(BytesIO(start), size)


def _wav_of(f: BinaryIO, size: int) -> Wav | None:
    head = f.read(12)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    byte_rate = 0
    while len(chunk := f.read(8)) == 8:
        name, length = chunk[:4], struct.unpack("<I", chunk[4:])[0]
        if name == b"data" and byte_rate:
            start = f.tell()
            return Wav(start, length, max(0, size - start), byte_rate)
        if name == b"fmt ":
            content = f.read(length) if 16 <= length <= 1024 else b""
            if len(content) < 16:
                return None
            byte_rate = struct.unpack("<I", content[8:12])[0]
            f.seek(length % 2, 1)
        else:
            f.seek(length + length % 2, 1)
    return None
