"""Gates: what must be true of generated or held-out speech before a run goes on or a model is handed on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qrecipe.recipe.model import Settings

Layout = Literal["streaming", "non_streaming"]
PromptKind = Literal["x_vector", "in_context"]
RELATIVE = ("max_increase", "min_increase", "max_decrease", "min_decrease")
THRESHOLDS = ("min", "max", *RELATIVE)


class Gate(Settings):
    """One condition on one metric over one dataset."""

    metric: Annotated[str, Field(min_length=1)]
    """What is measured; `qrecipe schema metrics` lists them."""
    data: Annotated[str, Field(min_length=1)]
    """The dataset whose prompts are judged. It may not be trained on."""
    layout: Layout | None = None
    """Judge this layout alone; default: the mean over the evaluated layouts."""
    min: float | None = None
    """The value must be at least this."""
    max: float | None = None
    """The value must be at most this."""
    max_increase: float | None = None
    """The value may exceed the baseline's by at most this, in the metric's unit; paired by prompt and seed."""
    min_decrease: float | None = None
    """The value must lie below the baseline's by at least this; paired by prompt and seed."""
    max_decrease: float | None = None
    """The value may lie below the baseline's by at most this; for metrics of which more is better."""
    min_increase: float | None = None
    """The value must exceed the baseline's by at least this; for metrics of which more is better."""
    baseline: Literal["base", "previous"] | None = None
    """For thresholds that compare: the base with the new rows at their init, or the model before this stage."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Level of the two-sided bootstrap interval over prompts. A threshold inside the interval is undecided, which counts as not passed."""
    severity: Literal["error", "warn"] = "error"
    """`warn` is shown and never counts."""
    optional: bool = False
    """Where the packages or the evaluator's model that the metric needs are not installed: skip the gate, and say so in the verdict and on the model card. Otherwise that is an error."""

    @property
    def kind(self) -> str:
        """The one threshold that is given, such as `max` or `min_decrease`."""
        return next(k for k in THRESHOLDS if getattr(self, k) is not None)

    @property
    def threshold(self) -> float:
        """The number of that threshold."""
        return float(getattr(self, self.kind))

    @property
    def relative(self) -> bool:
        """Whether the gate compares with a baseline."""
        return self.kind in RELATIVE

    def label(self) -> str:
        """One line that names the gate, such as `talker_nll(dev) max_increase 0.1 over base`."""
        layout = f", {self.layout}" if self.layout else ""
        over = f" over {self.baseline}" if self.relative else ""
        return f"{self.metric}({self.data}{layout}) {self.kind} {self.threshold:g}{over}"


class Select(Settings):
    """The stage's result is its best step on held-out data, not its last."""

    metric: Literal["talker_nll", "predictor_nll"]
    """The teacher-forced loss that decides; lower is better."""
    data: Annotated[str, Field(min_length=1)]
    """A speech dataset that is not trained on."""
    every: Annotated[int, Field(ge=1)]
    """Optimiser steps between two evaluations."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many evaluations without a new best; default: never early."""
