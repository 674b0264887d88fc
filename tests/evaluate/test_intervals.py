"""Intervals: against independent ones, and how often they cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from qrecipe.evaluate.intervals import Floats, bootstrap, none_of, of_median, wilson

SAMPLE = list(np.random.default_rng(0).gamma(2.0, 1.0, 60))


@pytest.mark.slow
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


@pytest.mark.parametrize("trials", [2, 24, 320])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_no_event_in_so_many_trials_has_the_exact_upper_end(trials: int, confidence: float) -> None:
    exact = binomtest(0, trials).proportion_ci(confidence, method="exact")
    assert none_of(trials, confidence) == pytest.approx(exact.high, rel=1e-12)


def test_medians_are_covered_by_order_statistics() -> None:
    """Conover (1999), table of confidence intervals of a median: n = 10 at 95 % is the 2nd to the 9th value."""
    assert of_median(np.arange(1.0, 11.0), 0.95) == (2.0, 9.0)
    assert of_median(np.arange(1.0, 6.0), 0.95) == (-math.inf, math.inf)
    assert of_median(np.arange(1.0, 7.0), 0.95) == (1.0, 6.0)


def error_rates(rng: np.random.Generator, prompts: int) -> tuple[Floats, Floats]:
    """Errors of a good model: a third of the prompts perfect, the others of a skewed rate of 0.107, lengths from 20 to 90."""
    lengths = rng.integers(20, 90, prompts)
    rates = np.where(rng.random(prompts) < 0.3, 0.0, rng.beta(1.2, 10.0, prompts))
    return rng.binomial(lengths, rates) / lengths, lengths.astype(np.float64)


def percentile(values: Floats, weights: Floats, rng: np.random.Generator) -> tuple[float, float]:
    drawn = rng.integers(0, len(values), size=(1000, len(values)))
    means = (values * weights)[drawn].sum(axis=1) / weights[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [12, 24])
def test_intervals_cover_as_often_as_they_claim(prompts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a skewed error rate. The upper bound, which protects, is missed far less often than by percentiles."""
    monkeypatch.setattr("qrecipe.evaluate.intervals.RESAMPLES", 1000)
    rng = np.random.default_rng(1)
    truth, rounds = 0.7 * 1.2 / 11.2, 600
    missed, too_low, percentile_too_low = 0, 0, 0
    for i in range(rounds):
        values, weights = error_rates(rng, prompts)
        low, high = bootstrap(values, 0.95, str(i), weights)
        missed += not low <= truth <= high
        too_low += high < truth
        percentile_too_low += percentile(values, weights, rng)[1] < truth
    error = 3 * math.sqrt(0.05 * 0.95 / rounds)
    assert missed / rounds <= 0.05 + error
    assert too_low / rounds <= 0.025 + error
    assert percentile_too_low > 1.5 * too_low


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_intervals_of_even_values_cover_and_are_no_wider_than_they_need(distribution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qrecipe.evaluate.intervals.RESAMPLES", 1000)
    rng = np.random.default_rng(2)
    widths, covered, rounds = [], 0, 500
    for i in range(rounds):
        values = rng.normal(0, 1, 16) if distribution == "normal" else rng.uniform(-math.sqrt(3), math.sqrt(3), 16)
        low, high = bootstrap(values, 0.95, str(i))
        covered += low <= 0 <= high
        widths.append(high - low)
    assert covered / rounds >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / rounds)
    assert np.mean(widths) < 1.2 * 2 * 2.131 / 4  # Student's, 15 degrees of freedom
