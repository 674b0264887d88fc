"""Recordings: read, brought to 24 kHz mono, trimmed and checked."""

from __future__ import annotations

import contextlib
import io
import math
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qrecipe.data import containers, media
from qrecipe.errors import in_a_line
from qrecipe.inputs.wav import read_wav
from qrecipe.qwen3 import FRAME_SAMPLES, SAMPLE_RATE

TRIM_DB = 40.0
"""Sound this far below the loudest part counts as silence, in dB."""
TRIM_FRAME, TRIM_HOP = 1024, 256
"""Samples over which loudness is taken, and from one of these to the next."""
MARGIN = 0.1
"""Seconds of silence that stay at most on both sides."""
LOUDEST = 1e12
"""Of samples in floating point; some tools scale them as whole numbers of 32 bits."""
SILENT_PEAK = 1e-3
"""Full scale is 1; a recording that never exceeds this is silent (-60 dBFS)."""
CANCELLED = 0.02
"""Channels whose mean is below this share of the loudest one cancel each other out."""
MISSING_SECONDS = 0.05
"""A file that holds so much less than its header says broke off."""
MAX_STREAM = 1 << 30
"""Bytes of a stream's file that is read whole, to give its header a size."""
CLIPPED_LEVEL = 0.999
CLIPPED_SHARE = 0.002
"""A recording with a larger share of samples in cut-off tops is clipped."""
FLAT = 1e-4
FLAT_RUN = 4
"""A top is cut off if this many samples in a row lie this near to the peak; a voice's own tops are round."""
INCOMPLETE = "is incomplete: copy or fetch the file again"
MIN_SECONDS = 0.3
MAX_REFERENCE = 30.0
"""Seconds of a reference where no dataset says `max_seconds`."""
MAX_SAMPLES = 1 << 26
"""Of all channels, 256 MiB in memory: what a header promises is checked before memory is taken."""
MAX_CHARACTERS_PER_SECOND = 45.0
"""A faster text does not belong to its recording; the fastest readers lie well below."""
SLOW_START, SLOW_RATE = 2.0, 2.0
"""A text may take these seconds and a second for each two characters: one word or one logograph is said slowly."""

Audio = NDArray[np.float32]


