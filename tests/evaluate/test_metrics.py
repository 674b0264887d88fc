"""What the built-in metrics measure."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.errors import UserError
from qrecipe.evaluate import metrics
from qrecipe.evaluate.evaluators import EvaluatorChoice, EvaluatorSet
from qrecipe.evaluate.measure import function_of, measure, number_of, teacher_forced
from qrecipe.evaluate.metrics import TeacherForced
from qrecipe.evaluate.samples import MIN_CAP, Sample, Task, batches, cap_of, generated
from qrecipe.model import forward, generate
from qrecipe.model.forward import Tables
from qrecipe.model.generate import speech
from qrecipe.model.load import LoadedBase
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.recipe.metrics import BUILTIN, find
from qrecipe.recipe.recipe import Evaluation
from qrecipe.store import Journal
from tests.support import audio

REFERENCE = Path("reference.wav")


def codes(*first: int) -> torch.Tensor:
    return torch.tensor([[c, *range(7)] for c in first])


def speech_row(frames: int, line: int = 1, **more: Any) -> SpeechRow:
    return SpeechRow(line, "Hai.", [1], [2], codes(*range(frames)), 1.0, 0.0, "", REFERENCE, None, False, **more)


class FakeEvaluators:
    """EvaluatorSet that hear what a test says."""

    def __init__(self, heard: str = "", tag: str = "ms") -> None:
        self._heard, self._tag = heard, tag

    def transcribe(self, sample: Sample) -> str:
        return self._heard

    def tag(self, language: str) -> str:
        return self._tag


def sample(*first: int, frames: int = 10, cap: int = 30, text: str = "Hai.", heard: str = "", tag: str = "ms") -> Sample:
    made = codes(*first) if first else torch.zeros((0, 8), dtype=torch.int64)
    row = replace(speech_row(frames), text=text)
    return Sample(row, np.zeros(0, dtype=np.float32), made, cap, "malay", cast(Any, FakeEvaluators(heard, tag)))


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


def test_speech_that_stops_early() -> None:
    assert metrics.early_stop(sample(*range(4), frames=10)) == 1.0
    assert metrics.early_stop(sample(*range(5), frames=10)) == 0.0


@pytest.mark.parametrize(
    ("words", "repeated"),
    [("a b c", 0), ("a a b", 1), ("a a a", 2), ("a b a b c", 2), ("a b a c", 0), ("", 0), ("x a b c a b c", 3)],
)
def test_words_that_are_said_again_at_once(words: str, repeated: int) -> None:
    assert metrics.repeats(words.split()) == repeated


def test_reduplication_of_the_text_is_no_repetition() -> None:
    ratio = metrics.repeated_words(sample(text="Kupu-kupu itu cantik.", heard="Kupu-kupu itu itu cantik."))
    assert (ratio.numerator, ratio.denominator) == (1, 4)


@pytest.mark.parametrize(
    ("tag", "text", "heard", "cer", "wer"),
    [
        ("ms", "satu", "dua dua dua dua dua", (4, 4), (1, 1)),
        ("ms", "Saya suka nasi.", "saya suka nasi", (0, 14), (0, 3)),
        ("ms", "Saya suka nasi.", "", (14, 14), (3, 3)),
        ("ms", "Saya suka nasi.", "Saya suka nasi nasi", (5, 14), (1, 3)),
        ("zh", "你好世界", "你好，界", (1, 4), (1, 4)),
        ("ms", "...", "apa", (0, 0), (0, 0)),
    ],
)
def test_errors_are_counted_on_normalised_text(tag: str, text: str, heard: str, cer: tuple[int, int], wer: tuple[int, int]) -> None:
    item = sample(text=text, heard=heard, tag=tag)
    assert [(r.numerator, r.denominator) for r in (metrics.cer(item), metrics.wer(item))] == [cer, wer]


def test_caps() -> None:
    """A multiple of the recording, two seconds at least."""
    assert cap_of(speech_row(100), Evaluation(frame_cap=3.0)) == 300
    assert cap_of(speech_row(3), Evaluation(frame_cap=3.0)) == MIN_CAP == 25


@pytest.fixture(scope="module")
def data(opened: LoadedBase, voice: Any) -> SpeechData:
    rows = []
    for i, text in enumerate(("Selamat pagi.", "Apa khabar semua?", "Hai.")):
        role, body = opened.tokenizer.assistant(text)
        made = opened.encode([audio.speech(i, 0.9 - 0.2 * i)])[0]
        rows.append(SpeechRow(i + 4, text, role, body, made, 1.0, 0.0, "", REFERENCE, None, False))
    return SpeechData("dev", "english", rows, x_vectors={REFERENCE: voice.x_vector})


def test_rows_are_measured_in_order_whatever_their_length(opened: LoadedBase, data: SpeechData) -> None:
    together = teacher_forced(opened, Tables(opened.talker), data, "streaming", None)
    assert [r.line for r, _ in together] == [4, 5, 6]
    for row, item in together:
        ((_, alone),) = teacher_forced(opened, Tables(opened.talker), replace(data, rows=[row]), "streaming", None)
        assert item.talker_nll == pytest.approx(alone.talker_nll, abs=1e-5)
        assert item.predictor_nll == pytest.approx(alone.predictor_nll, abs=1e-5)


def test_what_reading_is_worth(opened: LoadedBase, data: SpeechData) -> None:
    """The other text is the nearest in length that says something else; a stock-free second way: the rows written with it."""
    first, second, third = data.rows
    partner = {r.line: min((o for o in data.rows if o is not r), key=lambda o: abs(len(o.body) - len(r.body))) for r in data.rows}
    assert partner[third.line] is first, "not the longest"
    written = [replace(r, text=o.text, body=o.body) for r in data.rows for o in (partner[r.line],)]
    for layout in ("streaming", "non_streaming"):
        found = teacher_forced(opened, Tables(opened.talker), data, layout, None, metrics=["text_gain"])
        own = teacher_forced(opened, Tables(opened.talker), data, layout, None)
        wrong = teacher_forced(opened, Tables(opened.talker), replace(data, rows=written), layout, None)
        for (_, item), (_, right), (_, other) in zip(found, own, wrong, strict=True):
            assert metrics.text_gain(item) == pytest.approx(other.talker_nll - right.talker_nll, abs=1e-5)
            assert math.isnan(item.predictor_nll), "nobody asked"
    alike = replace(data, rows=[first, replace(second, text=first.text, body=first.body)])
    spec = find("text_gain")
    assert spec is not None
    for _, item in teacher_forced(opened, Tables(opened.talker), alike, "streaming", None, metrics=["text_gain"]):
        assert number_of(spec, item) is None, "where all rows say the same, no text is another"


def test_rows_that_do_not_fit_into_memory_are_measured_in_parts(
    opened: LoadedBase, data: SpeechData, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = teacher_forced(opened, Tables(opened.talker), data, "streaming", None)
    logits, tried = forward.speech_logits, []

    def narrow(tables: Any, laid: Any, *args: Any, **kwargs: Any) -> Any:
        tried.append(len(laid.frame_codes))
        if len(laid.frame_codes) > max(r.frames for r in data.rows):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits(tables, laid, *args, **kwargs)

    monkeypatch.setattr(forward, "speech_logits", narrow)
    split = teacher_forced(opened, Tables(opened.talker), data, "streaming", None)
    assert len(tried) > 2
    assert [r.line for r, _ in split] == [4, 5, 6]
    for (_, a), (_, b) in zip(together, split, strict=True):
        assert (a.talker_nll, a.predictor_nll) == pytest.approx((b.talker_nll, b.predictor_nll), abs=1e-5)


def test_a_prompt_that_does_not_fit_into_memory_alone_is_an_error(
    opened: LoadedBase, data: SpeechData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer at once say the same, so it is tried with fewer and fewer first."""

    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(generate.Decoder, "step", full)
    with pytest.raises(UserError, match="this prompt does not fit") as caught:
        list(generated(opened, Task(data, Evaluation(batch=2), EvaluatorSet(opened, None, EvaluatorChoice(Evaluators(), Path.cwd())))))
    (problem,) = caught.value.problems
    assert problem.code == "QR074"
    assert "shorten the text" in str(problem.help)


