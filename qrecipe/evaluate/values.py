"""Measured values and how they are put together: means over prompts, differences to a baseline, slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qrecipe.qwen3 import Layout, PromptKind
from qrecipe.recipe.gate import Dimension, Length


@dataclass(frozen=True)
class Value:
    """One measured number."""

    line: int
    """Line of the manifest."""
    layout: Layout
    seed: int | None
    """None for what is not drawn at random: teacher-forced metrics and recordings."""
    value: float
    weight: float = 1.0
    """Weight of the value in a mean over prompts: the denominator of a ratio."""
    prompt: PromptKind = "x_vector"
    """How the voice was given."""
    speaker: str = ""
    length: Length = "medium"
    """Which third of the dataset's prompts by length of text."""


Prompts = dict[int, tuple[float, float]]
"""Line of a prompt -> (value, weight)."""


def where(values: Sequence[Value], **wanted: str | None) -> list[Value]:
    """Values of one slice: `layout`, `prompt`, `speaker`, `length`; None takes all."""
    chosen = {k: v for k, v in wanted.items() if v is not None}
    return [v for v in values if all(getattr(v, k) == w for k, w in chosen.items())]


def slices(values: Sequence[Value], dimension: Dimension) -> dict[str, list[Value]]:
    """Values by what they are in one dimension, sorted by name."""
    parts: dict[str, list[Value]] = {}
    for value in values:
        parts.setdefault(getattr(value, dimension), []).append(value)
    return dict(sorted(parts.items()))


def per_prompt(values: Sequence[Value]) -> Prompts:
    """Mean over seeds, layouts and ways of giving the voice for every prompt, with the prompt's weight."""
    grouped: dict[int, list[Value]] = {}
    for v in values:
        grouped.setdefault(v.line, []).append(v)
    return {line: (sum(v.value for v in vs) / len(vs), vs[0].weight) for line, vs in grouped.items()}


def paired(values: Sequence[Value], baseline: Sequence[Value]) -> list[Value]:
    """Differences to the baseline, paired by prompt, layout, way of giving the voice, and seed."""
    before = {(v.line, v.layout, v.prompt, v.seed): v.value for v in baseline}
    keys = [(v.line, v.layout, v.prompt, v.seed) for v in values]
    return [replace(v, value=v.value - before[k]) for v, k in zip(values, keys, strict=True) if k in before]


def over(values: Sequence[Value], recordings: Sequence[Value]) -> list[Value]:
    """Differences to the recordings' own values, paired by prompt."""
    floor = {v.line: v.value for v in recordings}
    return [replace(v, value=v.value - floor[v.line]) for v in values if v.line in floor]


def arrays(prompts: Prompts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values and weights by line, each [prompts]."""
    numbers, weights = np.array([prompts[k] for k in sorted(prompts)], dtype=np.float64).T
    return numbers, weights


def mean_of(prompts: Prompts) -> float:
    """Weighted mean over prompts: for rates of errors, the errors of all over the length of all."""
    return sum(v * w for v, w in prompts.values()) / sum(w for _, w in prompts.values())
