"""A bundle in an engine that shares no code with this package or with torch: the same greedy speech as stock qwen_tts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from qrecipe.data.audio import read
from qrecipe.qwen3 import SAMPLE_RATE
from tests.support.shared import Finished
from tests.support.ties import LOGITS

MALAY = Path(__file__).parents[2] / "recipes" / "data" / "malay"
REFERENCE_TEXT = "Kampung kami terletak di tepi sungai, dikelilingi sawah yang menghijau."
SENTENCES = ("Selamat pagi, apa khabar?", "Adik menyusun batu.", "Hujan turun lebat.")
FRAMES = 20
"""Stock's `max_new_tokens`, of which the last one makes no frame."""
LOUDEST_DIFFERENCE = 1e-4
"""Of samples within ±1. Two orders of summation give 7e-6; another code gives 1e-2 and more."""


class Margins:
    """How far stock's best choice lay before the next one, over every greedy choice since `reset`."""

    def __init__(self, model: Any) -> None:
        self.least = float("inf")
        talker = model.model.talker
        config = model.model.config.talker_config
        allowed = torch.zeros(config.vocab_size, dtype=torch.bool)
        allowed[:2048] = allowed[config.codec_eos_token_id] = True
        talker.codec_head.register_forward_hook(lambda m, a, out: self._see(out[:, -1][:, allowed]))
        for head in talker.code_predictor.lm_head:
            head.register_forward_hook(lambda m, a, out: self._see(out[:, -1]))

    def reset(self) -> None:
        self.least = float("inf")

    def _see(self, logits: torch.Tensor) -> None:
        best = logits.float().topk(2).values
        self.least = min(self.least, float((best[:, 0] - best[:, 1]).min()))


@pytest.mark.slow
def test_an_engine_without_torch_says_the_same(finished: Finished, tmp_path: Path) -> None:
    vox = pytest.importorskip("vox", reason="NOT TESTED: another engine needs vox-tts (extra `dev`)")
    from qwen_tts import Qwen3TTSModel
    from vox.build import main as build

    bundle = finished.outcome.bundle
    engine_file = tmp_path / "bundle.tmod"
    _call(build, ["--model", str(bundle), "--dtype", "f32", "-o", str(engine_file)])
    voice = tmp_path / "ref.wav"
    soundfile.write(str(voice), read(MALAY / "ref.ogg"), SAMPLE_RATE, subtype="FLOAT")
    stock = Qwen3TTSModel.from_pretrained(str(bundle), dtype=torch.float32)
    margins = Margins(stock)
    engine = vox.Engine(str(engine_file), device="cpu", threads=1)
    assert "malay" in engine.languages
    compared = 0
    for x_vector_only in (False, True):
        cloned = engine.clone_voice(str(voice), None if x_vector_only else REFERENCE_TEXT, xvector_only=x_vector_only)
        for text in SENTENCES:
            margins.reset()
            (wave,), _ = stock.generate_voice_clone(
                text=text,
                language="malay",
                ref_audio=str(voice),
                ref_text=REFERENCE_TEXT,
                x_vector_only_mode=x_vector_only,
                max_new_tokens=FRAMES,
                do_sample=False,
                subtalker_dosample=False,
                repetition_penalty=1.0,
            )
            if margins.least < LOGITS:
                continue  # a tie: rounding decides what comes after it
            said = engine.synthesize(text, cloned, language="malay", top_k=1, sub_top_k=1, repetition_penalty=1.0, max_frames=FRAMES - 1)
            assert len(said) == len(wave)
            assert float(np.abs(said - wave).max()) < LOUDEST_DIFFERENCE
            compared += 1
    assert compared >= 2, "nearly every sentence met a tie, which is no chance"


def _call(main: Any, arguments: list[str]) -> None:
    """Runs a `main()` that reads sys.argv."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["vox.build", *arguments])
        main()
