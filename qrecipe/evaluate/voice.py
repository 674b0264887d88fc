"""Long recordings cut where nobody speaks: voice activity by Silero, which comes with faster-whisper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from qrecipe.data import media
from qrecipe.data.audio import Audio, AudioProblem, quiet
from qrecipe.model.listening import LISTENING_RATE

SHORTEST, LONGEST = 1.0, 14.0
"""Seconds of a clip."""
GAP = 0.5
"""Seconds of silence at most that a clip goes on over, as long as it stays short."""
MARGIN = 0.15
"""Seconds before and after the voice that belong to a clip."""
BLOCK = 1 << 18
"""Samples that are read at once."""


def listenable(path: Path) -> Audio:
    """A recording of any length as [samples] at 16 kHz, mono; read and resampled block by block. Raises `AudioProblem`."""
    import soxr

    try:
        rate, blocks = _blocks(path)
        stream = soxr.ResampleStream(rate, LISTENING_RATE, 1, dtype="float32")
        parts = [stream.resample_chunk(np.ascontiguousarray(block.mean(1, dtype=np.float32))) for block in blocks]
        parts.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
    except (ValueError, ImportError, OSError, RuntimeError) as e:  # soundfile's errors are RuntimeErrors
        raise AudioProblem(f"cannot be read as audio: {e}") from None
    return np.concatenate(parts)


def _blocks(path: Path) -> tuple[int, Iterator[Any]]:
    if media.is_container(path):
        stream = media.open_stream(path)
        return stream.rate, stream.blocks
    with quiet():
        sound = soundfile.SoundFile(str(path))
    return sound.samplerate, sound.blocks(BLOCK, dtype="float32", always_2d=True)


def speech_parts(audio: Audio) -> list[tuple[float, float]]:
    """Where somebody speaks in [samples] at 16 kHz: (start, end) in seconds, each of a clip's length, cut in silences."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(min_silence_duration_ms=250, speech_pad_ms=0, max_speech_duration_s=LONGEST)
    voiced = [(t["start"] / LISTENING_RATE, t["end"] / LISTENING_RATE) for t in get_speech_timestamps(audio, options)]
    parts: list[tuple[float, float]] = []
    for start, end in voiced:
        if parts and start - parts[-1][1] <= GAP and end - parts[-1][0] <= LONGEST / 2:
            parts[-1] = (parts[-1][0], end)
        else:
            parts.append((start, end))
    length = len(audio) / LISTENING_RATE
    padded = []
    for i, (start, end) in enumerate(parts):
        before = parts[i - 1][1] if i else 0.0
        after = parts[i + 1][0] if i + 1 < len(parts) else length
        padded.append((max(start - MARGIN, (before + start) / 2), min(end + MARGIN, (after + end) / 2)))
    return [(round(a, 3), round(b, 3)) for a, b in padded if b - a >= SHORTEST]
