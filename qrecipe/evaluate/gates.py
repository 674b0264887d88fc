"""From measured values to verdicts: the bound that protects is compared with the threshold, never the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, median
from typing import Any, get_args

import numpy as np

from qrecipe.evaluate.intervals import bootstrap, deviation, none_of, of_median, wilson
from qrecipe.evaluate.values import Prompts, Value, arrays, mean_of, over, paired, per_prompt, slices, where
from qrecipe.inputs.documents.verdicts import Judgement, Verdict
from qrecipe.recipe.gate import Dimension, Gate
from qrecipe.recipe.metrics import MetricSpec

MAX_NEEDED = 100_000
"""Prompts beyond which no number is named."""
SEVERITY: dict[Judgement, int] = {"skipped": 0, "pass": 1, "undecided": 2, "fail": 3}


def judge(
    gate: Gate,
    spec: MetricSpec,
    values: Sequence[Value],
    baseline: Sequence[Value] | None,
    recordings: Sequence[Value] = (),
    evaluator: dict[str, Any] | None = None,
) -> Verdict:
    """Judges a gate.

    The interval is over prompts: seeds, layouts and ways of giving the voice of one prompt are averaged first.

    Args:
        values: of the model that is judged.
        baseline: of the model that a relative gate compares with.
        recordings: of the recordings themselves, the baseline of gates that compare with them.
        evaluator: what the values depend on, for the verdict.
    """
    chosen = where(values, layout=gate.layout, prompt=gate.prompt, speaker=gate.speaker, length=gate.length)
    if not chosen:
        return undecidable(gate, "no prompt belongs to the slice that the gate names", "fail")
    if gate.worst is None:
        return _judge(gate, spec, chosen, baseline, recordings, evaluator)
    verdicts = {k: _judge(gate, spec, v, baseline, recordings, evaluator) for k, v in slices(chosen, gate.worst).items()}
    name, worst = max(verdicts.items(), key=lambda item: (SEVERITY[item[1].outcome], _excess(gate, item[1])))
    return worst.model_copy(update={"slice": name})


def _judge(
    gate: Gate,
    spec: MetricSpec,
    values: Sequence[Value],
    baseline: Sequence[Value] | None,
    recordings: Sequence[Value],
    evaluator: dict[str, Any] | None,
) -> Verdict:
    # a gate that compares decides on paired differences; `before` is the metric that it compares with
    decided, before = list(values), None
    floor = where(recordings, speaker=gate.speaker, length=gate.length)
    if gate.against == "recordings":
        decided, before = over(values, recordings), centre_of(spec, per_prompt(recordings)) if recordings else None
    elif gate.relative:
        assert baseline is not None
        decided = paired(values, baseline)
        keys = {(v.line, v.layout, v.prompt) for v in values}
        before = centre_of(spec, per_prompt([v for v in baseline if (v.line, v.layout, v.prompt) in keys]))
    if not decided:
        return undecidable(gate, "no prompt has a value to be compared with", "fail")

    # the interval decides, the centre and the rest are for whoever reads the verdict
    prompts = per_prompt(decided)
    centre = centre_of(spec, prompts)
    low, high = interval(spec, prompts, gate.confidence, gate.label(), gate.relative)
    outcome = outcome_of(gate, low, high)
    own = per_prompt(values)
    return verdict_of(
        gate,
        outcome,
        value=centre,
        low=finite(low),
        high=finite(high),
        prompts=len(prompts),
        prompts_needed=needed(gate, spec, prompts) if outcome == "undecided" else None,
        measured=centre_of(spec, own),
        spread=spread(own),
        baseline=before,
        slices=by_slice(spec, values),
        recordings=centre_of(spec, per_prompt(floor)) if floor else None,
        evaluator=evaluator,
    )


def undecidable(gate: Gate, reason: str, outcome: Judgement) -> Verdict:
    """The verdict of a gate without values: an optional one that is skipped on this machine or with this data, or one that has nothing to judge."""
    return verdict_of(gate, outcome, prompts=0, reason=reason)


def verdict_of(gate: Gate, outcome: Judgement, **numbers: Any) -> Verdict:
    """A verdict on a gate; `numbers` are its other fields."""
    about = {name: getattr(gate, name) for name in ("metric", "data", "severity", "threshold", "kind", "confidence")}
    return Verdict(gate=gate.label(), outcome=outcome, **about, **numbers)


def interval(spec: MetricSpec, prompts: Prompts, confidence: float, seed: str, difference: bool) -> tuple[float, float]:
    """The interval of a metric, or of the difference of two models.

    Wilson's for a rate, order statistics for a median, the exact bound where nothing was counted, else the studentised
    bootstrap, resampled with `seed`. Infinite where there are too few prompts for any; else within the metric's bounds.
    """
    low, high = _unbounded(spec, prompts, confidence, seed, difference)
    if math.isinf(low) or math.isinf(high):
        return -math.inf, math.inf
    least, most = (inf if b is None else b for b, inf in zip(spec.bounds, (-math.inf, math.inf), strict=True))
    if difference:
        least, most = least - most, most - least
    return max(low, least), min(high, most)


def _unbounded(spec: MetricSpec, prompts: Prompts, confidence: float, seed: str, difference: bool) -> tuple[float, float]:
    """The interval by the method that fits, which may reach beyond what there can be."""
    numbers, weights = arrays(prompts)
    if spec.binary and not difference:
        return wilson(mean_of(prompts), len(numbers), confidence)
    if spec.centre == "median":
        return of_median(numbers, confidence)
    trials = _trials_without_event(spec, prompts)
    if trials is not None and len(numbers) > 1:
        most = none_of(trials, confidence)
        return (-most if difference else 0.0), most
    return bootstrap(numbers, confidence, seed, weights)


def _trials_without_event(spec: MetricSpec, prompts: Prompts) -> float | None:
    """Characters, words or samples among which no error, or no difference, was counted.

    None if there was one, or if the metric counts nothing.
    """
    if not (spec.binary or spec.counts) or any(v for v, _ in prompts.values()):
        return None
    return sum(w for _, w in prompts.values())


def by_slice(spec: MetricSpec, values: Sequence[Value]) -> dict[str, dict[str, float]]:
    """The metric in every slice of every dimension in which the values differ."""
    centres = {}
    for dimension in get_args(Dimension):
        parts = slices(values, dimension)
        if len(parts) > 1:
            centres[dimension] = {key or "-": centre_of(spec, per_prompt(part)) for key, part in parts.items()}
    return centres


def centre_of(spec: MetricSpec, prompts: Prompts) -> float:
    """Centre of the prompts' values: their weighted mean, or the median where the metric says so."""
    return median(v for v, _ in prompts.values()) if spec.centre == "median" else mean_of(prompts)


