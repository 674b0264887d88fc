"""From values to verdicts: intervals against independent ones, and every kind of gate on both sides and between."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from qrecipe.evaluate.gates import bootstrap, judge, paired, per_prompt, skipped, wilson
from qrecipe.evaluate.measure import Value
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.metrics import MetricSpec, find


def spec(name: str = "talker_nll") -> MetricSpec:
    found = find(name)
    assert found is not None
    return found


def gate(**fields: Any) -> Gate:
    return Gate.model_validate({"metric": "talker_nll", "data": "dev", **fields})


def values(numbers: list[float], layout: Any = "streaming", seed: int | None = None) -> list[Value]:
    return [Value(i + 1, layout, seed, n) for i, n in enumerate(numbers)]


SAMPLE = list(np.random.default_rng(0).gamma(2.0, 1.0, 60))


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_bootstrap_is_scipy_s(confidence: float) -> None:
    from scipy.stats import bootstrap as scipys

    data = np.array(SAMPLE)
    low, high = bootstrap(data, confidence, "a gate")
    theirs = scipys((data,), np.mean, confidence_level=confidence, n_resamples=9999, method="percentile", rng=np.random.default_rng(1))
    tolerance = 0.12 * data.std() / math.sqrt(len(data)) * 2
    assert low == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=tolerance)


def test_the_bootstrap_of_many_is_the_normal_interval() -> None:
    data = np.random.default_rng(3).normal(5.0, 2.0, 2000)
    low, high = bootstrap(data, 0.95, "x")
    half = 1.96 * data.std() / math.sqrt(len(data))
    assert low == pytest.approx(data.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(data.mean() + half, abs=0.1 * half)


def test_a_verdict_is_reproducible() -> None:
    data = np.array(SAMPLE)
    assert bootstrap(data, 0.95, "a") == bootstrap(data, 0.95, "a")
    assert bootstrap(data, 0.95, "a") != bootstrap(data, 0.95, "b")


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, table I: Wilson without continuity correction
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_rates_have_wilson_s_interval(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes / n, n, 0.95) == pytest.approx((low, high), abs=5e-5)


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
    assert json.loads(json.dumps(verdict.as_json(), allow_nan=False))["low"] < -1e6


def test_how_many_prompts_would_decide() -> None:
    """An interval shrinks with the square root of the prompts: half of the width needs four times as many."""
    rng = np.random.default_rng(5)
    sample = list(rng.normal(1.0, 1.0, 40))
    mean = float(np.mean(sample))
    verdict = judge(gate(max=mean + 0.1), spec(), values(sample), None)
    assert verdict.outcome == "undecided"
    half = (verdict.high - verdict.low) / 2
    assert verdict.prompts_needed == math.ceil(40 * (half / 0.1) ** 2)
    assert verdict.prompts_needed > 100
    assert judge(gate(max=mean + 10), spec(), values(sample), None).prompts_needed is None


def test_a_warning_is_shown_and_never_counts() -> None:
    verdict = judge(gate(max=0.5, severity="warn"), spec(), values(NUMBERS), None)
    assert verdict.outcome == "fail"
    assert verdict.counts_as_pass


def test_layouts_are_averaged_by_prompt_or_judged_alone() -> None:
    measured = values([1.0, 1.2, 0.8], "streaming") + values([3.0, 3.2, 2.8], "non_streaming")
    both = judge(gate(max=9.0), spec(), measured, None)
    assert both.value == pytest.approx(2.0)
    assert both.prompts == 3
    assert both.slices == pytest.approx({"non_streaming": 3.0, "streaming": 1.0})
    assert judge(gate(max=2.0, layout="streaming"), spec(), measured, None).outcome == "pass"
    assert judge(gate(max=2.0, layout="non_streaming"), spec(), measured, None).outcome == "fail"


def test_seeds_of_a_prompt_are_one_observation() -> None:
    """More seeds do not make more prompts."""
    measured = values([0.0, 1.0, 0.0], seed=0) + values([1.0, 1.0, 0.0], seed=1)
    assert per_prompt(measured, None) == {1: (0.5, 1.0), 2: (1.0, 1.0), 3: (0.0, 1.0)}
    assert judge(gate(max=9.0), spec(), measured, None).prompts == 3


def test_differences_are_paired_by_prompt_layout_and_seed() -> None:
    now = [Value(1, "streaming", 0, 5.0), Value(1, "streaming", 1, 9.0), Value(2, "streaming", 0, 1.0), Value(3, "streaming", 0, 7.0)]
    before = [
        Value(2, "streaming", 0, 4.0),
        Value(1, "streaming", 1, 1.0),
        Value(1, "streaming", 0, 4.0),
        Value(3, "non_streaming", 0, 7.0),
    ]
    assert paired(now, before, None) == {1: (4.5, 1.0), 2: (-3.0, 1.0)}


def test_equal_models_do_not_differ() -> None:
    same = values(SAMPLE)
    verdict = judge(gate(max_increase=0.0, baseline="previous"), spec(), same, same)
    assert (verdict.outcome, verdict.value, verdict.low, verdict.high) == ("pass", 0.0, 0.0, 0.0)


def test_rates_of_errors_are_pooled() -> None:
    """Two errors in ten characters and none in ninety are two in a hundred, not a mean of a fifth and nothing."""
    measured = [Value(1, "streaming", 0, 0.2, 10.0), Value(2, "streaming", 0, 0.0, 90.0)]
    assert judge(gate(metric="cer", max=1.0), spec("cer"), measured, None).value == pytest.approx(0.02)


def test_a_skipped_gate_does_not_stop_a_run_and_says_why() -> None:
    verdict = skipped(gate(metric="cer", max=0.1, optional=True), "no recogniser is installed")
    assert verdict.counts_as_pass
    assert (verdict.outcome, verdict.value, verdict.reason) == ("skipped", None, "no recogniser is installed")
    json.dumps(verdict.as_json(), allow_nan=False)


def test_confidence_widens_the_interval() -> None:
    wide = judge(gate(max=9.0, confidence=0.99), spec(), values(SAMPLE), None)
    narrow = judge(gate(max=9.0, confidence=0.8), spec(), values(SAMPLE), None)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_verdicts_name_their_gate() -> None:
    verdict = judge(gate(max_increase=0.1, baseline="base", layout="streaming"), spec(), values(NUMBERS), values(NUMBERS))
    assert verdict.gate == "talker_nll(dev, streaming) max_increase 0.1 over base"
    assert (verdict.threshold, verdict.kind, verdict.confidence) == (0.1, "max_increase", 0.95)
