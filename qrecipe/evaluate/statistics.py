"""A metric over prompts as people read it: value, interval, spread, slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from qrecipe.evaluate.gates import by_slice, centre_of, finite, interval, spread
from qrecipe.evaluate.values import Value, paired, per_prompt
from qrecipe.inputs.documents.results import Statistic
from qrecipe.recipe.metrics import MetricSpec


def statistic(
    spec: MetricSpec,
    values: Sequence[Value],
    confidence: float,
    recordings: Sequence[Value] = (),
    evaluator: dict[str, Any] | None = None,
    difference: bool = False,
) -> Statistic | None:
    """A metric with its interval; None where no prompt has a value. `difference`: the values are differences of two models."""
    if not values:
        return None
    prompts = per_prompt(values)
    low, high = interval(spec, prompts, confidence, spec.name, difference)
    return Statistic(
        value=centre_of(spec, prompts),
        low=finite(low),
        high=finite(high),
        confidence=confidence,
        prompts=len(prompts),
        unit=spec.unit,
        better=spec.better,
        spread=spread(prompts),
        recordings=centre_of(spec, per_prompt(recordings)) if recordings else None,
        slices=by_slice(spec, values),
        evaluator=evaluator,
    )


def compare(
    spec: MetricSpec, a: Sequence[Value], b: Sequence[Value], recordings: Sequence[Value], confidence: float
) -> tuple[Statistic, Literal["better", "worse", "undecided"]] | None:
    """B less A, paired, and what its interval says of B.

    Of a metric that should match something (1, or the recordings' own value) the difference is that of the distances.
    """
    if spec.better in ("one", "match"):
        target = {v.line: v.value for v in recordings} if spec.better == "match" else {v.line: 1.0 for v in [*a, *b]}
        a, b = _distances(a, target), _distances(b, target)
    difference = statistic(replace(spec, centre="mean"), paired(b, a), confidence, difference=True)
    if difference is None:
        return None
    if difference.low is None or difference.high is None:
        return difference, "undecided"
    sign = -1 if spec.better == "higher" else 1
    low, high = sorted((sign * difference.low, sign * difference.high))
    return difference, "better" if high < 0 else "worse" if low > 0 else "undecided"


def shortfall(spec: MetricSpec, value: float, recordings: Sequence[Value] = ()) -> float:
    """How far a value is from the best that the metric knows, so that lower is better; infinite for NaN.

    `recordings` are the metric's own over the recordings, which a metric that should match them needs.
    """
    if math.isnan(value) or (spec.better == "match" and not recordings):
        return math.inf
    if spec.better == "match":
        return abs(value - centre_of(spec, per_prompt(recordings)))
    return {"lower": value, "higher": -value, "one": abs(value - 1.0)}[spec.better]


def _distances(values: Sequence[Value], target: dict[int, float]) -> list[Value]:
    return [replace(v, value=abs(v.value - target[v.line])) for v in values if v.line in target]