def spread(prompts: Prompts) -> tuple[float, float]:
    """Within which 95 % of the prompts' values are."""
    low, high = np.quantile([v for v, _ in prompts.values()], [0.025, 0.975])
    return float(low), float(high)


def _bound(gate: Gate) -> tuple[float, bool]:
    """The bound on the value, or on its difference to the baseline, and whether it is an upper one."""
    sign = -1 if gate.kind in ("min_decrease", "max_decrease") else 1
    upper = gate.kind in ("max", "max_increase", "min_decrease", "max_over_floor")
    return sign * gate.threshold, upper


def outcome_of(gate: Gate, low: float, high: float) -> Judgement:
    """Pass if the whole interval is on the good side of the bound, fail if it is on the bad side."""
    bound, upper = _bound(gate)
    if upper:
        return "pass" if high <= bound else "fail" if low > bound else "undecided"
    return "pass" if low >= bound else "fail" if high < bound else "undecided"


def _excess(gate: Gate, verdict: Verdict) -> float:
    """How far the bound that protects lies on the bad side."""
    bound, upper = _bound(gate)
    if verdict.low is None or verdict.high is None:
        return math.inf
    return verdict.high - bound if upper else bound - verdict.low


def needed(gate: Gate, spec: MetricSpec, prompts: Prompts) -> int | None:
    """About how many prompts would decide if the mean and the spread stay; None if no number would do.

    By the normal interval: that of a few skewed prompts is far wider than it will be with more.
    """
    bound, _ = _bound(gate)
    n, centre = len(prompts), centre_of(spec, prompts)
    if spec.binary and not gate.relative:
        sizes = (m for m in range(n + 1, MAX_NEEDED) if outcome_of(gate, *wilson(centre, m, gate.confidence)) != "undecided")
        return next(sizes, None)
    numbers, weights = arrays(prompts)
    gap = abs(centre - bound)
    if gap == 0 or n < 2:
        return None
    trials = _trials_without_event(spec, prompts)
    if trials is not None:
        sizes = (m for m in range(n + 1, MAX_NEEDED) if none_of(trials * m / n, gate.confidence) <= gap)
        return next(sizes, None)
    reach = NormalDist().inv_cdf(0.5 + gate.confidence / 2) * deviation(numbers, weights)
    prompts_needed = max(n + 1, math.ceil((reach / gap) ** 2))
    return prompts_needed if prompts_needed <= MAX_NEEDED else None


def finite(end: float) -> float | None:
    """An end of an interval for a document: None where too few prompts give no interval, since JSON has no infinity."""
    return end if math.isfinite(end) else None
