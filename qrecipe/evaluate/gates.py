"""From measured values to verdicts: intervals over prompts, and pass, fail or undecided."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qrecipe.evaluate.measure import Value
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.metrics import MetricSpec

RESAMPLES = 4000
"""Bootstrap resamples of an interval."""

MAX_NEEDED = 100_000
"""Prompts beyond which no number is named."""

Outcome = Literal["pass", "fail", "undecided", "skipped"]

WeightedMeans = dict[int, tuple[float, float]]
"""Line of a prompt -> (value, weight)."""


@dataclass(frozen=True)
class Verdict:
    """What a gate decided, with the numbers that decided it."""

    gate: str
    metric: str
    data: str
    outcome: Outcome
    severity: Literal["error", "warn"]
    value: float | None
    """Mean over prompts; for a relative gate the mean difference to the baseline."""
    low: float | None
    """Lower end of the interval of `value`."""
    high: float | None
    threshold: float
    kind: str
    confidence: float
    prompts: int
    prompts_needed: int | None
    """For undecided: prompts at which an interval of this spread would decide."""
    measured: float | None
    """Mean of the metric itself."""
    baseline: float | None
    """Mean of the metric at the baseline."""
    slices: dict[str, float] = field(default_factory=dict)
    """Mean by layout."""
    recordings: float | None = None
    """Mean of the metric over the recordings themselves: what the evaluator finds in real speech."""
    evaluator: dict[str, Any] | None = None
    """The evaluator with everything that its numbers depend on."""
    reason: str | None = None
    """Why the gate was skipped."""

    @property
    def counts_as_pass(self) -> bool:
        """Whether the gate lets the run go on."""
        return self.outcome in ("pass", "skipped") or self.severity == "warn"

    def as_json(self) -> dict[str, Any]:
        """For verdicts.json and the command line."""
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()} | {
            "slices": {k: round(v, 6) for k, v in self.slices.items()}
        }


def per_prompt(values: Sequence[Value], layout: str | None) -> WeightedMeans:
    """Mean over seeds and layouts (or one layout) for every prompt, with the prompt's weight."""
    grouped: dict[int, list[Value]] = {}
    for v in values:
        if layout is None or v.layout == layout:
            grouped.setdefault(v.line, []).append(v)
    return {line: (sum(v.value for v in vs) / len(vs), vs[0].weight) for line, vs in grouped.items()}


def paired(values: Sequence[Value], baseline: Sequence[Value], layout: str | None) -> WeightedMeans:
    """Mean difference to the baseline for every prompt, paired by prompt, layout and seed."""
    before = {(v.line, v.layout, v.seed): v.value for v in baseline}
    differences = [replace(v, value=v.value - before[(v.line, v.layout, v.seed)]) for v in values if (v.line, v.layout, v.seed) in before]
    return per_prompt(differences, layout)


def mean_of(values: WeightedMeans) -> float:
    """Weighted mean over prompts: for rates of errors, the errors of all over the length of all."""
    return sum(v * w for v, w in values.values()) / sum(w for _, w in values.values())


