"""Encoding and speaking: hours of audio a minute, frames a second, through what `qrecipe run` calls."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qrecipe.errors import Place
from qrecipe.files import FileHashes
from qrecipe.model import speak
from qrecipe.model.opened import Opened, open_model
from qrecipe.plan.fetch import resolve
from qrecipe.qwen3 import SAMPLE_RATE
from qrecipe.recipe.base import Base

ENCODED_AT_ONCE = 60
"""Seconds, as in `qrecipe.data.codes`."""


def opened(base: str) -> Opened:
    """`builtin:mini` or a folder."""
    return open_model(resolve(Base(model=base), Path.cwd(), Place("benchmark"), FileHashes()))


def encoding(base: str, minutes: float) -> dict[str, Any]:
    """Clips of 3 to 9 seconds in batches by length."""
    model = opened(base)
    rng = np.random.default_rng(0)
    lengths = sorted(int(s * 12.5) * model.samples_per_frame for s in rng.uniform(3, 9, round(minutes * 10)))
    audios = [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in lengths]
    batches: list[list[Any]] = [[]]
    for audio in audios:
        if (len(batches[-1]) + 1) * len(audio) > ENCODED_AT_ONCE * SAMPLE_RATE:
            batches.append([])
        batches[-1].append(audio)
    model.encode(batches[0])
    began = time.perf_counter()
    for batch in batches:
        model.encode(batch)
    seconds = time.perf_counter() - began
    hours = sum(lengths) / SAMPLE_RATE / 3600
    return {"what": "encoding, batches by length", "audio hours": round(hours, 3), "hours a minute": round(hours / (seconds / 60), 2)}


def speaking(base: str, sizes: list[int], frames: int) -> dict[str, Any]:
    """Batches through stock `generate_voice_clone`, to the cap of `frames` each."""
    model = opened(base)
    voice = torch.randn(int(model.config.talker_config.hidden_size), generator=torch.Generator().manual_seed(0)) * 0.02
    found = {}
    for size in sizes:
        said = [speak.Utterance("Selamat pagi, apa khabar hari ini?", "auto", voice)] * size
        speak.speak(model, said[:1], layout="streaming", seed=0, max_frames=2)
        began = time.perf_counter()
        made = speak.speak(model, said, layout="streaming", seed=0, max_frames=frames, min_new_tokens=frames)
        seconds = time.perf_counter() - began
        found[str(size)] = round(sum(len(m.codes) for m in made) / seconds, 1)
    return {"what": "speaking, frames a second by batch", **found}
