"""From values to verdicts: intervals against independent ones, and every kind of gate on both sides and between."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from qrecipe.evaluate.gates import finite, interval, judge, undecidable
from qrecipe.evaluate.values import Value, paired, per_prompt
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.metrics import BUILTIN, MetricSpec, find


def spec(name: str = "talker_nll") -> MetricSpec:
    found = find(name)
    assert found is not None
    return found


def gate(**fields: Any) -> Gate:
    return Gate.model_validate({"metric": "talker_nll", "data": "dev", **fields})


def values(numbers: list[float], layout: Any = "streaming", seed: int | None = None) -> list[Value]:
    return [Value(i + 1, layout, seed, n) for i, n in enumerate(numbers)]


SAMPLE = list(np.random.default_rng(0).gamma(2.0, 1.0, 60))


def test_no_runaway_among_few_prompts_is_no_proof() -> None:
    """A bootstrap of zeros would claim certainty: with 8 prompts the rate may still be 0.3."""
    rate = gate(metric="runaway_rate", max=0.2)
    few = judge(rate, spec("runaway_rate"), values([0.0] * 8, seed=0), None)
    assert few.outcome == "undecided"
    assert few.high == pytest.approx(0.3244, abs=1e-4)
    assert few.prompts_needed is not None
    assert judge(rate, spec("runaway_rate"), values([0.0] * few.prompts_needed, seed=0), None).outcome == "pass"
    assert judge(rate, spec("runaway_rate"), values([0.0] * (few.prompts_needed - 1), seed=0), None).outcome == "undecided"
    assert judge(rate, spec("runaway_rate"), values([1.0] * 8, seed=0), None).outcome == "fail"


def spoken(rates: list[float], characters: int = 40) -> list[Value]:
    return [Value(i + 1, "streaming", 0, rate, characters) for i, rate in enumerate(rates)]


def test_no_error_among_few_characters_is_no_proof() -> None:
    """Eight prompts of 40 characters without an error: 1 - .025 ** (1 / 320)."""
    strict = gate(metric="cer", max=0.01)
    few = judge(strict, spec("cer"), spoken([0.0] * 8), None)
    assert (few.outcome, few.low) == ("undecided", 0.0)
    assert few.high == pytest.approx(0.011461, abs=1e-6)
    assert few.prompts_needed == 10
    assert judge(strict, spec("cer"), spoken([0.0] * 10), None).outcome == "pass"
    assert judge(strict, spec("cer"), spoken([0.0] * 9), None).outcome == "undecided"
    worse = judge(strict, spec("cer"), spoken([0.0] * 7 + [1 / 40]), None)
    assert worse.high is not None
    assert worse.high > few.high, "an error more is never less to be feared"


def test_two_models_without_an_error_may_still_differ() -> None:
    kept = judge(gate(metric="cer", max_increase=0.01, baseline="base"), spec("cer"), spoken([0.0] * 8), spoken([0.0] * 8))
    assert (kept.outcome, kept.low, kept.high) == ("undecided", pytest.approx(-0.011461, abs=1e-6), pytest.approx(0.011461, abs=1e-6))
    rate = gate(metric="runaway_rate", max_increase=0.05, baseline="base")
    assert judge(rate, spec("runaway_rate"), values([0.0] * 8, seed=0), values([0.0] * 8, seed=0)).outcome == "undecided"
    same = gate(metric="talker_nll", max_increase=0.01, baseline="base")
    assert judge(same, spec("talker_nll"), values([3.0] * 8), values([3.0] * 8)).outcome == "pass", "likelihoods are not counted"


NUMBERS = [1.0, 1.1, 0.9, 1.05, 0.95, 1.0, 1.1, 0.9]
"""Mean 1.0; an interval of about ±0.05."""


@pytest.mark.parametrize(
    ("kind", "threshold", "outcome"),
    [
        ("max", 1.2, "pass"),
        ("max", 0.8, "fail"),
        ("max", 1.0, "undecided"),
        ("min", 0.8, "pass"),
        ("min", 1.2, "fail"),
        ("min", 1.0, "undecided"),
    ],
)
def test_absolute_gates(kind: str, threshold: float, outcome: str) -> None:
    verdict = judge(gate(**{kind: threshold}), spec(), values(NUMBERS), None)
    assert verdict.outcome == outcome
    assert verdict.value == verdict.measured == pytest.approx(1.0)
    assert verdict.low < 1.0 < verdict.high
    assert verdict.counts_as_pass == (outcome == "pass")
    assert verdict.baseline is None
    assert verdict.prompts == 8


@pytest.mark.parametrize(
    ("kind", "threshold", "change", "outcome"),
    [
        ("max_increase", 0.5, 0.3, "pass"),
        ("max_increase", 0.5, -2.0, "pass"),
        ("max_increase", 0.5, 0.7, "fail"),
        ("max_increase", 0.5, 0.5, "undecided"),
        ("max_increase", 0.0, -0.3, "pass"),
        ("max_increase", -0.1, -0.3, "pass"),
        ("min_decrease", 0.5, -0.7, "pass"),
        ("min_decrease", 0.5, -0.3, "fail"),
        ("min_decrease", 0.5, 0.7, "fail"),
        ("min_decrease", 0.5, -0.5, "undecided"),
        ("max_decrease", 0.5, -0.3, "pass"),
        ("max_decrease", 0.5, 2.0, "pass"),
        ("max_decrease", 0.5, -0.7, "fail"),
        ("max_decrease", 0.5, -0.5, "undecided"),
        ("min_increase", 0.5, 0.7, "pass"),
        ("min_increase", 0.5, 0.3, "fail"),
        ("min_increase", 0.5, -0.7, "fail"),
        ("min_increase", 0.5, 0.5, "undecided"),
    ],
)
def test_relative_gates(kind: str, threshold: float, change: float, outcome: str) -> None:
    """Prompts differ far more from each other than the model from its baseline: only pairing can decide."""
    before = [10.0, 2.0, 7.0, 30.0, 1.0, 18.0, 4.0, 25.0]
    jitter = [0.02, -0.02, 0.01, -0.01, 0.03, -0.03, 0.0, 0.0]
    after = [b + change + j for b, j in zip(before, jitter, strict=True)]
    verdict = judge(gate(**{kind: threshold, "baseline": "base"}), spec(), values(after), values(before))
    assert verdict.outcome == outcome
    assert verdict.value == pytest.approx(change)
    assert verdict.baseline == pytest.approx(np.mean(before))
    assert verdict.measured == pytest.approx(np.mean(after))
    assert verdict.high - verdict.low < 0.1


def test_one_prompt_decides_nothing() -> None:
    verdict = judge(gate(max=100.0), spec(), values([1.0]), None)
    assert verdict.outcome == "undecided"
    assert verdict.prompts_needed is None
    shown = json.loads(json.dumps(verdict.as_json(), allow_nan=False))
    assert (shown["low"], shown["high"]) == (None, None)


@pytest.mark.parametrize("name", [name for name in BUILTIN if name != "text_gain"])
@pytest.mark.parametrize("prompts", [2, 3, 8])
def test_an_interval_holds_only_what_there_can_be(name: str, prompts: int) -> None:
    """Values at the edge, one of which is not: a bootstrap of so few reaches far over it."""
    metric = spec(name)
    least, most = metric.bounds
    edge = next(b for b in (least, most) if b is not None)
    inward = 0.9 if edge == least else -0.9
    numbers = [edge] * (prompts - 1) + [edge + (inward if not metric.binary else math.copysign(1, inward))]
    low, high = interval(metric, per_prompt(values(numbers)), 0.95, "", False)
    if math.isinf(low):
        assert math.isinf(high), "too few for any"
        assert finite(low) is None
        return
    assert low >= (-math.inf if least is None else least)
    assert high <= (math.inf if most is None else most)
    assert low < high


def test_a_difference_of_shares_lies_between_minus_one_and_one() -> None:
    low, high = interval(spec("silence_share"), per_prompt(values([0.9, -0.9])), 0.95, "", True)
    assert (low, high) == (-1.0, 1.0)


def test_how_many_prompts_would_decide() -> None:
    """An interval shrinks with the square root of the prompts: half of the width needs four times as many."""
    rng = np.random.default_rng(5)
    sample = list(rng.normal(1.0, 1.0, 40))
    mean = float(np.mean(sample))
    verdict = judge(gate(max=mean + 0.1), spec(), values(sample), None)
    assert verdict.outcome == "undecided"
    assert verdict.prompts_needed == math.ceil((1.959964 * np.std(sample, ddof=1) / 0.1) ** 2)
    assert verdict.prompts_needed > 100
    assert judge(gate(max=mean + 0.1), spec(), values(sample * 12), None).outcome == "pass"
    assert judge(gate(max=mean + 10), spec(), values(sample), None).prompts_needed is None


def test_a_warning_is_shown_and_never_counts() -> None:
    verdict = judge(gate(max=0.5, severity="warn"), spec(), values(NUMBERS), None)
    assert verdict.outcome == "fail"
    assert verdict.counts_as_pass


def test_layouts_are_averaged_by_prompt_or_judged_alone() -> None:
    measured = values(NUMBERS, "streaming") + values([n + 2.0 for n in NUMBERS], "non_streaming")
    both = judge(gate(max=9.0), spec(), measured, None)
    assert both.value == pytest.approx(2.0)
    assert both.prompts == 8
    assert both.slices == {"layout": pytest.approx({"non_streaming": 3.0, "streaming": 1.0})}
    assert judge(gate(max=2.0, layout="streaming"), spec(), measured, None).outcome == "pass"
    assert judge(gate(max=2.0, layout="non_streaming"), spec(), measured, None).outcome == "fail"


def test_seeds_of_a_prompt_are_one_observation() -> None:
    """More seeds do not make more prompts."""
    measured = values([0.0, 1.0, 0.0], seed=0) + values([1.0, 1.0, 0.0], seed=1)
    assert per_prompt(measured) == {1: (0.5, 1.0), 2: (1.0, 1.0), 3: (0.0, 1.0)}
    assert judge(gate(max=9.0), spec(), measured, None).prompts == 3


def test_differences_are_paired_by_prompt_layout_and_seed() -> None:
    now = [Value(1, "streaming", 0, 5.0), Value(1, "streaming", 1, 9.0), Value(2, "streaming", 0, 1.0), Value(3, "streaming", 0, 7.0)]
    before = [
        Value(2, "streaming", 0, 4.0),
        Value(1, "streaming", 1, 1.0),
        Value(1, "streaming", 0, 4.0),
        Value(3, "non_streaming", 0, 7.0),
    ]
    assert per_prompt(paired(now, before)) == {1: (4.5, 1.0), 2: (-3.0, 1.0)}


def test_equal_models_do_not_differ() -> None:
    same = values(SAMPLE)
    verdict = judge(gate(max_increase=0.0, baseline="previous"), spec(), same, same)
    assert (verdict.outcome, verdict.value, verdict.low, verdict.high) == ("pass", 0.0, 0.0, 0.0)


def test_rates_of_errors_are_pooled() -> None:
    """Two errors in ten characters and none in ninety are two in a hundred, not a mean of a fifth and nothing."""
    measured = [Value(1, "streaming", 0, 0.2, 10.0), Value(2, "streaming", 0, 0.0, 90.0)]
    assert judge(gate(metric="cer", max=1.0), spec("cer"), measured, None).value == pytest.approx(0.02)


def test_a_skipped_gate_does_not_stop_a_run_and_says_why() -> None:
    verdict = undecidable(gate(metric="cer", max=0.1, optional=True), "no recogniser is installed", "skipped")
    assert verdict.counts_as_pass
    assert (verdict.outcome, verdict.value, verdict.reason) == ("skipped", None, "no recogniser is installed")
    json.dumps(verdict.as_json(), allow_nan=False)


def test_confidence_widens_the_interval() -> None:
    wide = judge(gate(max=9.0, confidence=0.99), spec(), values(SAMPLE), None)
    narrow = judge(gate(max=9.0, confidence=0.8), spec(), values(SAMPLE), None)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_a_floor_is_the_recordings_own_paired_by_prompt() -> None:
    """A recogniser that errs on real speech errs on good generated speech as well."""
    heard = [Value(i, "streaming", s, 0.1 * i + 0.01 * s) for i in range(1, 9) for s in (0, 1)]
    real = [Value(i, "streaming", None, 0.1 * i) for i in range(1, 9)]
    verdict = judge(gate(metric="cer", max_over_floor=0.05), spec("cer"), heard, None, real)
    assert (verdict.outcome, verdict.value, verdict.baseline) == ("pass", pytest.approx(0.005), pytest.approx(0.45))
    assert verdict.recordings == pytest.approx(0.45)
    assert judge(gate(metric="cer", max_over_floor=0.001), spec("cer"), heard, None, real).outcome == "fail"
    best = judge(gate(metric="speaker_similarity", max_decrease=0.1, baseline="recordings"), spec("speaker_similarity"), real, None, real)
    assert (best.outcome, best.value) == ("pass", 0.0)


def sliced(line: int, value: float, **more: Any) -> Value:
    return Value(line, more.pop("layout", "streaming"), 0, value, **more)


def test_the_worst_slice_decides() -> None:
    good = [sliced(i, 1.0 + 0.01 * i, speaker="ana") for i in range(8)]
    bad = [sliced(i, 2.0 + 0.01 * i, speaker="ben") for i in range(8, 16)]
    verdict = judge(gate(max=1.8, worst="speaker"), spec(), good + bad, None)
    assert (verdict.outcome, verdict.slice, verdict.prompts) == ("fail", "ben", 8)
    assert judge(gate(max=1.8, speaker="ana"), spec(), good + bad, None).outcome == "pass"
    assert judge(gate(max=1.8), spec(), good + bad, None).outcome != "fail"
    nobody = judge(gate(max=1.8, speaker="eve"), spec(), good, None)
    assert (nobody.outcome, nobody.value) == ("fail", None)


def test_a_median_ignores_outliers_and_needs_enough_prompts() -> None:
    ratio = spec("duration_ratio")
    many = judge(gate(metric="duration_ratio", max=1.2), ratio, values([1.0] * 11 + [50.0]), None)
    assert (many.outcome, many.value) == ("pass", 1.0)
    few = judge(gate(metric="duration_ratio", max=1.2), ratio, values([1.0] * 5), None)
    assert few.outcome == "undecided"


def test_verdicts_follow_their_schema() -> None:
    from qrecipe.errors import Place
    from qrecipe.inputs.documents.check import check

    found = [judge(gate(max=9.0), spec(), values(SAMPLE), None), undecidable(gate(max=1.0), "why", "skipped")]
    document = {"verdicts": {"a": [v.as_json() for v in found]}, "survives_rounding": {}}
    assert check("verdicts", json.loads(json.dumps(document)), Place("x")) == []
    del document["verdicts"]["a"][0]["gate"]
    assert check("verdicts", document, Place("x"))


def test_verdicts_name_their_gate() -> None:
    verdict = judge(gate(max_increase=0.1, baseline="base", layout="streaming"), spec(), values(NUMBERS), values(NUMBERS))
    assert verdict.gate == "talker_nll(dev, streaming) max_increase 0.1 over base"
    assert (verdict.threshold, verdict.kind, verdict.confidence) == (0.1, "max_increase", 0.95)