def bootstrap(values: NDArray[np.float64], confidence: float, seed: str, weights: NDArray[np.float64] | None = None) -> tuple[float, float]:
    """Two-sided percentile interval of the (weighted) mean over prompts. Seeded by the gate, so that a verdict is reproducible."""
    if len(values) == 1:
        return -math.inf, math.inf
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    drawn = rng.integers(0, len(values), size=(RESAMPLES, len(values)))
    weights = np.ones_like(values) if weights is None else weights
    means = (values * weights)[drawn].sum(axis=1) / weights[drawn].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def wilson(rate: float, prompts: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a rate. A bootstrap of values that are all equal would claim certainty."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (rate + z * z / (2 * prompts)) / (1 + z * z / prompts)
    half = z / (1 + z * z / prompts) * math.sqrt(rate * (1 - rate) / prompts + z * z / (4 * prompts * prompts))
    return max(0.0, centre - half), min(1.0, centre + half)


def judge(
    gate: Gate,
    spec: MetricSpec,
    values: Sequence[Value],
    baseline: Sequence[Value] | None,
    recordings: Sequence[Value] = (),
    evaluator: dict[str, Any] | None = None,
) -> Verdict:
    """Judges a gate.

    The interval is over prompts: seeds and layouts of one prompt are averaged first. `baseline` holds the values of
    the model that a relative gate compares with, `recordings` those of the recordings themselves.
    """
    own = per_prompt(values, gate.layout)
    assert own, f"{gate.label()}: nothing was measured"
    measured = mean_of(own)
    before = None
    decided = own
    if gate.relative:
        assert baseline is not None
        decided = paired(values, baseline, gate.layout)
        assert decided, f"{gate.label()}: the baseline was measured on other prompts"
        before = mean_of(per_prompt(baseline, gate.layout))
    numbers, weights = np.array([decided[k] for k in sorted(decided)], dtype=np.float64).T
    mean = mean_of(decided)
    rate = spec.binary and not gate.relative
    if rate:
        low, high = wilson(mean, len(numbers), gate.confidence)
    else:
        low, high = bootstrap(numbers, gate.confidence, gate.label(), weights)
    outcome = _outcome(gate, low, high)
    needed = _needed(gate, rate, mean, low, high, len(numbers)) if outcome == "undecided" else None
    layouts = sorted({v.layout for v in values})
    return Verdict(
        gate=gate.label(),
        metric=gate.metric,
        data=gate.data,
        outcome=outcome,
        severity=gate.severity,
        value=mean,
        low=_finite(low),
        high=_finite(high),
        threshold=gate.threshold,
        kind=gate.kind,
        confidence=gate.confidence,
        prompts=len(numbers),
        prompts_needed=needed,
        measured=measured,
        baseline=before,
        slices={name: mean_of(per_prompt(values, name)) for name in layouts},
        recordings=mean_of(per_prompt(recordings, None)) if recordings else None,
        evaluator=evaluator,
    )


def skipped(gate: Gate, reason: str) -> Verdict:
    """The verdict of an optional gate that cannot be judged on this machine."""
    return Verdict(
        gate=gate.label(),
        metric=gate.metric,
        data=gate.data,
        outcome="skipped",
        severity=gate.severity,
        value=None,
        low=None,
        high=None,
        threshold=gate.threshold,
        kind=gate.kind,
        confidence=gate.confidence,
        prompts=0,
        prompts_needed=None,
        measured=None,
        baseline=None,
        reason=reason,
    )


def _bound(gate: Gate) -> tuple[float, bool]:
    """The bound on the value, or on its difference to the baseline, and whether it is an upper one."""
    sign = -1 if gate.kind in ("min_decrease", "max_decrease") else 1
    upper = gate.kind in ("max", "max_increase", "min_decrease")
    return sign * gate.threshold, upper


def _outcome(gate: Gate, low: float, high: float) -> Outcome:
    """Pass if the whole interval is on the good side of the bound, fail if it is on the bad side."""
    bound, upper = _bound(gate)
    if upper:
        return "pass" if high <= bound else "fail" if low > bound else "undecided"
    return "pass" if low >= bound else "fail" if high < bound else "undecided"


def _needed(gate: Gate, rate: bool, mean: float, low: float, high: float, prompts: int) -> int | None:
    """Prompts at which the gate would be decided if the mean and the spread stay; None if no number would do."""
    bound, _ = _bound(gate)
    if rate:
        sizes = (n for n in range(prompts + 1, MAX_NEEDED) if _outcome(gate, *wilson(mean, n, gate.confidence)) != "undecided")
        return next(sizes, None)
    gap, half = abs(mean - bound), (high - low) / 2
    if gap == 0 or not math.isfinite(half):
        return None
    return max(prompts + 1, math.ceil(prompts * (half / gap) ** 2))


def _finite(x: float) -> float:
    """JSON has no infinity; an interval of one prompt is as wide as any number."""
    return x if math.isfinite(x) else math.copysign(1e9, x)
