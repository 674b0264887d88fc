"""Metrics of the sound itself: silence, rate, pauses, pitch and loudness.

What they say about prosody has limits: they compare shapes of curves with one reading of the sentence, and a sentence may
be read well in many ways. They show flat or broken intonation; they do not show good intonation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qrecipe.data.audio import Audio
from qrecipe.evaluate.normalise import normalise
from qrecipe.evaluate.samples import Sample
from qrecipe.model.dsp import librosa
from qrecipe.qwen3 import SAMPLE_RATE

HOP = 480
"""Samples between frames of analysis: 20 ms."""
WINDOW = 960
SILENCE_DB = 40.0
"""Frames this far below the loudest one are silence, in dB."""
PAUSE = 0.2
"""Seconds of silence inside the speech that make a pause."""
F0_RANGE = (65.0, 500.0)
"""Hz that pitch is looked for in."""
LEAST_VOICED = 15
"""Voiced frames (0.3 s) below which a pitch says nothing."""

Curve = NDArray[np.float64]


def loudness(audio: Audio) -> Curve:
    """Level of every frame in dB below the loudest, [frames]. As `librosa.feature.rms`, without compiling for seconds."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(audio, WINDOW // 2), WINDOW)[::HOP].T
    energy = np.sqrt(np.mean(np.square(frames), axis=0)).astype(np.float64)
    peak = energy.max() if energy.size else 0.0
    level: Curve = 20 * np.log10(np.maximum(energy, 1e-10) / max(float(peak), 1e-10))
    return level


def speaking(audio: Audio) -> NDArray[np.bool_]:
    """Which frames are speech: [frames]. All are silent if nothing in the sound exceeds -60 dBFS."""
    if not audio.size or float(np.abs(audio).max()) < 1e-3:
        return np.zeros(1 + len(audio) // HOP, dtype=bool)
    return loudness(audio) > -SILENCE_DB


def silence_share(sample: Sample) -> float:
    """Silent frames over all frames."""
    return float(1 - speaking(sample.audio).mean())


def speaking_rate(sample: Sample) -> float | None:
    """Characters of the normalised text for every second from the first to the last speech."""
    spoken = np.flatnonzero(speaking(sample.audio))
    seconds = _span(spoken)
    return len(normalise(sample.row.text, sample.tag).replace(" ", "")) / seconds if seconds else None


def pause_rate(sample: Sample) -> float | None:
    """Pauses of 0.2 s or more between the first and the last speech, for every second of it."""
    spoken = np.flatnonzero(speaking(sample.audio))
    seconds, gaps = _span(spoken), np.diff(spoken) - 1
    return float((gaps * HOP / SAMPLE_RATE >= PAUSE).sum() / seconds) if seconds else None


def _span(spoken: NDArray[np.int64]) -> float | None:
    """Seconds from the first to the last frame of speech; None where there are fewer than two."""
    return float(spoken[-1] - spoken[0] + 1) * HOP / SAMPLE_RATE if spoken.size > 1 else None


def pitch(audio: Audio) -> Curve:
    """Semitones above 55 Hz of every frame, NaN where unvoiced, [frames]: probabilistic YIN (Mauch and Dixon 2014), librosa's."""
    f0, _, _ = librosa().pyin(
        audio, fmin=F0_RANGE[0], fmax=F0_RANGE[1], sr=SAMPLE_RATE, frame_length=4 * WINDOW // 2, hop_length=HOP, resolution=0.2
    )
    curve: Curve = 12 * np.log2(np.asarray(f0, dtype=np.float64) / 55.0)
    return curve


def f0_range(sample: Sample) -> float | None:
    """Semitones between the 5th and the 95th percentile of voiced frames."""
    voiced = pitch(sample.audio)
    voiced = voiced[~np.isnan(voiced)]
    if voiced.size < LEAST_VOICED:
        return None
    low, high = np.quantile(voiced, [0.05, 0.95])
    return float(high - low)


def aligned(first: Audio, second: Audio) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frames of two readings of one text that belong together: dynamic time warping over mel cepstra, level left out."""
    cepstra = [
        librosa().feature.mfcc(y=a, sr=SAMPLE_RATE, n_mfcc=14, n_fft=2 * WINDOW, win_length=WINDOW, hop_length=HOP)[1:]
        for a in (first, second)
    ]
    cepstra = [c - c.mean(axis=1, keepdims=True) for c in cepstra]
    path = librosa().sequence.dtw(X=cepstra[0], Y=cepstra[1], metric="euclidean")[1][::-1]
    return path[:, 0], path[:, 1]


def correlation(first: Curve, second: Curve) -> float | None:
    """Pearson's, over frames where both are numbers; None where there are too few or one is flat."""
    both = ~(np.isnan(first) | np.isnan(second))
    a, b = first[both], second[both]
    if a.size < LEAST_VOICED or a.std() < 1e-6 or b.std() < 1e-6:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def f0_correlation(sample: Sample) -> float | None:
    """Correlation of the pitch contours of the sample and of the recording, after alignment."""
    return _correlation(sample, pitch)


def energy_correlation(sample: Sample) -> float | None:
    """Correlation of the loudness of the sample and of the recording in dB, after alignment."""
    return _correlation(sample, lambda audio: np.maximum(loudness(audio), -60))


def _correlation(sample: Sample, curve: Callable[[Audio], Curve]) -> float | None:
    """Correlation of a curve of the sample with that of the recording; None without one."""
    if sample.recording is None:
        return None
    mine, theirs = aligned(sample.audio, sample.recording)
    first, second = curve(sample.audio), curve(sample.recording)
    inside = (mine < len(first)) & (theirs < len(second))
    return correlation(first[mine[inside]], second[theirs[inside]])
