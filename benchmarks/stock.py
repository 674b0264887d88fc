"""The public fine-tuning script, run from a checkout of github.com/QwenLM/Qwen3-TTS that is given by path. Nothing of it is copied.

What is changed is said in the row: attention by sdpa where flash-attn is not installed, no tracker, and, with masks, what
requires a gradient. The script is stopped after enough steps; its loss is its own (shifted once too often).
It has the largest of `BATCHES` that fits, each tried in a process of its own: what one leaves in the GPU's memory goes with it.
"""

from __future__ import annotations

import json
import random
import runpy
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

BATCHES = (32, 24, 16, 8)
WARM = 4
"""Steps before anything is measured; the script accumulates over 4."""


class Enough(Exception):
    """All steps are measured."""


def run(checkout: Path, base: Path, scratch: Path, steps: int, only: str | None) -> dict[str, Any]:
    """Measures the script on a base folder; `only` is the prefix of what requires a gradient, None for everything."""
    too_large: list[int] = []
    for batch in BATCHES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            try:
                found = alone.submit(_run, checkout, base, scratch, steps, only, batch).result()
            except torch.OutOfMemoryError as e:
                too_large.append(batch)
                error = e
            else:
                return found | ({"batches out of memory": too_large} if too_large else {})
    raise error


def _run(checkout: Path, base: Path, scratch: Path, steps: int, only: str | None, batch: int) -> dict[str, Any]:
    import accelerate
    import numpy as np
    import soundfile
    from qwen_tts.inference.qwen3_tts_model import Qwen3TTSModel

    script = next((checkout / "finetuning").glob("sft_12hz.py"))
    sys.path.insert(0, str(script.parent))
    soundfile.write(scratch / "voice.wav", (0.1 * np.random.default_rng(0).standard_normal(48_000)).astype(np.float32), 24_000)
    rng = random.Random(0)
    with open(scratch / "train.jsonl", "w") as f:
        for _ in range(batch * (3 * steps + WARM + 1)):
            frames = round(min(250.0, max(20.0, rng.lognormvariate(4.3, 0.55))))
            codes = [[rng.randrange(2048) for _ in range(16)] for _ in range(frames)]
            row = {"audio": str(scratch / "voice.wav"), "ref_audio": str(scratch / "voice.wav"), "text": "saya " * (frames // 8 + 1)}
            f.write(json.dumps({**row, "audio_codes": codes}) + "\n")
    opening, trackers = Qwen3TTSModel.from_pretrained.__func__, accelerate.Accelerator
    changed = []

    def open_base(cls: Any, *args: Any, **settings: Any) -> Any:
        if find_spec("flash_attn") is None:
            settings["attn_implementation"] = "sdpa"
            changed.append("sdpa")
        opened = opening(cls, *args, **settings, device_map="cuda")
        talker = opened.model.talker
        finetune = talker.forward_sub_talker_finetune

        def counted(codec_ids: torch.Tensor, hidden: torch.Tensor) -> Any:
            frames.append(len(codec_ids))
            return finetune(codec_ids, hidden)

        talker.forward_sub_talker_finetune = counted
        if only is not None:
            for name, parameter in opened.model.named_parameters():
                parameter.requires_grad_(name.startswith(only))
        return opened

    frames: list[int] = []
    marks: list[float] = []

    class Quiet(trackers):  # type: ignore[misc, valid-type]
        def __init__(self, **settings: Any) -> None:
            settings.pop("log_with", None)
            super().__init__(**settings)

        def backward(self, loss: torch.Tensor, **settings: Any) -> None:
            super().backward(loss, **settings)
            torch.cuda.synchronize()
            marks.append(time.perf_counter())
            if len(marks) > WARM + 3 * steps:
                raise Enough

    Qwen3TTSModel.from_pretrained = classmethod(open_base)
    accelerate.Accelerator = Quiet
    sys.argv = [str(script), "--init_model_path", str(base), "--output_model_path", str(scratch / "out")]
    sys.argv += ["--train_jsonl", str(scratch / "train.jsonl"), "--batch_size", str(batch)]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(Enough):
        runpy.run_path(str(script), run_name="__main__")
    stretches = [range(WARM + r * steps, WARM + (r + 1) * steps) for r in range(3)]
    rates = [sum(frames[i + 1] for i in s) / (marks[s[-1] + 1] - marks[s[0]]) for s in stretches]
    return {
        "what": f"the public script, batch {batch}, " + ("everything trains" if only is None else f"only {only} requires a gradient"),
        "batch": batch,
        "changed": changed,
        "frames/s": round(statistics.median(rates)),
        "stretches": [round(r) for r in rates],
        "peak GB": round(torch.cuda.max_memory_allocated() / 1e9, 2),
    }
