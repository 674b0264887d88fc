"""A bundle in engines that no one here wrote: the same greedy speech as in stock qwen_tts.

One shares no code with this package or with torch; the others are the builds of qwen_tts on PyPI, two of them for the next transformers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from qrecipe.data.audio import read
from qrecipe.qwen3 import SAMPLE_RATE
from tests.support import greedy
from tests.support.environments import packages
from tests.support.shared import Finished
from tests.support.ties import LOGITS

MALAY = Path(__file__).parents[2] / "recipes" / "data" / "malay"
REFERENCE_TEXT = "Kampung kami terletak di tepi sungai, dikelilingi sawah yang menghijau."
SENTENCES = ("Selamat pagi, apa khabar?", "Adik menyusun batu.", "Hujan turun lebat.")
TEXTS = [
    *SENTENCES,
    "สวัสดีตอนเช้า สบายดีไหม",
    "सुप्रभात, आप कैसे हैं?",
    "صباح الخير، كيف حالك؟",
    "早上好，你好吗？",
    "Günaydın! Nasılsın? 😀",
    "a\u0301 á ﬁ",
]
TRANSFORMERS_5 = ("transformers==5.16.1", "huggingface-hub==1.33.0", "tokenizers==0.23.3")
BUILDS = {
    "qwen-tts-hf": ("qwen-tts-hf==0.1.1.post1", *TRANSFORMERS_5),
    "qwen-tts-pvt": ("qwen-tts-pvt==0.1.1", "transformers4576==4.57.6.4"),
}
"""Other packages on PyPI whose import name is `qwen_tts`, with what each needs in place of this environment's."""
COMPAT = ("qwen-tts-compat==0.1.1.post1", *TRANSFORMERS_5)
"""One whose code predictor says other codes at every call, greedy or not."""
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


@dataclass(frozen=True)
class Said:
    """A sentence as stock said it."""

    text: str
    reference_text: str | None
    wave: Any
    codes: list[list[int]]
    is_tie: bool
    """Some choice was so near that rounding decides what comes after it."""


@dataclass(frozen=True)
class Stock:
    """A bundle in stock qwen_tts."""

    bundle: str
    voice: str
    said: list[Said]
    ids: list[list[int]]
    """Token ids of `TEXTS`."""


@pytest.fixture(scope="module")
def stock(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    bundle, voice = str(finished.outcome.bundle), tmp_path_factory.mktemp("voice") / "ref.wav"
    soundfile.write(str(voice), read(MALAY / "ref.ogg"), SAMPLE_RATE, subtype="FLOAT")
    model = greedy.open_model(bundle)
    margins, said = Margins(model), []
    for reference_text in (REFERENCE_TEXT, None):
        for text in SENTENCES:
            margins.reset()
            wave, codes = greedy.speak(model, text, str(voice), reference_text)
            said.append(Said(text, reference_text, wave, codes, margins.least < LOGITS))
    return Stock(bundle, str(voice), said, [greedy.token_ids(model, t) for t in TEXTS])


@pytest.mark.slow
def test_an_engine_without_torch_says_the_same(stock: Stock, tmp_path: Path) -> None:
    vox = pytest.importorskip("vox", reason="NOT TESTED: another engine needs vox-tts (extra `dev`)")
    from vox.build import main as build

    engine_file = tmp_path / "bundle.tmod"
    _call(build, ["--model", stock.bundle, "--dtype", "f32", "-o", str(engine_file)])
    engine = vox.Engine(str(engine_file), device="cpu", threads=1)
    assert "malay" in engine.languages
    compared = 0
    for reference_text in (REFERENCE_TEXT, None):
        cloned = engine.clone_voice(stock.voice, reference_text, xvector_only=reference_text is None)
        for said in (s for s in stock.said if s.reference_text == reference_text and not s.is_tie):
            wave = engine.synthesize(
                said.text, cloned, language="malay", top_k=1, sub_top_k=1, repetition_penalty=1.0, max_frames=greedy.FRAMES - 1
            )
            assert len(wave) == len(said.wave)
            assert float(np.abs(wave - said.wave).max()) < LOUDEST_DIFFERENCE
            compared += 1
    assert compared >= 2, "nearly every sentence met a tie, which is no chance"


@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDS)
def test_other_builds_of_qwen_tts_say_the_same(build: str, stock: Stock) -> None:
    """Codes of greedy speech, and token ids also of scripts that the reference languages do not use."""
    answer = said_by(BUILDS[build], stock, stock.said)
    assert answer["transformers"].startswith("5.") == (build == "qwen-tts-hf")
    assert answer["ids"] == stock.ids
    clear = [i for i, s in enumerate(stock.said) if not s.is_tie]
    assert [answer["codes"][i] for i in clear] == [stock.said[i].codes for i in clear]
    assert len(clear) >= 2, "nearly every sentence met a tie, which is no chance"


@pytest.mark.slow
def test_a_build_that_is_not_greedy_reads_the_same(stock: Stock) -> None:
    """qwen-tts-compat takes the bundle and its language; `bundle check` says what it does not do."""
    by_x_vector = [s for s in stock.said if s.reference_text is None]
    answer = said_by(COMPAT, stock, by_x_vector)
    assert answer["ids"] == stock.ids
    first = [(said.codes[0][0], codes[0][0]) for said, codes in zip(by_x_vector, answer["codes"], strict=True)]
    assert [one for one, _ in first] == [other for _, other in first], "the talker's first codes, before the predictor has any part"


def said_by(requirements: tuple[str, ...], stock: Stock, sentences: list[Said]) -> dict[str, Any]:
    """Codes of these sentences and token ids of `TEXTS` by another build."""
    environment = packages(*requirements)
    order = {
        "model": stock.bundle,
        "voice": stock.voice,
        "speak": [[s.text, s.reference_text] for s in sentences],
        "tokenise": TEXTS,
    }
    done = subprocess.run(
        [sys.executable, greedy.__file__], input=json.dumps(order), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    folder = environment["PYTHONPATH"].partition(os.pathsep)[0]
    assert Path(answer["file"]).is_relative_to(folder), "no other build than this one"
    return answer


def _call(main: Any, arguments: list[str]) -> None:
    """Runs a `main()` that reads sys.argv."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["vox.build", *arguments])
        main()
