"""Evaluators against the packages they are, asked directly, and metrics that another package adds."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch

from qrecipe.data.audio import Audio, load, read
from qrecipe.data.speech import SpeechRow
from qrecipe.evaluate import metrics
from qrecipe.evaluate.evaluators import EvaluatorChoice, EvaluatorSet, resampled
from qrecipe.evaluate.samples import Sample, _rounded
from qrecipe.recipe import metrics as registry
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.report.page import column_of, write_page

MALAY = Path(__file__).parents[2] / "recipes" / "data" / "malay"


def sample(**settings: Any) -> Sample:
    entry = json.loads((MALAY / "dev.jsonl").read_text(encoding="utf-8").splitlines()[0])
    choice = EvaluatorChoice(Evaluators.model_validate(settings), Path.cwd(), {"malay": "ms"})
    evaluators = EvaluatorSet(cast(Any, SimpleNamespace(tags={})), None, choice)
    row = SpeechRow(1, entry["text"], [], [], torch.zeros((10, 1)), 1.0, 0.0, "", MALAY / "ref.ogg", None, False, MALAY / entry["audio"])
    return Sample(row, load(MALAY / entry["audio"], 30.0).samples, torch.zeros((10, 1)), 30, "malay", evaluators)


def test_a_transcript_is_known_by_its_sound_before_and_after_the_file(tmp_path: Path) -> None:
    """A sound rounded to 16 bits may hold -0.0; FLAC gives 0.0 back. The page asks by the sound as it was read."""
    wave = np.random.default_rng(0).normal(0, 2e-5, 24_000).astype(np.float32)
    rounded = _rounded(wave)
    assert (np.round(wave * 2**15) == 0).any()
    soundfile.write(str(tmp_path / "x.flac"), rounded, 24_000, subtype="PCM_16")
    read_back, _ = soundfile.read(str(tmp_path / "x.flac"), dtype="float32")
    spoken = sample(asr={"backend": "faster_whisper", "model": "wheel:whisper-base"})
    before, after = replace(spoken, audio=rounded), replace(spoken, audio=read_back)
    assert before.key == after.key
    about = spoken.evaluators._describe("asr", "malay")
    spoken.evaluators.journal.get_or_make(["heard", about, before.key], lambda: "selamat pagi")
    assert spoken.evaluators.known_transcript(after) == "selamat pagi"
    assert "selamat" in write_page("page", [column_of("model", [after], True)])


def test_samples_are_transcribed_together_and_each_sound_once(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []

    def transcribe(self: EvaluatorSet, samples: list[Sample]) -> list[str]:
        heard.extend(len(s.audio) for s in samples)
        return [f"{len(s.audio)} {s.language}" for s in samples]

    monkeypatch.setattr(EvaluatorSet, "_transcribe", transcribe)
    spoken = sample(asr={"backend": "faster_whisper", "model": "wheel:whisper-base"})
    samples = [replace(spoken, audio=np.zeros(n, np.float32)) for n in (5, 2, 9, 2, 7)]
    spoken.evaluators.transcribe_all(samples)
    assert [s.transcript for s in samples] == [f"{len(s.audio)} malay" for s in samples]
    spoken.evaluators.transcribe_all(samples)
    assert sorted(heard) == [2, 5, 7, 9]


def test_voices_are_compared_together_and_each_sound_once() -> None:
    encoded: list[int] = []

    def encode(audios: Sequence[Audio]) -> list[torch.Tensor]:
        encoded.extend(map(len, audios))
        return [torch.tensor([1.0, float(len(audio) == 5)]) for audio in audios]

    spoken = sample()
    spoken.evaluators._encoder = encode
    samples = [replace(spoken, audio=np.zeros(n, np.float32)) for n in (5, 2, 5)]
    samples.append(replace(spoken, row=replace(spoken.row, reference=None)))
    spoken.evaluators.compare_all(samples)
    assert [metrics.speaker_similarity(s) for s in samples] == [pytest.approx(0.5**0.5), pytest.approx(1.0), pytest.approx(0.5**0.5), None]
    spoken.evaluators.compare_all(samples)
    assert sorted(encoded)[:2] == [2, 5]
    assert len(encoded) == 3  # and the reference


@pytest.mark.slow
def test_similarity_is_resemblyzer_s(monkeypatch: pytest.MonkeyPatch) -> None:
    item = sample(speaker={"backend": "resemblyzer"})
    found = metrics.speaker_similarity(item)
    assert found is not None
    if "pkg_resources" not in sys.modules:  # webrtcvad asks it for a version number, and newer setuptools have none
        shim = SimpleNamespace(get_distribution=lambda name: SimpleNamespace(version="0"))
        monkeypatch.setitem(sys.modules, "pkg_resources", cast(Any, shim))
    from resemblyzer import VoiceEncoder, preprocess_wav

    encoder = VoiceEncoder("cpu", verbose=False)
    one, two = (encoder.embed_utterance(preprocess_wav(a, source_sr=24_000)) for a in (item.audio, read(MALAY / "ref.ogg")))
    assert found == pytest.approx(float(one @ two / np.linalg.norm(one) / np.linalg.norm(two)), abs=1e-5)
    assert found > 0.7
    assert metrics.speaker_similarity(replace(item, row=replace(item.row, reference=None))) is None


@pytest.mark.slow
def test_opinions_are_speechmos_s_and_can_be_repeated() -> None:
    from speechmos import dnsmos, plcmos

    state = np.random.get_state()[1].copy()
    item = sample(mos={"backend": "plcmos"})
    found = metrics.mos(item)
    assert np.array_equal(np.random.get_state()[1], state)
    assert metrics.mos(sample(mos={"backend": "plcmos"})) == found
    assert found == pytest.approx(float(plcmos.run(resampled(item.audio), sr=16_000)["plcmos"]), abs=0.1)  # it draws at random
    assert metrics.mos(sample(mos={"backend": "dnsmos"})) == pytest.approx(float(dnsmos.run(resampled(item.audio), sr=16_000)["ovrl_mos"]))


LOUDEST = registry.MetricSpec("loudest", "the highest sample", "share", "generated", "lower", f"{__name__}:loudest")


def loudest(item: Sample) -> float:
    return float(np.abs(item.audio).max())


@pytest.fixture
def looked_up_anew() -> Iterator[None]:
    """What is installed is looked up once a process: neither this test nor those after it may see the others' answer."""
    for look_up in (registry.find, registry.names):
        look_up.cache_clear()
    yield
    for look_up in (registry.find, registry.names):
        look_up.cache_clear()


@pytest.mark.usefixtures("looked_up_anew")
def test_a_package_adds_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    point = SimpleNamespace(name="loudest", load=lambda: LOUDEST)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group, name=None: [point] if name in (None, "loudest") else [])
    assert registry.find("loudest") is LOUDEST
    assert "loudest" in registry.names()
    assert registry.find("quietest") is None
