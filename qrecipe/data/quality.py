"""Listening to recordings: noise, bandwidth, silence inside, and what two files sound alike by. Measured once for a content."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qrecipe.data.audio import Audio, AudioProblem, read_original
from qrecipe.files import cache_dir
from qrecipe.hashes import FileHashes
from qrecipe.inputs.texts import near_key
from qrecipe.store import Journal

LISTENING = 1
"""Raised whenever a recording would get other numbers."""
FRAME = 0.02
"""Seconds of a frame of analysis."""
SILENCE_DB = 40.0
"""Frames this far below the loudest one are silence."""
QUIET, LOUD = 0.05, 0.95
"""Quantiles of the frames' levels whose distance is the ratio of speech to noise."""
FLOOR_DB = 100.0
"""The ratio of a recording whose pauses are digital silence; files of 16 bits hold no more."""
EDGE_DB = 60.0
"""Below its strongest part, in dB: where the long-term spectrum falls under this for good, the sound ends."""
BINS, PARTS = 16, 12
"""Bands and stretches of time of a fingerprint."""
ALIKE = 0.995
"""Correlation of two fingerprints from which recordings are the same sound."""
APART = 0.1
"""Seconds by which the same sound may differ in length: encoders pad."""


@dataclass(frozen=True)
class Quality:
    """Measures of one recording that need no understanding."""

    snr: float
    """dB between loud and quiet frames."""
    bandwidth: float
    """Hz up to which there is sound."""
    silence: float
    """Seconds of the longest silence between the first and the last speech."""
    seconds: float
    rate: int
    """Hz of the file."""
    print: tuple[int, ...]
    """Levels of bands over time, in whole dB: [BINS x PARTS]."""


def measure(path: Path) -> Quality:
    """Listens to a file as it is, before it is brought to 24 kHz. Raises `AudioProblem`."""
    samples, rate = read_original(path)
    levels = _levels(samples, rate)
    return Quality(
        round(_snr(levels), 1),
        round(_bandwidth(samples, rate)),
        round(_inner_silence(levels), 2),
        round(len(samples) / rate, 3),
        rate,
        _print(samples, rate),
    )


