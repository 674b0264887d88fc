"""The whole path on a GPU with the real 1.7B shape and random weights. Run by hand: `pytest -m gpu tests/gpu -s`.

Prints what goes into research/measurements.md: seconds, frames per second and peak memory of every stage.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from tests.gpu.random_base import write
from tests.support.running import run_recipe

pytestmark = pytest.mark.gpu

RECIPE = """
qrecipe: 1
name: shape
version: 0.1.0
base: {{model: {base}}}
languages:
  malay: {{bcp47: ms, init: {{mean_of: [english, spanish]}}}}
datasets:
  text: {{kind: text, language: malay, path: text.jsonl}}
  speech: {{kind: speech, language: malay, path: train.jsonl, reference: ref.wav, reference_text: Selamat pagi semua.}}
  dev: {{kind: speech, language: malay, path: dev.jsonl, reference: ref.wav, reference_text: Selamat pagi semua.}}
evaluation: {{seeds: [0], prompts: 2, frame_cap: 1.0}}
stages:
  - id: text
    objective: text_lm
    data: [text]
    train: [{{match: talker.model.text_embedding, rows: seen, lr: 1.0e-3}}]
    steps: 5
    fit_steps: 5
  - id: language
    objective: speech
    data: [speech]
    train:
      - {{match: talker.model.codec_embedding, rows: languages, lr: 1.0e-2}}
      - {{match: talker.model.text_embedding, rows: seen, lr: 1.0e-3}}
      - {{match: talker.text_projection, lr: 1.0e-4}}
    steps: 20
    batch: {{frames: 3000}}
    select: {{metric: talker_nll, data: dev, every: 10}}
    gates: [{{metric: talker_nll, data: dev, min_decrease: 0.01, baseline: base}}]
    on_fail: continue
  - id: predictor
    objective: speech
    prompt: in_context
    data: [speech]
    train: [{{match: talker.code_predictor, except: [talker.code_predictor.model.codec_embedding], lr: 1.0e-4}}]
    steps: 10
    batch: {{frames: 3000}}
  - id: layers
    objective: speech
    data: [speech]
    train: [{{match: talker.model.layers.20-27, lr: 1.0e-4}}]
    steps: 10
    batch: {{frames: 1500}}
    gates: [{{metric: runaway_rate, data: dev, max: 1.0, severity: warn}}]
accept: [{{metric: talker_nll, data: dev, min_decrease: 0.01, baseline: base}}]
"""


def _data(folder: Path) -> None:
    import numpy as np
    import soundfile

    rng = random.Random(0)
    words = [
        "saya",
        "awak",
        "dia",
        "makan",
        "minum",
        "pergi",
        "pasar",
        "rumah",
        "sekolah",
        "pagi",
        "petang",
        "malam",
        "hujan",
        "panas",
        "air",
        "nasi",
        "ikan",
        "ayam",
        "buku",
        "meja",
    ]
    tone = np.sin(2 * np.pi * 180 * np.arange(48_000) / 24_000) * np.random.default_rng(0).uniform(0.1, 0.4, 48_000)
    soundfile.write(str(folder / "ref.wav"), tone.astype(np.float32), 24_000)
    texts: set[str] = set()
    while len(texts) < 260:
        texts.add(" ".join(rng.choice(words) for _ in range(rng.randint(4, 9))).capitalize() + ".")
    sentences = sorted(texts)

    def rows(chosen: list[str]) -> str:
        out = []
        for text in chosen:
            frames = int(len(text) * 12.5 / 13)
            codes = [[rng.randrange(2048) if b else rng.randrange(300) for b in range(16)] for _ in range(frames)]
            out.append(json.dumps({"text": text, "audio_codes": codes}))
        return "\n".join(out) + "\n"

    (folder / "text.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in sentences[8:]))
    (folder / "dev.jsonl").write_text(rows(sentences[:8]))
    (folder / "train.jsonl").write_text(rows(sentences[8:]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("size", [os.environ.get("QRECIPE_SHAPE", "1.7b")])
def test_every_kind_of_stage_trains_on_the_real_shape(size: str, tmp_path: Path) -> None:
    base = write(size, tmp_path / "base")
    _data(tmp_path)
    (tmp_path / "shape.yaml").write_text(RECIPE.format(base="./base"))
    marks: dict[str, Any] = {}

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "stage_started":
            torch.cuda.reset_peak_memory_stats()
            marks[event["stage"]] = {"start": time.time(), "parameters": event["parameters"]}
        elif event["event"] == "step":
            marks[event["stage"]].setdefault("steps", []).append((time.time(), event["losses"]))
        elif event["event"] == "stage_finished":
            marks[event["stage"]]["peak GB"] = torch.cuda.max_memory_allocated() / 1e9

    outcome = run_recipe(tmp_path / "shape.yaml", tmp_path, listener=listen)
    for stage, mark in marks.items():
        steps = mark.pop("steps")
        seconds = (steps[-1][0] - steps[1][0]) / (len(steps) - 2)
        print(stage, json.dumps({**mark, "start": None, "s per step": round(seconds, 3), "first": steps[0][1], "last": steps[-1][1]}))
    assert outcome.status == "accepted"
    assert outcome.bundle is not None
    declared = ("talker.model.text_embedding", "talker.model.codec_embedding", "talker.text_projection", "talker.code_predictor")
    layers = tuple(f"talker.model.layers.{i}." for i in range(20, 28))
    changed = 0
    with safe_open(str(base / "model.safetensors"), "pt") as a, safe_open(str(outcome.bundle / "model.safetensors"), "pt") as b:
        for name in a.keys():  # noqa: SIM118  # safe_open is no mapping
            same = torch.equal(a.get_tensor(name).view(torch.int16), b.get_tensor(name).view(torch.int16))
            changed += not same
            assert same or name.startswith((*declared, *layers)), name
    assert changed > 10
