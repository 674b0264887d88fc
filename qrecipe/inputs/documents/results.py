"""Results of `evaluate` and `compare`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from qrecipe.recipe.model import Settings


class Statistic(Settings):
    """A metric of one model over one dataset, or the difference of two."""

    value: float
    """Mean over prompts (median, pooled rate)."""
    low: float | None
    """Lower end of its interval; null where there are too few prompts for one."""
    high: float | None
    """Upper end."""
    confidence: float
    """Level of the interval."""
    prompts: int
    """Prompts that have a value."""
    unit: str
    """Unit of the metric."""
    better: Literal["lower", "higher", "one", "match"]
    """Which direction is better."""
    spread: tuple[float, float]
    """Between which 95 % of the prompts lie."""
    recordings: float | None
    """The metric over the recordings themselves."""
    slices: dict[str, dict[str, float]]
    """The metric by layout, prompt, speaker and length, where there are several."""
    evaluator: dict[str, Any] | None
    """The evaluator with everything that its numbers depend on."""


class Heard(Settings):
    """One utterance that was judged."""

    line: int
    """Line of the manifest."""
    layout: str
    """How text met frames."""
    prompt: str
    """How the voice was given."""
    seed: int | None
    """Seed; null for a recording."""
    audio: str | None
    """Its file, relative to the evaluation's; null where nothing was kept."""
    transcript: str | None
    """The recogniser's transcript; null without one."""


class EvaluationResult(Settings):
    """Result of `qrecipe evaluate`."""

    evaluation: Annotated[int, Field(ge=1, le=1)]
    """Version of this format."""
    model: str
    """The MODEL argument."""
    identity: str | None
    """Content of the model."""
    data: str
    """The manifest."""
    language: str
    """Language whose token was given."""
    settings: dict[str, Any]
    """How it was measured."""
    items: list[dict[str, Any]]
    """One a row, in the manifest's order: text, frames, line, how the voice was given, and the mean of every metric."""
    summary: dict[str, float]
    """Items, frames, and every metric's value."""
    metrics: dict[str, Statistic]
    """Every metric with its interval."""
    samples: list[Heard]
    """Every utterance."""
    gates: list[dict[str, Any]] = []
    """Result of `--probe-gates`."""


class Comparison(Settings):
    """Result of `qrecipe compare`: differences of B to A, paired by prompt, layout, way of giving the voice and seed."""

    comparison: Annotated[int, Field(ge=1, le=1)]
    """Version of this format."""
    a: EvaluationResult
    """The first model."""
    b: EvaluationResult
    """The second."""
    differences: dict[str, Statistic]
    """B less A."""
    verdicts: dict[str, Literal["better", "worse", "undecided"]]
    """Verdict of the interval on B."""
