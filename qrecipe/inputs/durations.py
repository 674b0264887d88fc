"""How long recordings are, by their headers."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qrecipe.hash_table import UNMEASURED
from qrecipe.hashes import FileHashes
from qrecipe.inputs.row_table import NO_LENGTH, Rows
from qrecipe.inputs.wav import read_wav, wav_by_start
from qrecipe.qwen3 import FRAMES_PER_SECOND


def lengths(rows: Rows, hashes: FileHashes) -> Iterator[float | None]:
    """Seconds of every row's recording or codes, None where they are not known; read as far as they are asked for, and once for a manifest."""
    folder, audio = str(rows.folder), rows.column("audio")
    rows.seconds.extend([UNMEASURED] * (len(rows) - len(rows.seconds)))
    for share in rows.shares():
        part = slice(*share)
        if UNMEASURED in rows.seconds[part]:
            # a recording of a row with codes is not looked at
            frames = rows.codes.frames(*share)
            recordings = list(dict.fromkeys(name for name, count in zip(audio[part], frames) if name is not None and count is None))
            measured = dict(zip(recordings, hashes.seconds_of_all([os.path.join(folder, r) for r in recordings], by_header)))
            rows.seconds[part] = row_seconds(audio[part], frames, measured)
        for length in rows.seconds[part]:
            yield None if length == NO_LENGTH else length


def row_seconds(audio: Sequence[str | None], frames: Sequence[int | None], measured: Mapping[str, float | None]) -> array[float]:
    """Seconds of rows by the frames of their codes, else by their recordings."""
    lengths = (measured.get(name or "") if count is None else count / FRAMES_PER_SECOND for name, count in zip(audio, frames))
    return array("d", (NO_LENGTH if length is None else length for length in lengths))


def by_start(start: bytes, size: int) -> float:
    """Seconds of a WAV file by its first bytes; `UNMEASURED` for any other, and where its sound begins later."""
    wav = wav_by_start(start, size)
    return UNMEASURED if wav is None else wav.seconds


def by_header(audio: Path | str) -> float | None:
    """Seconds of a recording by its header; None for what is no recording."""
    from tinytag import TinyTag, TinyTagException

    try:
        if (wav := read_wav(audio)) is not None:  # a stream's header holds no size; what the file holds counts
            return wav.seconds
        return TinyTag.get(audio, tags=False).duration
    except (TinyTagException, OSError, ValueError):
        return None