@pytest.mark.slow
def test_one_call_measures_everything_in_every_condition(opened: LoadedBase, data: SpeechData, tmp_path: Path) -> None:
    settings = Evaluation(seeds=[0, 7], prompts=2, batch=2, frame_cap=1.0)
    evaluators = EvaluatorSet(opened, None, EvaluatorChoice(Evaluators(), Path.cwd()))
    found = measure(opened, Task(data, settings, evaluators, folder=tmp_path, identity="x"), ["talker_nll", "duration_ratio"])
    layouts = ("streaming", "non_streaming")
    assert [(v.line, v.layout, v.seed) for v in found["talker_nll"]] == [(line, layout, None) for layout in layouts for line in (4, 5, 6)]
    assert sorted((v.line, v.layout, v.seed) for v in found["duration_ratio"]) == sorted(
        (line, layout, seed) for layout in layouts for seed in (0, 7) for line in (4, 5)
    )
    assert measure(opened, Task(data, settings, evaluators), ["duration_ratio"])["duration_ratio"] == found["duration_ratio"]


@pytest.mark.slow
def test_what_was_kept_is_not_spoken_again(opened: LoadedBase, data: SpeechData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Evaluation(seeds=[0, 1], prompts=3, batch=2, frame_cap=1.0, layouts=["streaming"])
    evaluators = EvaluatorSet(opened, None, EvaluatorChoice(Evaluators(), Path.cwd()))
    spoken: list[int] = []
    real = speech.sound

    def listening(opened: LoadedBase, codes: Any, utterances: Any) -> Any:
        spoken.append(len(codes))
        return real(opened, codes, utterances)

    def stops(opened: LoadedBase, codes: Any, utterances: Any) -> Any:
        if len(spoken) == 2:
            raise KeyboardInterrupt
        return listening(opened, codes, utterances)

    monkeypatch.setattr(speech, "sound", stops)
    with pytest.raises(KeyboardInterrupt):
        list(generated(opened, Task(data, settings, evaluators, folder=tmp_path, identity="x")))
    monkeypatch.setattr(speech, "sound", listening)
    resumed = list(generated(opened, Task(data, settings, evaluators, folder=tmp_path, identity="x")))
    assert sorted(spoken) == [1, 1, 2, 2], "every batch once"
    again = list(generated(None, Task(data, settings, evaluators, folder=tmp_path, identity="x")))
    alone = list(generated(opened, Task(data, settings, evaluators)))
    for first, second, third in zip(resumed, again, alone, strict=True):
        assert first.row.line == second.row.line == third.row.line
        assert np.array_equal(first.audio, second.audio)
        assert np.array_equal(first.audio, third.audio)
        assert torch.equal(first.codes, second.codes)
    assert list(generated(None, Task(data, settings, evaluators, folder=tmp_path, identity="another model"))) == []


def test_conditions_are_slices(data: SpeechData) -> None:
    rows = [replace(r, reference_text="Selamat pagi.") if r.line != 5 else r for r in data.rows]
    both = Evaluation(prompt="both", batch=2, seeds=[3])
    made = batches(replace(data, rows=rows), both)
    assert {(b.layout, b.prompt, b.seed) for b in made} == {
        (layout, prompt, 3) for layout in ("streaming", "non_streaming") for prompt in ("x_vector", "in_context")
    }
    lines = {p: {r.line for b in made if b.prompt == p for r in b.rows} for p in ("x_vector", "in_context")}
    assert lines == {"x_vector": {4, 5, 6}, "in_context": {4, 6}}
    assert {(b.prompt, len(b.rows)) for b in batches(data, Evaluation())} == {("x_vector", 3)}


def test_what_was_heard_is_remembered_and_a_torn_line_is_not(tmp_path: Path) -> None:
    file = tmp_path / "heard.jsonl"
    asked = []

    def ask() -> str:
        asked.append(1)
        return "apa khabar"

    assert Journal(file).get_or_make(["a", 1], ask) == "apa khabar"
    with open(file, "a") as f:
        f.write('{"key": "torn')
    journal = Journal(file)
    assert (journal.get_or_make(["a", 1], ask), journal.get_or_make(["b"], lambda: None), journal.get(["c"])) == ("apa khabar", None, None)
    assert len(asked) == 1
    assert Journal(file).get_or_make(["b"], lambda: "asked again") is None
