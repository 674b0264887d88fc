"""Recordings: read, brought to 24 kHz mono, trimmed and checked."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qrecipe.model.dsp import librosa

RATE = 24_000
"""Hz."""
TRIM_DB = 40.0
"""What is this far below the loudest part counts as silence, in dB."""
FRAME = 1920
"""Samples of a codec frame (12.5 a second)."""
MARGIN = 0.1
"""Seconds of silence that stay at most on both sides."""
SILENT_PEAK = 1e-3
"""Full scale is 1; a recording that never exceeds this is silent (-60 dBFS)."""
CLIPPED_LEVEL = 0.999
CLIPPED_SHARE = 0.002
"""A recording with a larger share of samples at full scale is clipped."""
MIN_SECONDS = 0.3
MAX_SAMPLES = 1 << 26
"""Of all channels, 256 MiB in memory: what a header promises is checked before memory is taken."""
CHARACTERS_PER_SECOND = (2.0, 45.0)
"""Text outside this rate does not belong to its recording; the slowest and fastest readers lie well within."""

Audio = NDArray[np.float32]


class AudioProblem(Exception):
    """Why a recording cannot be used, in a sentence."""


@dataclass(frozen=True)
class Clip:
    """A recording at 24 kHz, mono."""

    samples: Audio
    """[samples] float32."""
    seconds: float
    """Duration before trimming."""
    trimmed: float
    """Seconds that trimming took away."""


def read(path: Path, max_seconds: float | None = None) -> Audio:
    """Reads any file that libsndfile reads as mono at 24 kHz, the way stock qwen_tts does: mean of the channels, then
    librosa's default resampler. Raises `AudioProblem`."""
    import soundfile

    try:
        with _quiet(), soundfile.SoundFile(str(path)) as f:
            rate, frames = int(f.samplerate), int(f.frames)
            if rate < 1000 or rate > 768_000:
                raise AudioProblem(f"a sampling rate of {rate} Hz")
            if max_seconds is not None and frames / rate > max_seconds + 60:
                raise AudioProblem(f"{frames / rate:.0f} s long; at most {max_seconds:g} s are used (`max_seconds`)")
            if frames * f.channels > MAX_SAMPLES:
                raise AudioProblem(f"{frames:,} samples of {f.channels} channels; at most {MAX_SAMPLES:,} are read")
            samples = f.read(frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as e:
        raise AudioProblem(f"cannot be read as audio: {_reason(e)}") from None
    if samples.shape[0] == 0:
        raise AudioProblem("holds no samples")
    if not np.isfinite(samples).all():
        raise AudioProblem("holds samples that are not numbers")
    mono = samples.mean(axis=1, dtype=np.float32) if samples.shape[1] > 1 else samples[:, 0]
    return resample(np.ascontiguousarray(mono), rate)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """libmpg123 tells standard error of every byte that it does not like."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def resample(samples: Audio, rate: int) -> Audio:
    """[samples] at `rate` -> [samples] at 24 kHz (librosa, soxr_hq)."""
    if rate == RATE:
        return samples
    out: Audio = librosa().resample(y=samples, orig_sr=rate, target_sr=RATE).astype(np.float32)
    return out


def load(path: Path, max_seconds: float) -> Clip:
    """Reads, checks and trims a recording. Raises `AudioProblem`."""
    samples = read(path, max_seconds)
    seconds = len(samples) / RATE
    peak = float(np.abs(samples).max())
    if peak < SILENT_PEAK:
        raise AudioProblem("silent")
    clipped = float((np.abs(samples) >= CLIPPED_LEVEL).mean())
    if clipped > CLIPPED_SHARE:
        raise AudioProblem(f"clipped: {clipped:.1%} of the samples are at full scale")
    _, (start, end) = librosa().effects.trim(samples, top_db=TRIM_DB, frame_length=1024, hop_length=256)
    margin = int(MARGIN * RATE)
    first, last = max(0, int(start) - margin), min(len(samples), int(end) + margin)
    whole = first + (last - first) // FRAME * FRAME
    if whole >= int(end):  # ends on a whole frame, as long as that takes silence alone
        last = whole
    kept = samples[first:last]
    if len(kept) / RATE < MIN_SECONDS:
        raise AudioProblem(f"{len(kept) / RATE:.2f} s of speech; at least {MIN_SECONDS:g} s are needed")
    if len(kept) / RATE > max_seconds:
        raise AudioProblem(f"{len(kept) / RATE:.1f} s long; at most {max_seconds:g} s are used (`max_seconds`)")
    return Clip(np.ascontiguousarray(kept), seconds, seconds - len(kept) / RATE)


def rate_problem(text: str, seconds: float) -> str | None:
    """Why a text and a recording of this many seconds do not belong together, or None."""
    rate = len(text) / seconds
    low, high = CHARACTERS_PER_SECOND
    if rate > high:
        return f"{len(text)} characters in {seconds:.1f} s: the text is far too long for its recording"
    if rate < low and len(text) < 400:
        return f"{len(text)} characters in {seconds:.1f} s: the text is far too short for its recording"
    return None


def _reason(e: Exception) -> str:
    text = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
    return text.split(": ", 1)[-1] if text.startswith("Error opening") else text
