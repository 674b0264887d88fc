"""Recordings corrupted on purpose, each in the way that some metric is there to notice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from qrecipe.data.audio import Audio
from qrecipe.evaluate.samples import Sample
from qrecipe.evaluate.sound import HOP, loudness
from qrecipe.model.dsp import librosa
from qrecipe.qwen3 import FRAME_SAMPLES, SAMPLE_RATE

NOISE_DB = 0.0
"""Signal to noise ratio of the noisy copies: as loud as the speech."""
CUT = 0.6
"""Share of a recording that is left when its end is cut."""
STUB = 0.3
"""Share that is left of one that hardly begins."""


def transcripts(samples: Sequence[Sample]) -> list[Sample]:
    """Every recording under the text of another one, of a length as like as can be."""
    order = sorted(range(len(samples)), key=lambda i: (len(samples[i].row.text), samples[i].row.line))
    moved = {order[k]: order[(k + 1) % len(order)] for k in range(len(order))}
    return [replace(s, row=replace(s.row, text=samples[moved[i]].row.text)) for i, s in enumerate(samples)]


def cut(samples: Sequence[Sample]) -> list[Sample]:
    """Without the last two fifths."""
    return [_with(s, s.audio[: int(CUT * len(s.audio))]) for s in samples]


def stub(samples: Sequence[Sample]) -> list[Sample]:
    """The first three tenths alone."""
    return [_with(s, s.audio[: max(SAMPLE_RATE // 10, int(STUB * len(s.audio)))]) for s in samples]


def doubled(samples: Sequence[Sample]) -> list[Sample]:
    """Every piece of half a second to a second, cut where it is quietest, said twice: a stutter."""
    corrupted = []
    for s in samples:
        level, pieces, start = loudness(s.audio), [], 0
        while len(s.audio) - start > SAMPLE_RATE:
            first, last = (start + SAMPLE_RATE // 2) // HOP, (start + SAMPLE_RATE) // HOP
            end = (first + int(np.argmin(level[first:last]))) * HOP
            pieces.append(s.audio[start:end])
            start = end
        pieces.append(s.audio[start:])
        corrupted.append(_with(s, np.concatenate([np.tile(p, 2) for p in pieces])))
    return corrupted


def reversed_(samples: Sequence[Sample]) -> list[Sample]:
    """Backwards."""
    return [_with(s, s.audio[::-1]) for s in samples]


def noise(samples: Sequence[Sample]) -> list[Sample]:
    """Under white noise as loud as the speech."""
    corrupted = []
    for s in samples:
        level = float(np.sqrt(np.mean(np.square(s.audio, dtype=np.float64)))) * 10 ** (-NOISE_DB / 20)
        hiss = np.random.default_rng(s.row.line).normal(0.0, level, len(s.audio))
        corrupted.append(_with(s, np.clip(s.audio + hiss, -1.0, 1.0)))
    return corrupted


def voice(samples: Sequence[Sample]) -> list[Sample]:
    """Another voice: a third higher, at the same pace."""
    return [_with(s, librosa().effects.pitch_shift(s.audio, sr=SAMPLE_RATE, n_steps=6.0)) for s in samples]


def flat(samples: Sequence[Sample]) -> list[Sample]:
    """The same sounds on one pitch: every frame's spectrum envelope on a pulse train of 120 Hz."""
    return [_with(s, _monotone(s.audio)) for s in samples]


def recordings(samples: Sequence[Sample]) -> list[Sample]:
    """Every row with the sound of another one."""
    return [
        replace(s, audio=samples[(i + 1) % len(samples)].audio, codes=samples[(i + 1) % len(samples)].codes) for i, s in enumerate(samples)
    ]


def gaps(samples: Sequence[Sample]) -> list[Sample]:
    """With a third of a second of silence after every half second."""
    corrupted = []
    for s in samples:
        pieces = [
            np.concatenate([s.audio[i : i + SAMPLE_RATE // 2], np.zeros(SAMPLE_RATE // 3, np.float32)])
            for i in range(0, len(s.audio), SAMPLE_RATE // 2)
        ]
        corrupted.append(_with(s, np.concatenate(pieces)))
    return corrupted


def endless(samples: Sequence[Sample]) -> list[Sample]:
    """Said over and over, up to the cap of generation."""
    return [_with(s, np.resize(s.audio, (s.cap + 1) * FRAME_SAMPLES)) for s in samples]


def stuck(samples: Sequence[Sample]) -> list[Sample]:
    """With one frame in the middle held for two seconds."""
    corrupted = []
    for s in samples:
        middle = s.frames // 2
        held = s.codes[middle : middle + 1].expand(25, -1)
        corrupted.append(replace(s, codes=torch.cat([s.codes[:middle], held, s.codes[middle:]])))
    return corrupted


CORRUPTIONS: dict[str, Callable[[Sequence[Sample]], list[Sample]]] = {
    "transcripts": transcripts,
    "cut": cut,
    "stub": stub,
    "doubled": doubled,
    "reversed": reversed_,
    "noise": noise,
    "voice": voice,
    "flat": flat,
    "recordings": recordings,
    "gaps": gaps,
    "endless": endless,
    "stuck": stuck,
}
"""By the names that metrics use."""
DESCRIPTIONS = {
    "transcripts": "under other texts",
    "cut": "cut off at three fifths",
    "stub": "cut off at three tenths",
    "doubled": "with everything said twice",
    "reversed": "backwards",
    "noise": "under noise as loud as the speech",
    "voice": "in another voice",
    "flat": "on one pitch",
    "recordings": "of other sentences",
    "gaps": "full of gaps",
    "endless": "that do not end",
    "stuck": "that hang on one sound",
}
"""The corrupted copies for people, as words after `recordings`."""


def _with(sample: Sample, audio: Audio) -> Sample:
    """A sample with another sound, and as many frames as it lasts."""
    audio = np.ascontiguousarray(audio, dtype=np.float32)
    frames = max(1, len(audio) // FRAME_SAMPLES)
    codes = sample.codes[torch.arange(frames) % max(1, sample.frames)]
    return replace(sample, audio=audio, codes=codes)


def _monotone(audio: Audio) -> Audio:
    from scipy.signal import lfilter

    order, hop, width = 24, SAMPLE_RATE // 100, SAMPLE_RATE // 25
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
