"""Recordings corrupted on purpose, each in the way that some metric is there to notice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from qrecipe.data.audio import Audio, resample
from qrecipe.evaluate.samples import Sample
from qrecipe.evaluate.sound import HOP, loudness
from qrecipe.model.dsp import librosa
from qrecipe.qwen3 import FRAME_SAMPLES, SAMPLE_RATE

NOISE_DB = 0.0
"""Signal to noise ratio of the noisy copies: as loud as the speech."""
CUT = 0.6
"""Share of a recording that is left when its end is cut."""
WINDOW = 2048
"""Samples of a window of the spectrum."""
STUB = 0.3
"""Share that is left of one that hardly begins."""


Corruption = Callable[[Sequence[Sample]], list[Sample]]
CORRUPTIONS: dict[str, Corruption] = {}
"""By the names that metrics use."""
DESCRIPTIONS: dict[str, str] = {}
"""The corrupted copies for people, as words after `recordings`."""


def _corruption(name: str, description: str) -> Callable[[Corruption], Corruption]:
    """Registers a way of corrupting a dataset's recordings."""

    def register(corrupt: Corruption) -> Corruption:
        CORRUPTIONS[name], DESCRIPTIONS[name] = corrupt, description
        return corrupt

    return register


def _of_the_sound(name: str, description: str) -> Callable[[Callable[[Sample], Audio]], Corruption]:
    """Registers a way of corrupting every recording by itself; the function returns its sound."""
    return lambda corrupt: _corruption(name, description)(lambda samples: [_with(s, corrupt(s)) for s in samples])


@_corruption("transcripts", "under other texts")
def _transcripts(samples: Sequence[Sample]) -> list[Sample]:
    """Every recording under the text of another one, of a length as like as can be."""
    order = sorted(range(len(samples)), key=lambda i: (len(samples[i].row.text), samples[i].row.line))
    moved = {order[k]: order[(k + 1) % len(order)] for k in range(len(order))}
    return [replace(s, row=replace(s.row, text=samples[moved[i]].row.text)) for i, s in enumerate(samples)]


@_of_the_sound("cut", "cut off at three fifths")
def _cut(sample: Sample) -> Audio:
    return sample.audio[: int(CUT * len(sample.audio))]


@_of_the_sound("stub", "cut off at three tenths")
def _stub(sample: Sample) -> Audio:
    return sample.audio[: max(SAMPLE_RATE // 10, int(STUB * len(sample.audio)))]


@_of_the_sound("doubled", "with everything said twice")
def _doubled(sample: Sample) -> Audio:
    """Every piece of half a second to a second, cut where it is quietest, said twice: a stutter."""
    level, pieces, start = loudness(sample.audio), [], 0
    while len(sample.audio) - start > SAMPLE_RATE:
        first, last = (start + SAMPLE_RATE // 2) // HOP, (start + SAMPLE_RATE) // HOP
        end = (first + int(np.argmin(level[first:last]))) * HOP
        pieces.append(sample.audio[start:end])
        start = end
    pieces.append(sample.audio[start:])
    return np.concatenate([np.tile(p, 2) for p in pieces])


@_of_the_sound("reversed", "backwards")
def _reversed(sample: Sample) -> Audio:
    return sample.audio[::-1]


@_of_the_sound("noise", "under noise as loud as the speech")
def _noise(sample: Sample) -> Audio:
    """White noise."""
    level = float(np.sqrt(np.mean(np.square(sample.audio, dtype=np.float64)))) * 10 ** (-NOISE_DB / 20)
    hiss = np.random.default_rng(sample.row.line).normal(0.0, level, len(sample.audio))
    noisy: Audio = np.clip(sample.audio + hiss, -1.0, 1.0)
    return noisy


@_of_the_sound("voice", "in another voice")
def _voice(sample: Sample) -> Audio:
    """Half an octave higher, at the same pace: stretched, then played faster. As librosa, without compiling for seconds."""
    from torchaudio.functional import phase_vocoder

    audio, slower = torch.from_numpy(np.ascontiguousarray(sample.audio)), 2.0**-0.5
    windows: dict[str, Any] = {"n_fft": WINDOW, "hop_length": WINDOW // 4, "window": torch.hann_window(WINDOW)}
    spectrum = torch.stft(audio, **windows, pad_mode="constant", return_complex=True)
    advance = torch.linspace(0, math.pi * WINDOW // 4, len(spectrum)).unsqueeze(1)
    stretched = torch.istft(phase_vocoder(spectrum, slower, advance), **windows, length=round(len(audio) / slower))
    return np.resize(resample(stretched.numpy(), round(SAMPLE_RATE / slower)), len(audio))


@_of_the_sound("flat", "on one pitch")
def _flat(sample: Sample) -> Audio:
    """The same sounds: every frame's spectrum envelope on a pulse train of 120 Hz."""
    from scipy.signal import lfilter

    audio, order, hop, width = sample.audio, 24, SAMPLE_RATE // 100, SAMPLE_RATE // 25
    pulses = np.zeros(len(audio) + width)
    pulses[:: SAMPLE_RATE // 120] = 1.0
    window = np.hanning(width)
    out = np.zeros(len(audio) + width)
    padded = np.pad(audio.astype(np.float64), (0, width))
    for start in range(0, len(audio), hop):
        frame = padded[start : start + width] * window
        energy = float(np.sqrt(np.mean(frame**2)))
        if energy < 1e-5:
            continue
        made = lfilter([1.0], librosa().lpc(frame + 1e-6 * window, order=order), pulses[start : start + width])
        out[start : start + width] += window * made * energy / max(float(np.sqrt(np.mean((made * window) ** 2))), 1e-9)
    peak = float(np.abs(out).max()) or 1.0
    return (out[: len(audio)] / peak * float(np.abs(audio).max())).astype(np.float32)


@_corruption("recordings", "of other sentences")
def _recordings(samples: Sequence[Sample]) -> list[Sample]:
    """Every row with the sound of another one."""
    others = [*samples[1:], *samples[:1]]
    return [replace(s, audio=o.audio, codes=o.codes) for s, o in zip(samples, others, strict=True)]


@_of_the_sound("gaps", "full of gaps")
def _gaps(sample: Sample) -> Audio:
    """A third of a second of silence after every half second."""
    silence = np.zeros(SAMPLE_RATE // 3, np.float32)
    starts = range(0, len(sample.audio), SAMPLE_RATE // 2)
    return np.concatenate([part for i in starts for part in (sample.audio[i : i + SAMPLE_RATE // 2], silence)])


@_of_the_sound("endless", "that do not end")
def _endless(sample: Sample) -> Audio:
    """Said over and over, up to the cap of generation."""
    return np.resize(sample.audio, (sample.cap + 1) * FRAME_SAMPLES)


@_corruption("stuck", "that hang on one sound")
def _stuck(samples: Sequence[Sample]) -> list[Sample]:
    """With one frame in the middle held for two seconds."""
    corrupted = []
    for s in samples:
        middle = s.frames // 2
        held = s.codes[middle : middle + 1].expand(25, -1)
        corrupted.append(replace(s, codes=torch.cat([s.codes[:middle], held, s.codes[middle:]])))
    return corrupted


def _with(sample: Sample, audio: Audio) -> Sample:
    """A sample with another sound, and as many frames as it lasts."""
    audio = np.ascontiguousarray(audio, dtype=np.float32)
    frames = max(1, len(audio) // FRAME_SAMPLES)
    codes = sample.codes[torch.arange(frames) % max(1, sample.frames)]
    return replace(sample, audio=audio, codes=codes)