class AudioProblem(Exception):
    """Why a recording cannot be used, in a sentence."""

    def __init__(self, message: str, kind: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind or message
        """The same without the numbers of one recording, for whoever counts. Follows the words "the recording"."""


@dataclass(frozen=True)
class Clip:
    """A recording at 24 kHz, mono."""

    samples: Audio
    """[samples] float32."""
    seconds: float
    """Duration before trimming."""
    trimmed: float
    """Seconds that trimming took away."""
    speech: Audio
    """The samples from the first to the last sound."""


def read(path: Path, max_seconds: float | None = None) -> Audio:
    """Reads any file that libsndfile or PyAV reads as mono at 24 kHz, the way stock qwen_tts does: mean of the channels, then
    librosa's default resampler. Raises `AudioProblem`."""
    sound = _decode(path, max_seconds)
    return resample(_mono(sound.samples), sound.rate)


def read_original(path: Path) -> tuple[Audio, int]:
    """A file as mono [samples] at its own rate, Hz. Raises `AudioProblem`."""
    sound = _decode(path, None)
    return _mono(sound.samples), sound.rate


@dataclass(frozen=True)
class _Decoded:
    """A file's samples as they are."""

    samples: Audio
    """[samples, channels] float32."""
    rate: int
    """Hz."""
    floating: bool
    """Whether the file may hold samples beyond full scale."""


def _decode(path: Path, max_seconds: float | None) -> _Decoded:
    import soundfile

    try:
        if media.is_container(path):
            return _decode_container(path, max_seconds)
        with quiet(), soundfile.SoundFile(_source(path)) as f:
            rate, frames = int(f.samplerate), int(f.frames)
            _check_size(frames, f.channels, rate, max_seconds)
            samples = f.read(frames, dtype="float32", always_2d=True)
            floating = f.subtype in ("FLOAT", "DOUBLE")
    except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as e:
        raise AudioProblem(f"cannot be read as audio: {_reason(e)}") from None
    if samples.shape[0] == 0:
        raise AudioProblem("holds no samples")
    if frames - samples.shape[0] > MISSING_SECONDS * rate:
        raise _broken_off(frames / rate, samples.shape[0] / rate)
    if not np.isfinite(samples).all():
        raise AudioProblem("holds samples that are not numbers")
    return _Decoded(samples, rate, floating)


def _check_size(frames: int, channels: int, rate: int, max_seconds: float | None) -> None:
    """Raises `AudioProblem` for what is no speech or too much of it."""
    if rate < 1000 or rate > 768_000:
        raise AudioProblem(f"a sampling rate of {rate} Hz", "has a sampling rate that no speech has")
    if max_seconds is not None and frames / rate > max_seconds + 60:
        raise AudioProblem(f"{frames / rate:.0f} s long; at most {max_seconds:g} s are used (`max_seconds`)")
    if frames * channels > MAX_SAMPLES:
        message = f"{frames:,} samples of {channels} channels; at most {MAX_SAMPLES:,} are read"
        raise AudioProblem(message, f"has more than {MAX_SAMPLES:,} samples in all channels")


def _decode_container(path: Path, max_seconds: float | None) -> _Decoded:
    """A file that libsndfile does not read. Its length is known when it has been decoded."""
    try:
        stream = media.open_stream(path)
        blocks, frames = [], 0
        for block in stream.blocks:
            blocks.append(block)
            frames += len(block)
            _check_size(frames, stream.channels, stream.rate, max_seconds)
    except (ValueError, ImportError) as e:
        raise AudioProblem(f"cannot be read as audio: {e}") from None
    if not frames:
        raise AudioProblem("holds no samples")
    return _Decoded(np.concatenate(blocks), stream.rate, True)


def _source(path: Path) -> str | io.BytesIO:
    """A file for libsndfile, which believes headers: one that broke off is refused, a stream's is given its size.

    Raises `AudioProblem` and `OSError`.
    """
    if (wav := read_wav(path)) is not None:
        if wav.missing_seconds > MISSING_SECONDS:
            raise _broken_off(wav.seconds + wav.missing_seconds, wav.seconds)
        if wav.streamed and wav.start + wav.present <= MAX_STREAM:
            content = bytearray(path.read_bytes())
            content[wav.start - 4 : wav.start] = struct.pack("<I", wav.present)
            content[4:8] = struct.pack("<I", len(content) - 8)
            return io.BytesIO(content)
    elif (missing := containers.missing_bytes(path)) > 0:
        raise AudioProblem(f"incomplete: its last part lacks {missing:,} bytes; copy or fetch the file again", INCOMPLETE)
    return str(path)


def _broken_off(promised: float, present: float) -> AudioProblem:
    return AudioProblem(f"incomplete: {promised:.2f} s by its header, {present:.2f} s in the file; copy or fetch it again", INCOMPLETE)


def _mono(samples: Audio) -> Audio:
    """[samples, channels] -> their mean. Raises `AudioProblem` if the channels cancel each other out."""
    if samples.shape[1] == 1:
        return np.ascontiguousarray(samples[:, 0])
    mono: Audio = np.ascontiguousarray(samples.mean(axis=1, dtype=np.float32))
    loudest = float(np.abs(samples).max())
    if loudest >= SILENT_PEAK and float(np.abs(mono).max()) < CANCELLED * loudest:
        why = "the channels cancel each other out: one is the other turned over; keep one of them"
        raise AudioProblem(why, "has channels that cancel each other out: one is the other turned over; keep one of them")
    return mono


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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


def encoded(samples: Audio, rate: int, format: str, subtype: str) -> bytes:  # soundfile's own words
    """A sound file of [samples] at `rate` Hz. In memory, so that a full disk is an error of the operating system."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


def resample(samples: Audio, rate: int, target: int = SAMPLE_RATE) -> Audio:
    """[samples] at `rate` -> [samples] at `target` Hz, as `librosa.resample` gives them: soxr's high quality, the length rounded up."""
    if rate == target:
        return samples
    import soxr

    length = math.ceil(len(samples) * (target / rate))
    out: Audio = soxr.resample(samples, rate, target, quality="soxr_hq")[:length]
    return np.pad(out, (0, length - len(out))).astype(np.float32)


def load(path: Path, max_seconds: float) -> Clip:
    """Reads, checks and trims a recording. Raises `AudioProblem`."""
    samples, (start, end) = _checked(path, max_seconds)
    seconds = len(samples) / SAMPLE_RATE
    margin = int(MARGIN * SAMPLE_RATE)
    first, last = max(0, start - margin), min(len(samples), end + margin)
    whole = first + (last - first) // FRAME_SAMPLES * FRAME_SAMPLES
    if whole >= end:  # ends on a whole frame, as long as that takes silence alone
        last = whole
    speech = np.ascontiguousarray(samples[first:last])
    require_length(len(speech) / SAMPLE_RATE, max_seconds)
    return Clip(speech, seconds, seconds - len(speech) / SAMPLE_RATE, samples[start:end])


def load_reference(path: Path, max_seconds: float) -> Clip:
    """Reads and checks a recording that gives a voice; it is heard whole, as stock qwen_tts hears it. Raises `AudioProblem`."""
    samples, (start, end) = _checked(path, max_seconds)
    require_length((end - start) / SAMPLE_RATE, max_seconds, " of a reference")
    return Clip(samples, len(samples) / SAMPLE_RATE, 0.0, samples[start:end])


def require_length(seconds: float, max_seconds: float, of: str = " (`max_seconds`)") -> None:
    """Raises `AudioProblem` for speech that is too short or too long to be used."""
    if seconds < MIN_SECONDS:
        raise AudioProblem(f"{seconds:.2f} s of speech; at least {MIN_SECONDS:g} s are needed")
    if seconds > max_seconds:
        raise AudioProblem(f"{seconds:.1f} s long; at most {max_seconds:g} s{of} are used")


def _checked(path: Path, max_seconds: float) -> tuple[Audio, tuple[int, int]]:
    """Samples of a recording in which something is heard, with the first and the last of that. Raises `AudioProblem`."""
    sound = _decode(path, max_seconds)
    samples = resample(_mono(sound.samples), sound.rate)
    _check_levels(sound, samples)
    return samples, _sounding(samples)


def check(path: Path, max_seconds: float) -> None:
    """Raises `AudioProblem` where `load` would, but for speech that is too short or too long: in a third of the time."""
    sound = _decode(path, max_seconds)
    _check_levels(sound, _mono(sound.samples))


def _check_levels(sound: _Decoded, samples: Audio) -> None:
    """Raises `AudioProblem` for a sound of which too much is cut off, and for one whose mean of the channels is nothing to hear."""
    peak = float(np.abs(samples).max())
    if peak < SILENT_PEAK:
        raise AudioProblem("silent", "is silent")
    if peak > LOUDEST:
        raise AudioProblem(f"damaged: a sample of {peak:.0e}, where full scale is 1", "is damaged: samples lie far beyond full scale")
    clipped = max(_clipped(channel, sound.floating) for channel in sound.samples.T)
    if clipped > CLIPPED_SHARE:
        cut = "samples are cut off at the loudest level"
        raise AudioProblem(f"clipped: {clipped:.1%} of the {cut}", f"is clipped: {cut}")


def _sounding(samples: Audio) -> tuple[int, int]:
    """The first and the last sample of what is heard, as `librosa.effects.trim` places them, which takes seconds to import."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, TRIM_FRAME // 2), TRIM_FRAME)[::TRIM_HOP]
    power = np.square(np.sqrt(np.mean(np.square(frames), axis=1)))
    decibels = 10.0 * np.log10(np.maximum(1e-10, power)) - 10.0 * np.log10(np.maximum(1e-10, power.max()))
    heard = np.flatnonzero(decibels > -TRIM_DB)
    return int(heard[0]) * TRIM_HOP, min(len(samples), (int(heard[-1]) + 1) * TRIM_HOP)


def _clipped(samples: Audio, floating: bool) -> float:
    """Share of samples [samples] whose tops were cut off: flat runs at the peak, wherever it lies.

    A file of whole numbers that reaches full scale needs no runs, since a lossy codec bends what was flat.
    """
    level = np.abs(samples)
    peak = float(level.max())
    if peak < SILENT_PEAK:
        return 0.0  # a channel without a microphone
    if peak >= CLIPPED_LEVEL and not floating:
        return float((level >= CLIPPED_LEVEL).mean())
    flat = level >= peak * (1 - FLAT)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flat, [False])).astype(np.int8)))
    runs = edges[1::2] - edges[::2]
    return float(runs[runs >= FLAT_RUN].sum() / len(samples))


def rate_problem(text: str, seconds: float) -> str | None:
    """Why a text and a recording of this many seconds do not belong together, or None."""
    if len(text) / seconds > MAX_CHARACTERS_PER_SECOND:
        return f"{len(text)} characters in {seconds:.1f} s: the text is far too long for its recording"
    if seconds > SLOW_START + len(text) / SLOW_RATE and len(text) < 400:
        return f"{len(text)} characters in {seconds:.1f} s: the text is far too short for its recording"
    return None


def _reason(e: Exception) -> str:
    text = in_a_line(e, 600)
    return text.split(": ", 1)[-1] if text.startswith("Error opening") else text
