"""Error rates of real recordings against jiwer's own, on transcripts that faster-whisper gives when it is asked directly."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from qrecipe.data.audio import load
from qrecipe.data.speech import SpeechRow
from qrecipe.errors import Place, RecipeError
from qrecipe.evaluate import asr, metrics
from qrecipe.evaluate.evaluators import EvaluatorChoice, EvaluatorSet
from qrecipe.evaluate.measure import measure_samples
from qrecipe.evaluate.samples import Sample
from qrecipe.evaluate.values import mean_of, per_prompt
from qrecipe.evaluate.wheels import materialise
from qrecipe.hashes import FileHashes
from qrecipe.inputs import evaluators
from qrecipe.inputs.evaluators import EvaluatorModel, WheelModel, find
from qrecipe.recipe.evaluator import Asr, Evaluators
from qrecipe.recipe.metrics import find as find_metric
from qrecipe.world import World
from tests.support import whisper

DATA = Path(__file__).parents[2] / "recipes" / "data" / "malay"
CLIPS = slice(3, 6)
"""Before them stands one that rounding decides on: with one thread of an AMD processor Whisper repeats three words of it to its limit."""


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    whisper.require()
    evaluators = EvaluatorSet(
        cast(Any, SimpleNamespace(world=World(), tags={})), None, EvaluatorChoice(Evaluators(asr=whisper.ASR), Path.cwd(), {"malay": "ms"})
    )
    found = []
    for line, text in enumerate((DATA / "dev.jsonl").read_text(encoding="utf-8").splitlines()[CLIPS], start=1):
        entry = json.loads(text)
        audio = load(DATA / entry["audio"], 30.0).samples
        row = SpeechRow(line, entry["text"], [], [], torch.zeros((1, 1)), 1.0, 0.0, "", None, None, False)
        found.append(Sample(row, audio, torch.zeros((1, 1)), 10, "malay", evaluators))
    return found


@pytest.mark.slow
def test_error_rates_are_jiwer_s(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what faster-whisper itself hears where it fills up to fifteen seconds."""
    import faster_whisper.transcribe
    import jiwer
    import librosa
    from faster_whisper import WhisperModel

    monkeypatch.setattr(faster_whisper.transcribe, "pad_or_trim", partial(faster_whisper.transcribe.pad_or_trim, length=1500))

    folder = materialise(find("asr", Evaluators(asr=whisper.ASR), Path.cwd(), Place("test"), FileHashes())[0], Place("test"))
    model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=1)
    heard = []
    for sample in samples:
        audio = librosa.resample(y=sample.audio, orig_sr=24_000, target_sr=16_000)
        segments, _ = model.transcribe(audio, language="ms", beam_size=1, temperature=0, condition_on_previous_text=False)
        heard.append(" ".join(s.text.strip() for s in segments))
    plain = jiwer.Compose([jiwer.ToLowerCase(), jiwer.SubstituteRegexes({"-": " "}), jiwer.RemovePunctuation(), jiwer.Strip()])
    texts = [plain(s.row.text) for s in samples]
    for name, theirs, sizes in (("cer", jiwer.cer, [len(t) for t in texts]), ("wer", jiwer.wer, [len(t.split()) for t in texts])):
        spec = find_metric(name)
        assert spec is not None
        rates = [min(1.0, theirs(t, plain(h))) for t, h in zip(texts, heard, strict=True)]
        values = measure_samples(samples, [spec], samples[0].evaluators, [s.row for s in samples])[name]
        pooled = sum(rate * size for rate, size in zip(rates, sizes, strict=True)) / sum(sizes)
        assert mean_of(per_prompt(values)) == pytest.approx(pooled, abs=1e-12)


def test_a_window_is_left_for_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lasts longer than the window, less a second for its end, is heard in Whisper's own thirty seconds."""
    from faster_whisper import WhisperModel

    widths: list[int] = []
    monkeypatch.setattr(WhisperModel, "__init__", lambda self, *_, **__: setattr(self, "frames_per_second", 100))
    monkeypatch.setattr(WhisperModel, "encode", lambda self, features: widths.append(features.shape[-1]))
    for window, seconds in ((10, 3), (10, 9), (10, 10), (10, 25), (30, 3), (30, 30)):
        features = np.pad(np.ones((80, seconds * 100), dtype=np.float32), ((0, 0), (0, 3000 - seconds * 100)))
        asr.FasterWhisper(Asr(model="any", window=window), Path("any"))._model.encode(features)
    assert widths == [1000, 1000, 3000, 3000, 3000, 3000]


