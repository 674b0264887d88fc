"""How long recordings are, by their headers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from qrecipe.files import FileHashes
from qrecipe.inputs.row_table import Row, Rows
from qrecipe.inputs.wav import read_wav
from qrecipe.qwen3 import FRAMES_PER_SECOND

AT_ONCE = 4096
"""Rows whose recordings are looked up together."""


def seconds(row: Row, hashes: FileHashes) -> float | None:
    """Seconds of a row's recording; None if that is not known."""
    if row.codes is not None:
        return len(row.codes) / FRAMES_PER_SECOND
    return hashes.seconds(row.audio, by_header) if row.audio is not None else None


def lengths(rows: Rows, hashes: FileHashes) -> Iterator[float | None]:
    """Seconds of every row's recording, as `seconds` gives them, read as far as they are asked for, and once for a manifest."""
    yield from rows.seconds[:]
    folder, audio = str(rows.folder), rows.column("audio")
    for start in range(len(rows.seconds), len(rows), AT_ONCE):
        part, frames = audio[start : start + AT_ONCE], rows.codes.frames(start, start + AT_ONCE)
        # a recording of a row with codes is not looked at
        recordings = list(dict.fromkeys(name for name, count in zip(part, frames) if name is not None and count is None))
        measured = dict(zip(recordings, hashes.seconds_of_all([os.path.join(folder, r) for r in recordings], by_header)))
        rows.seconds += [measured.get(name) if count is None else count / FRAMES_PER_SECOND for name, count in zip(part, frames)]
        yield from rows.seconds[start:]


def by_header(audio: Path | str) -> float | None:
    """Seconds of a recording by its header; None for what is no recording."""
    from tinytag import TinyTag, TinyTagException

    try:
        if (wav := read_wav(audio)) is not None:  # a stream's header holds no size; what the file holds counts
            return wav.seconds
        return TinyTag.get(audio, tags=False).duration
    except (TinyTagException, OSError, ValueError):
        return None
