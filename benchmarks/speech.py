"""Encoding and speaking: hours of audio a minute, frames a second, through what `qrecipe run` calls."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import whole
from qrecipe.data.codes import Encoder
from qrecipe.data.prepare import Requirements, prepare
from qrecipe.errors import Place
from qrecipe.hashes import FileHashes
from qrecipe.inputs.fetch import resolve
from qrecipe.inputs.manifest import read_manifest
from qrecipe.model import generate, speak
from qrecipe.model.load import LoadedBase, open_model
from qrecipe.phases import measured
from qrecipe.qwen3 import SAMPLE_RATE, Layout
from qrecipe.recipe.base import Base
from qrecipe.recipe.dataset import SpeechDataset

TEXT = "Selamat pagi, apa khabar hari ini?"
ENCODED_AT_ONCE = 240
"""Seconds, as in `qrecipe.data.codes`."""


def opened(base: str) -> LoadedBase:
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


def recordings(base: str, work: Path, hours: float) -> dict[str, Any]:
    """From files on the disk to rows whose codes and voices are cached, as `qrecipe run` prepares them.

    Every clip is the reference of another one, as where no reference is named: it is read thrice and encoded twice.
    """
    folder = work / "recordings"
    shutil.rmtree(folder, ignore_errors=True)
    seconds = whole.dataset(folder / "clips", hours * 3600, 0)
    model, hashes = opened(base), FileHashes(folder / "hashes.sqlite")
    encoder = Encoder(model, resolve(Base(model=base), Path.cwd(), Place("benchmark"), hashes), hashes, folder / "cache")
    model.encode([np.zeros(SAMPLE_RATE, dtype=np.float32)] * 2)
    settings = SpeechDataset.model_validate({"kind": "speech", "language": "english", "path": "clips.jsonl"})
    manifest = read_manifest(folder / "clips.jsonl", "speech", model.tokenizer)
    with measured() as clock:
        data = prepare("clips", settings, manifest, encoder, Requirements())
    phases = clock.table()
    assert len(data.rows) == len(manifest.rows)
    return {
        "what": f"{hours:g} hours of recordings, from files to codes and voices in the cache",
        "recordings": len(data.rows),
        "s": round(sum(phases.values()), 1),
        "times real time": round(seconds / sum(phases.values())),
        "phases": {name: round(s, 1) for name, s in phases.items()},
    }


def speaking(base: str, sizes: list[int], frames: int, stock_frames: int) -> dict[str, Any]:
    """Frames a second of `generate` with so many rows, beside stock `generate_voice_clone`.

    Twice as many prompts as rows, of `frames` on average, so that rows which end are replaced; laying out and prefill count.
    Stock speaks one batch to the cap of `stock_frames`: its time a frame does not depend on how far it has come.
    """
    model = opened(base)
    voice = torch.randn(int(model.config.talker_config.hidden_size), generator=torch.Generator().manual_seed(0)) * 0.02
    sampling = replace(generate.Sampling.of(model.wrapper), min_frames=10 * frames)
    found: dict[str, Any] = {"frames/s": {}, "stock frames/s": {}, "first call s": {}, "peak GB by rows": {}}
    for size in sizes:
        prompts = generate.numbered(prompts_of(model, voice, 2 * size, frames))
        seconds, made = [], []
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            began = time.perf_counter()
            made = generate.generate(model, prompts, sampling, batch=size, task=size)
            seconds.append(time.perf_counter() - began)
        count = sum(len(codes) for codes in made)
        assert count == sum(p.max_frames or 0 for p in prompts)
        found["frames/s"][str(size)] = round(count / min(seconds[1:]), 1)
        found["first call s"][str(size)] = round(seconds[0] - min(seconds[1:]), 1)
        if model.device.type == "cuda":
            found["peak GB by rows"][str(size)] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
        print(size, found, flush=True)
        said = [speak.Utterance(TEXT, "auto", voice)] * size
        began = time.perf_counter()
        slow = speak.speak(model, said, layout="streaming", seed=0, max_frames=stock_frames)
        seconds = [time.perf_counter() - began]
        found["stock frames/s"][str(size)] = round(sum(len(m.codes) for m in slow) / seconds[0], 1)
        print(size, found, flush=True)
    return {"what": "speaking, frames a second by rows", **found}


def prompts_of(model: LoadedBase, voice: torch.Tensor, count: int, frames: int) -> list[generate.Prompt]:
    """Sentences of 20 to 40 tokens in both layouts, to be cut between two thirds and four thirds of `frames`."""
    rng = np.random.default_rng(0)
    role, body = model.tokenizer.assistant(TEXT)
    found = []
    for i in range(count):
        text = rng.choice(body, rng.integers(20, 41)).tolist()
        layout: Layout = "streaming" if i % 2 else "non_streaming"
        cut = 2 * frames // 3 + (i * 2 * frames // 3) // max(1, count - 1)
        found.append(generate.Prompt(role, text, None, layout, voice, max_frames=cut))
    return found