@pytest.mark.slow
def test_recordings_beside_one_another_are_heard_as_alone(samples: list[Sample]) -> None:
    """And torch has as many threads afterwards as before, though CTranslate2 sets those of whoever loads a model."""
    alone = [s.transcript for s in samples]
    choice = EvaluatorChoice(Evaluators(asr=whisper.ASR), Path.cwd(), {"malay": "ms"})
    others = EvaluatorSet(cast(Any, SimpleNamespace(world=World(), tags={})), None, choice)
    together = [replace(s, evaluators=others) for s in samples]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        others.transcribe_all(together)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert [s.transcript for s in together] == alone


@pytest.mark.slow
def test_real_recordings_are_understood_and_other_texts_are_not(samples: list[Sample]) -> None:
    """Together, and with room between the two: a word more or less depends on the processor."""
    texts = [s.row.text for s in samples]
    found = [metrics.cer(s) for s in samples]
    assert sum(r.numerator for r in found) / sum(r.denominator for r in found) < 0.3
    for sample, other in zip(samples, [*texts[1:], texts[0]], strict=True):
        moved = replace(sample, row=replace(sample.row, text=other))
        assert metrics.cer(moved).numerator / metrics.cer(moved).denominator > 0.5


def test_parts_are_joined_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    for name, content in (("part_one", b"ab"), ("part_two", b"cd")):
        folder = tmp_path / "packages" / name / "data"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").write_text("raise RuntimeError('is never imported')")
        (folder / "part").write_bytes(content)
        (folder / "config.json").write_bytes(b"{}")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setenv("QRECIPE_CACHE", str(tmp_path / "cache"))

    def wheel(content: bytes) -> WheelModel:
        checks = {"model.bin": hashlib.sha256(content).hexdigest(), "config.json": hashlib.sha256(b"{}").hexdigest()}
        return WheelModel((("part_one", "part"), ("part_two", "part")), ("config.json",), checks)

    monkeypatch.setitem(evaluators.WHEELS, "good", wheel(b"abcd"))
    monkeypatch.setitem(evaluators.WHEELS, "spoilt", wheel(b"other"))
    found, problems = find("asr", Evaluators(asr=Asr(model="wheel:good")), tmp_path, Place("x"), FileHashes())
    assert not [p for p in problems if p.code == "QR081"]
    folder = materialise(found, Place("x"))
    assert ((folder / "model.bin").read_bytes(), (folder / "config.json").read_bytes()) == (b"abcd", b"{}")
    assert materialise(found, Place("x")) == folder
    spoilt, _ = find("asr", Evaluators(asr=Asr(model="wheel:spoilt")), tmp_path, Place("x"), FileHashes())
    with pytest.raises(RecipeError, match="not the file"):
        materialise(spoilt, Place("x"))
    assert spoilt.folder is not None
    assert not spoilt.folder.exists()


def test_models_that_are_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(model: str) -> tuple[EvaluatorModel, list[str]]:
        found, problems = find("asr", Evaluators(asr=Asr(model=model)), tmp_path, Place("x"), FileHashes())
        return found, [p.message for p in problems if p.code == "QR081"]

    assert said("./nothing")[1] == ["./nothing is no folder with a model (no config.json)"]
    assert said("wheel:whisper-bse")[1] == ["no model out of packages is called `whisper-bse`"]
    assert said("bas")[1] == ["`bas` is no folder, hub id or size"]
    assert said("org/name-that-is-not-here")[1] == ["org/name-that-is-not-here is not in the hub cache of this machine"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    found, problems = said("mine")
    assert (found.folder, problems) == ((tmp_path / "mine").resolve(), [])
    first = found.identity
    (tmp_path / "mine" / "config.json").write_text('{"changed": 1}')
    assert said("mine")[0].identity != first


def test_a_gpu_without_its_cublas_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """CTranslate2 counts GPUs by the driver, and fails at the first recording where torch brings another cuBLAS."""
    whisper.require()
    import ctranslate2

    loaded = []

    def load(name: str) -> object:
        loaded.append(name)
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1)
    monkeypatch.setattr(asr.ctypes, "CDLL", load)
    assert not asr._runs_on_a_gpu()
    assert loaded == ["libcublas.so.12"]
    monkeypatch.setattr(asr.ctypes, "CDLL", lambda name: name)
    assert asr._runs_on_a_gpu()
