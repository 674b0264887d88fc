"""How long recordings are, by their headers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from qrecipe.files import FileHashes
from qrecipe.inputs.manifest import Row, Rows
from qrecipe.inputs.wav import read_wav
from qrecipe.qwen3 import FRAMES_PER_SECOND


def seconds(row: Row, hashes: FileHashes) -> float | None:
    """Seconds of a row's recording; None if that is not known."""
    if row.codes is not None:
        return len(row.codes) / FRAMES_PER_SECOND
    return hashes.seconds(row.audio, by_header) if row.audio is not None else None


def lengths(rows: Rows, hashes: FileHashes) -> Iterator[float | None]:
    """Seconds of every row's recording, as `seconds` gives them, read as far as they are asked for."""
    folder = str(rows.folder)
    for audio, codes in zip(rows.column("audio"), rows.column("codes")):
        if codes is not None:
            yield len(codes) / FRAMES_PER_SECOND
        else:
            yield hashes.seconds(os.path.join(folder, audio), by_header) if audio is not None else None


def by_header(audio: Path) -> float | None:
    """Seconds of a recording by its header; None for what is no recording."""
    from tinytag import TinyTag, TinyTagException

    try:
        if (wav := read_wav(audio)) is not None:  # a stream's header holds no size; what the file holds counts
            return wav.seconds
        return TinyTag.get(audio, tags=False).duration
    except (TinyTagException, OSError, ValueError):
        return None