def _levels(samples: Audio, rate: int) -> NDArray[np.float64]:
    """Level of every frame, dB of full scale, [frames]."""
    size = max(1, int(FRAME * rate))
    count = max(1, len(samples) // size)
    frames = np.resize(samples, count * size).reshape(count, size).astype(np.float64)
    level: NDArray[np.float64] = 10 * np.log10(np.maximum((frames**2).mean(1), 1e-12))
    return level


def _snr(levels: NDArray[np.float64]) -> float:
    quiet, loud = np.quantile(levels, [QUIET, LOUD])
    return float(min(loud - quiet, FLOOR_DB))


def _inner_silence(levels: NDArray[np.float64]) -> float:
    spoken = np.flatnonzero(levels > levels.max() - SILENCE_DB)
    return float((np.diff(spoken) - 1).max(initial=0)) * FRAME


def _spectrum(samples: Audio, rate: int, size: int) -> NDArray[np.float64]:
    """Power of windows of `size` samples, half overlapping, [windows, size // 2 + 1]."""
    padded = np.pad(samples, (0, max(0, size - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 2]
    return np.asarray(np.abs(np.fft.rfft(windows * np.hanning(size), axis=1)) ** 2)


def _bandwidth(samples: Audio, rate: int) -> float:
    """The highest frequency of the long-term spectrum, smoothed over 200 Hz, above the edge."""
    size = 2048
    power = _spectrum(samples, rate, size).mean(0)
    width = max(1, round(200 / (rate / size)))
    level = 10 * np.log10(np.maximum(np.convolve(power, np.ones(width) / width, "same"), 1e-12))
    above = np.flatnonzero(level > level.max() - EDGE_DB)
    return float(above[-1] * rate / size) if above.size else 0.0


def _print(samples: Audio, rate: int) -> tuple[int, ...]:
    """Levels of bands below 4 kHz over stretches of the speech: the same in whatever format and level a sound is stored."""
    levels = _levels(samples, rate)
    spoken = np.flatnonzero(levels > levels.max() - SILENCE_DB)
    size = max(1, int(FRAME * rate))
    speech = samples[spoken[0] * size : (spoken[-1] + 1) * size]
    power = _spectrum(speech, rate, 1 << max(6, round(math.log2(0.05 * rate))))
    hertz = np.linspace(0, rate / 2, power.shape[1])
    edges = np.geomspace(100, min(4000, rate / 2), BINS + 1)
    bands = np.stack([power[:, (hertz >= a) & (hertz <= b)].sum(1) for a, b in itertools.pairwise(edges)], 1)
    parts = [p.mean(0) for p in np.array_split(bands, PARTS) if len(p)]
    while len(parts) < PARTS:
        parts.append(parts[-1])
    level = 10 * np.log10(np.maximum(np.stack(parts), 1e-12))
    return tuple(int(v) for v in np.round(level - level.max()).clip(-80, 0).ravel())


class QualityMeter:
    """Measures recordings, remembering the results by content."""

    def __init__(self, hashes: FileHashes) -> None:
        self._hashes = hashes
        self._journal = Journal(cache_dir() / "quality" / f"recordings-{LISTENING}.jsonl")

    def quality(self, path: Path) -> Quality | None:
        """Measures of a recording; None for one that cannot be read."""

        def make() -> dict[str, Any] | None:
            try:
                return asdict(measure(path))
            except AudioProblem:
                return None

        value = self._journal.get_or_make([LISTENING, self._hashes.sha256(path)], make)
        return None if value is None else Quality(**{**value, "print": tuple(value["print"])})


def doubled(qualities: Mapping[int, Quality]) -> dict[int, int]:
    """Rows that are the same sound as an earlier one -> the earlier one, whatever format and level they are in."""
    by_length: dict[int, list[int]] = defaultdict(list)
    prints = {i: _centred(q) for i, q in qualities.items()}
    repeated: dict[int, int] = {}
    for i in sorted(qualities):
        slot = int(qualities[i].seconds / APART)
        near = [j for s in (slot - 1, slot, slot + 1) for j in by_length[s] if abs(qualities[j].seconds - qualities[i].seconds) <= APART]
        if near:
            likeness = np.stack([prints[j] for j in near]) @ prints[i]
            if likeness.max() >= ALIKE:
                repeated[i] = near[int(likeness.argmax())]
                continue
        by_length[slot].append(i)
    return repeated


def _centred(quality: Quality) -> NDArray[np.float64]:
    values = np.array(quality.print, dtype=np.float64)
    values -= values.mean()
    unit: NDArray[np.float64] = values / max(float(np.linalg.norm(values)), 1e-9)
    return unit


ORDER = 3
"""Characters that a letter of a text is expected from, itself included."""
ROUNDS = 2
"""Times that the usual half of texts is chosen."""
UNUSUAL = 4.0
"""Robust deviations from the dataset's median from which a text is in another language."""


def foreign(texts: Sequence[str]) -> list[float]:
    """How unlike the usual ones each text is spelled: deviations of nats a letter from the median, by trigrams of others.

    The more usual half of the texts is the measure, so that texts of another language do not vouch for one another.
    """
    keys = [f"  {near_key(t)} " for t in texts]
    grams = [Counter(k[i : i + ORDER] for i in range(len(k) - ORDER + 1)) for k in keys]
    letters = len({c for k in keys for c in k})
    rates = _nats(grams, set(range(len(texts))), letters)
    for _ in range(ROUNDS):
        usual = sorted(range(len(texts)), key=rates.__getitem__)[: (len(texts) + 1) // 2]
        rates = _nats(grams, set(usual), letters)
    return deviations(rates)


def _nats(grams: Sequence[Counter[str]], usual: set[int], letters: int) -> list[float]:
    """Nats a letter of every text by the trigrams of the usual ones, without its own."""
    all_grams: Counter[str] = Counter()
    for i in usual:
        all_grams.update(grams[i])
    all_heads, none = _heads(all_grams), Counter[str]()
    rates = []
    for i, own in enumerate(grams):
        counted = own if i in usual else none  # a text does not count among the others
        heads = _heads(counted)
        nats = 0.0
        for gram, n in own.items():
            likely = (all_grams[gram] - counted[gram] + 0.1) / (all_heads[gram[:-1]] - heads[gram[:-1]] + 0.1 * letters)
            nats -= n * math.log(likely)
        rates.append(nats / max(1, sum(own.values())))
    return rates


def _heads(grams: Counter[str]) -> Counter[str]:
    """How often letters follow what a trigram begins with."""
    heads: Counter[str] = Counter()
    for gram, n in grams.items():
        heads[gram[:-1]] += n
    return heads


def deviations(values: Sequence[float]) -> list[float]:
    """Distances from the median in robust standard deviations."""
    array = np.array(values, dtype=np.float64)
    middle = float(np.median(array)) if array.size else 0.0
    spread = 1.4826 * float(np.median(np.abs(array - middle))) if array.size else 1.0
    return [float((v - middle) / max(spread, 1e-3)) for v in array]


def two_voices(vectors: NDArray[np.float64]) -> float:
    """How far the clips [n, hidden] of one speaker fall into two groups: cosine between the groups' centres, 1 for one voice.

    The groups grow from the two clips that are most unlike.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    cosine = unit @ unit.T
    first, second = np.unravel_index(int(cosine.argmin()), cosine.shape)
    centres = unit[[first, second]]
    for _ in range(10):
        own = (unit @ centres.T).argmax(1)
        if own.min() == own.max():
            return 1.0
        centres = np.stack([unit[own == k].mean(0) for k in (0, 1)])
        centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-9)
    return float(centres[0] @ centres[1])
