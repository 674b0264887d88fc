"""What the built-in metrics measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.evaluate import metrics
from qrecipe.evaluate.listeners import Listeners
from qrecipe.evaluate.measure import MIN_CAP, cap_of, function_of, measure, teacher_forced
from qrecipe.evaluate.metrics import Sample, TeacherForced
from qrecipe.model.forward import Tables
from qrecipe.model.opened import Opened
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.recipe.metrics import BUILTIN, find
from qrecipe.recipe.recipe import Evaluation
from tests.support import audio

REFERENCE = Path("reference.wav")


def codes(*first: int) -> torch.Tensor:
    return torch.tensor([[c, *range(7)] for c in first])


def speech_row(frames: int, line: int = 1, **more: Any) -> SpeechRow:
    return SpeechRow(line, "Hai.", [1], [2], codes(*range(frames)), 1.0, 0.0, "", REFERENCE, None, False, **more)


class Ears:
    """Listeners that hear what a test says."""

    def __init__(self, heard: str = "", tag: str = "ms") -> None:
        self._heard, self._tag = heard, tag

    def transcribe(self, audio: Any, language: str) -> str:
        return self._heard

    def x_vector(self, audio: Any) -> torch.Tensor:
        return torch.tensor([1.0, 1.0])

    def tag(self, language: str) -> str:
        return self._tag


def sample(*first: int, frames: int = 10, cap: int = 30) -> Sample:
    made = codes(*first) if first else torch.zeros((0, 8), dtype=torch.int64)
    silence = np.zeros(0, dtype=np.float32)
    return Sample(speech_row(frames), silence, made, cap, "malay", cast(Any, Ears()), torch.tensor([3.0, 0.0]))


def test_every_metric_is_found_and_has_its_function() -> None:
    assert all(callable(function_of(s)) for s in BUILTIN.values())
    assert all(find(name) is s for name, s in BUILTIN.items())
    assert find("nothing") is None


def test_likelihoods_are_those_of_the_item() -> None:
    item = TeacherForced(talker_nll=1.5, predictor_nll=2.5)
    assert (metrics.talker_nll(item), metrics.predictor_nll(item)) == (1.5, 2.5)


@pytest.mark.parametrize(("frames", "expected"), [(29, 0.0), (30, 1.0), (45, 1.0)])
def test_a_runaway_reaches_its_cap(frames: int, expected: float) -> None:
    assert metrics.runaway(sample(*range(frames))) == expected


def test_duration_is_compared_with_the_recording() -> None:
    assert metrics.duration_ratio(sample(*range(15), frames=10)) == 1.5
    assert metrics.duration_ratio(sample(frames=10)) == 0.0


@pytest.mark.parametrize(
    ("first", "longest"), [((), 0), ((5,), 1), ((1, 2, 3), 1), ((1, 1, 2, 2, 2, 1), 3), ((4, 4, 4, 4), 4), ((1, 2, 2), 2)]
)
def test_the_longest_run_of_one_code(first: tuple[int, ...], longest: int) -> None:
    assert metrics.longest_run(codes(*first) if first else torch.zeros((0, 8))) == longest


def test_repetition_is_in_the_unit_that_its_description_says() -> None:
    assert metrics.repeated_frames(sample(1, 1, 1, 1, 2)) == 4.0
    assert BUILTIN["repeated_frames"].unit == "frame"
    assert "over" not in BUILTIN["repeated_frames"].description


def test_similarity_is_the_cosine() -> None:
    assert metrics.speaker_similarity(sample(1)) == pytest.approx(np.sqrt(0.5))


def test_caps() -> None:
    """A multiple of the recording, two seconds at least."""
    assert cap_of(speech_row(100), Evaluation(frame_cap=3.0)) == 300
    assert cap_of(speech_row(3), Evaluation(frame_cap=3.0)) == MIN_CAP == 25


@pytest.fixture(scope="module")
def data(opened: Opened, voice: Any) -> SpeechData:
    rows = []
    for i, text in enumerate(("Selamat pagi.", "Apa khabar semua?", "Hai.")):
        role, body = opened.tokenizer.assistant(text)
        made = opened.encode([audio.speech(i, 0.9 - 0.2 * i)])[0]
        rows.append(SpeechRow(i + 4, text, role, body, made, 1.0, 0.0, "", REFERENCE, None, False))
    return SpeechData("dev", "english", rows, x_vectors={REFERENCE: voice.x_vector})


def test_rows_are_measured_in_order_whatever_their_length(opened: Opened, data: SpeechData) -> None:
    together = teacher_forced(opened, Tables(opened.talker), data, "streaming", None)
    assert [r.line for r, _ in together] == [4, 5, 6]
    for row, item in together:
        ((_, alone),) = teacher_forced(opened, Tables(opened.talker), data, "streaming", None, rows=[row])
        assert item.talker_nll == pytest.approx(alone.talker_nll, abs=1e-5)
        assert item.predictor_nll == pytest.approx(alone.predictor_nll, abs=1e-5)


@pytest.mark.slow
def test_one_call_measures_everything_in_every_layout(opened: Opened, data: SpeechData) -> None:
    settings = Evaluation(seeds=[0, 7], prompts=2, batch=2, frame_cap=1.0)
    kept: list[str] = []
    ears = Listeners(opened, Evaluators(), Path.cwd(), {})
    found = measure(opened, data, ["talker_nll", "duration_ratio"], settings, ears, on_samples=lambda layout, _: kept.append(layout))
    assert [(v.line, v.layout, v.seed) for v in found["talker_nll"]] == [
        (line, layout, None) for layout in ("streaming", "non_streaming") for line in (4, 5, 6)
    ]
    assert [(v.line, v.layout, v.seed) for v in found["duration_ratio"]] == [
        (line, layout, seed) for layout in ("streaming", "non_streaming") for seed in (0, 7) for line in (5, 4)
    ]
    assert kept == ["streaming", "non_streaming"]
    again = measure(opened, data, ["duration_ratio"], settings, ears)
    assert again["duration_ratio"] == found["duration_ratio"]
