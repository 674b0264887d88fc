"""Recordings for tests: synthetic, seeded, with the gross statistics of speech."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 24_000

Audio = NDArray[np.float32]


def speech(seed: int, seconds: float = 1.2, rate: int = RATE, pause: float = 0.0) -> Audio:
    """Voiced syllables with formants that wander, [samples] within ±0.6; `pause` seconds of silence on both sides."""
    return _speech(seed, seconds, rate, pause).copy()


@lru_cache(maxsize=256)
def _speech(seed: int, seconds: float, rate: int, pause: float) -> Audio:
    random = np.random.default_rng(seed)
    count = int(seconds * rate)
    time = np.arange(count) / rate
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * (4 + random.random()) * time + random.uniform(0, 6))
    pitch = random.uniform(100, 220) * (1 + 0.15 * np.sin(2 * np.pi * random.uniform(0.5, 2) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    centres = random.uniform((300, 900, 2300), (900, 2300, 3400))[:, None] * (1 + 0.3 * np.sin(2 * np.pi * 3 * time + seed))
    out = np.zeros(count)
    for harmonic in range(1, 16):
        level = 0.03 + np.exp(-(((harmonic * pitch - centres) / 200) ** 2)).sum(0)
        out += level * np.sin(harmonic * phase)
    out = out * syllables + 0.01 * random.standard_normal(count)
    out *= 0.5 / np.abs(out).max()
    silence = np.zeros(int(pause * rate))
    return np.concatenate([silence, out, silence]).astype(np.float32)


def write(path: Path, samples: Audio, rate: int = RATE, **settings: Any) -> Path:
    """Writes a recording; `settings` are soundfile's (`format`, `subtype`). Without soundfile's waiting for the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(samples, rate, **{"format": path.suffix[1:].upper(), **settings}))
    return path


def encoded(samples: Audio, rate: int = RATE, **settings: Any) -> bytes:
    """A recording as the bytes of a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **settings)
    return buffer.getvalue()
