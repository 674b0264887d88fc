"""How sure a mean over prompts is: intervals that cover the true mean as often as they say.

Error rates are skewed: most prompts are nearly right and a few are badly wrong. Percentile intervals of so few and so
skewed values miss the true mean far more often than they claim, nearly always on the side that lets a bad model
through. The studentised bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 12) misses it
about as often as it says; `tests/evaluate/test_intervals.py` simulates both. No end is nearer than Student's, which keeps
the level where few prompts are not skewed.
"""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

RESAMPLES = 4000
"""Bootstrap resamples of an interval."""
LEAST_SPREAD = 0.1
"""A resample's standard error is at least this share of the sample's: resamples of one value repeated have none."""

Floats = NDArray[np.float64]


def bootstrap(values: Floats, confidence: float, seed: str, weights: Floats | None = None) -> tuple[float, float]:
    """Two-sided studentised bootstrap interval of the weighted mean over prompts.

    Args:
        values: [prompts].
        confidence: level of the interval.
        seed: what the resampling is seeded by, so that a verdict is reproducible.
        weights: [prompts], of a ratio's denominators; default: equal. The mean is then a ratio of sums, and its standard
            error that of the linearised ratio.
    """
    n = len(values)
    if n == 1:
        return -math.inf, math.inf
    weights = np.ones_like(values) if weights is None else weights
    mean, error = _mean_and_error(values[None], weights[None])
    if error[0] == 0.0:
        return float(mean[0]), float(mean[0])
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    drawn = rng.integers(0, n, size=(RESAMPLES, n))
    means, errors = _mean_and_error(values[drawn], weights[drawn])
    studentised = (means - mean) / np.maximum(errors, LEAST_SPREAD * error)
    tail = (1 - confidence) / 2
    low, high = np.quantile(studentised, [tail, 1 - tail])
    student = float(stdtrit(n - 1, 1 - tail))
    low, high = min(low, -student), max(high, student)
    return float(mean[0] - high * error[0]), float(mean[0] - low * error[0])


def deviation(values: Floats, weights: Floats) -> float:
    """Standard deviation of what a prompt adds to the weighted mean: the standard error times the root of the prompts."""
    return float(_mean_and_error(values[None], weights[None])[1][0]) * math.sqrt(len(values))


def _mean_and_error(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """[resamples, prompts] twice -> weighted means and their standard errors, [resamples]."""
    n = values.shape[1]
    means = (values * weights).sum(axis=1) / weights.sum(axis=1)
    residuals = (values - means[:, None]) * weights / weights.mean(axis=1)[:, None]
    return means, np.sqrt((residuals**2).sum(axis=1) / (n - 1) / n)


def wilson(rate: float, prompts: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a rate. A bootstrap of values that are all equal would claim certainty."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (rate + z * z / (2 * prompts)) / (1 + z * z / prompts)
    half = z / (1 + z * z / prompts) * math.sqrt(rate * (1 - rate) / prompts + z * z / (4 * prompts * prompts))
    return max(0.0, centre - half), min(1.0, centre + half)


def none_of(trials: float, confidence: float) -> float:
    """Upper end of the interval of a rate of which no event was seen: 1 - tail ** (1 / trials), about 3.7 / trials at 95 %.

    Clopper and Pearson (Biometrika 26, 1934). A bootstrap of values that are all 0 would claim certainty. Events are taken
    to come singly: no interval can see what no prompt shows.

    >>> round(none_of(200, 0.95), 4)
    0.0183
    """
    return -math.expm1(math.log((1 - confidence) / 2) / trials)


def of_median(values: Floats, confidence: float) -> tuple[float, float]:
    """Interval of the median by order statistics (binomial): exact whatever the distribution, infinite for few prompts."""
    n, tail = len(values), (1 - confidence) / 2
    ordered = np.sort(values)
    below = np.cumsum([math.comb(n, k) * 0.5**n for k in range(n + 1)])
    k = int(np.searchsorted(below, tail, side="right"))  # the largest k with P(fewer than k values below the median) <= tail
    return (float(ordered[k - 1]), float(ordered[n - k])) if k else (-math.inf, math.inf)
