"""Gates are tried on good and on spoilt recordings before they may decide."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from qrecipe.data.audio import load
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.evaluate.corruptions import CORRUPTIONS, DESCRIPTIONS
from qrecipe.evaluate.evaluators import EvaluatorChoice, EvaluatorSet
from qrecipe.evaluate.probe import Probe, probe
from qrecipe.evaluate.samples import Sample, recorded
from qrecipe.qwen3 import FRAME_SAMPLES
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.metrics import BUILTIN
from qrecipe.recipe.recipe import Evaluation
from qrecipe.store import Journal
from qrecipe.world import World
from tests.support import whisper

pytestmark = pytest.mark.slow
MALAY = Path(__file__).parents[2] / "recipes" / "data" / "malay"


def dataset(rows: int) -> SpeechData:
    found = []
    for line, text in enumerate((MALAY / "dev.jsonl").read_text(encoding="utf-8").splitlines()[:rows], start=1):
        entry = json.loads(text)
        path = MALAY / entry["audio"]
        frames = len(load(path, 30.0).samples) // FRAME_SAMPLES
        codes = torch.arange(frames)[:, None].expand(frames, 8)
        found.append(SpeechRow(line, entry["text"], [], [], codes, 1.0, 0.0, "", MALAY / "ref.ogg", None, False, path))
    return SpeechData("dev", "malay", found)


def evaluators(**more: Any) -> EvaluatorSet:
    return EvaluatorSet(
        cast(Any, SimpleNamespace(world=World(), tags={})),
        None,
        EvaluatorChoice(Evaluators(**more), Path.cwd(), {"malay": "ms"}),
        journal=Journal(),
    )


def tried(gate: dict[str, Any], rows: int, **more: Any) -> Probe:
    (found,) = probe([Gate.model_validate({"data": "dev", **gate})], {"dev": dataset(rows)}, Evaluation(), evaluators(**more))
    return found


def test_every_way_of_spoiling_that_a_metric_names_exists() -> None:
    named = {way for spec in BUILTIN.values() for way in spec.spoilt}
    assert named == CORRUPTIONS.keys() == DESCRIPTIONS.keys()
    listening = [s for s in BUILTIN.values() if s.source == "generated"]
    assert all(s.spoilt for s in listening)


@pytest.mark.parametrize("way", CORRUPTIONS)
def test_spoilt_copies_are_other_recordings_of_the_same_rows(way: str) -> None:
    samples = recorded(dataset(3), Evaluation(), evaluators())
    spoilt = CORRUPTIONS[way](samples)
    assert [s.row.line for s in spoilt] == [s.row.line for s in samples]
    for before, after in zip(samples, spoilt, strict=True):
        assert (before.key, before.row.text, before.frames) != (after.key, after.row.text, after.frames)
        assert np.isfinite(after.audio).all()
        assert after.audio.dtype == np.float32
        assert after.codes.shape[0] > 0


def test_a_gate_that_tells_them_apart_is_sound() -> None:
    found = tried({"metric": "duration_ratio", "min": 0.8}, 8)
    assert (found.is_valid, found.undetected_corruptions, list(found.corrupted_verdicts)) == (True, [], ["cut"])
    assert tried({"metric": "duration_ratio", "max": 1.25}, 8).corrupted_verdicts.keys() == {"doubled"}


def test_a_gate_that_is_too_lax_or_too_strict_is_refused() -> None:
    lax = tried({"metric": "duration_ratio", "min": 0.3}, 8)
    assert (lax.is_valid, lax.undetected_corruptions, lax.prompts_needed) == (False, ["cut"], None)
    assert "passes recordings cut off" in lax.why()
    strict = tried({"metric": "silence_share", "max": 0.0001}, 8)
    assert "even recordings fail it" in strict.why()


def test_too_few_prompts_are_refused_with_the_number_that_would_do() -> None:
    few = tried({"metric": "runaway_rate", "max": 0.2}, 8)
    assert (few.is_valid, few.undetected_corruptions, few.prompts_needed) == (False, [], 16)
    assert "cannot say that recordings pass (0, 0 to 0.324, 8 prompts)" in few.why()
    assert tried({"metric": "runaway_rate", "max": 0.2}, 16).is_valid


def test_relative_gates_are_given_a_baseline() -> None:
    """A gate on a loss has the recordings as its baseline, one on a gain the spoilt copies."""
    assert tried({"metric": "silence_share", "max_increase": 0.1, "baseline": "base"}, 8).is_valid
    assert tried({"metric": "silence_share", "min_decrease": 0.05, "baseline": "base"}, 8).is_valid
    assert not tried({"metric": "silence_share", "max_increase": 0.9, "baseline": "base"}, 8).is_valid


def test_what_does_not_listen_is_not_tried() -> None:
    found = tried({"metric": "talker_nll", "max": 3.0}, 2)
    assert (found.clean_verdict, found.is_valid) == (None, True)
    assert found.as_json()["tried"] is False


def test_error_rates_notice_missing_ends_and_stutters() -> None:
    whisper.require()
    data = dataset(6)
    data.rows = data.rows[3:]  # rounding decides how the third is heard
    asr = evaluators(asr=whisper.ASR)
    samples = recorded(data, Evaluation(), asr)
    from qrecipe.evaluate.measure import measure_samples
    from qrecipe.evaluate.values import mean_of, per_prompt

    def cer(spoilt: list[Sample]) -> float:
        return mean_of(per_prompt(measure_samples(spoilt, [BUILTIN["cer"]], asr, data.rows)["cer"]))

    natural = cer(samples)
    assert natural < 0.25
    assert cer(CORRUPTIONS["doubled"](samples)) > natural + 0.15
    assert cer(CORRUPTIONS["cut"](samples)) > natural + 0.15


def test_a_gate_that_demands_any_gain_at_all_is_sound() -> None:
    """Copies over themselves gain exactly nothing, of which no interval can say that it is less than nothing."""
    found = tried({"metric": "runaway_rate", "min_decrease": 0.0, "baseline": "base", "speak_as": "best"}, 8)
    assert found.corrupted_verdicts["endless"].outcome == "undecided"
    assert (found.is_valid, found.clean_verdict is not None and found.clean_verdict.outcome) == (True, "pass")
