"""Gates: what must be true of generated or held-out speech before a run goes on or a model is handed on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qrecipe.qwen3 import Layout, PromptKind
from qrecipe.recipe.model import Settings

BEST = "best"
"""In `speak_as`: the base speaks the language of its own that it speaks the texts best with."""
Length = Literal["short", "medium", "long"]
Dimension = Literal["layout", "prompt", "speaker", "length"]
RELATIVE = ("max_increase", "min_increase", "max_decrease", "min_decrease", "max_over_floor")
THRESHOLDS = ("min", "max", *RELATIVE)


class Gate(Settings):
    """One condition on one metric over one dataset."""

    metric: Annotated[str, Field(min_length=1)]
    """Name of the metric; `qrecipe schema metrics` lists them with their units."""
    data: Annotated[str, Field(min_length=1)]
    """The dataset whose prompts are judged. It may not be trained on: what was learned by heart says nothing of other sentences. Text in a new language will do for metrics that read no recordings, such as `cer`: the model reads it in the voices of `teacher.voices`."""
    speak_as: str | None = None
    """Speak the dataset's texts under this language's token instead of their own (the default): does the new language leak into an old one's text? `best`, with `baseline: base`, changes the base alone: it speaks the texts under the language of its own, or under none, that it speaks them best with by this metric. A third of the sentences choose that language, and the others judge."""
    layout: Layout | None = None
    """Judge this layout alone; default: the mean over the evaluated layouts."""
    prompt: PromptKind | None = None
    """Judge this way of giving the voice alone; default: the mean over those that are evaluated."""
    speaker: str | None = None
    """Judge prompts of this speaker alone; default: of all."""
    length: Length | None = None
    """Judge the third of the prompts with the shortest, middle or longest texts alone; default: all. Models often fail at long texts first."""
    worst: Dimension | None = None
    """Judge every slice of this kind alone; the worst verdict is the gate's. So a good layout does not hide a bad one, but each slice has fewer prompts to decide with."""
    ballots: Annotated[str, Field(min_length=1)] | None = None
    """Ballots of `preference`, a pattern such as `votes/*.json`, relative to the file that states it; `qrecipe listen` writes them. Default: none, and other metrics have none."""
    min: float | None = None
    """The value must be at least this, in the metric's unit."""
    max: float | None = None
    """The value must be at most this, in the metric's unit."""
    max_increase: float | None = None
    """The value may exceed the baseline's by at most this, in the metric's unit; paired by prompt and seed."""
    min_decrease: float | None = None
    """The value must lie below the baseline's by at least this, in the metric's unit; paired by prompt and seed."""
    max_decrease: float | None = None
    """The value may lie below the baseline's by at most this, in the metric's unit; for metrics of which more is better."""
    min_increase: float | None = None
    """The value must exceed the baseline's by at least this, in the metric's unit; for metrics of which more is better."""
    max_over_floor: float | None = None
    """The value may exceed that of the recordings themselves by at most this, in the metric's unit, paired by prompt: what the evaluator finds wrong with real speech is not the model's fault."""
    baseline: Literal["base", "previous", "recordings"] | None = None
    """For thresholds that compare: the base with the new rows at their init, the model before this stage, or the recordings (which `max_over_floor` implies)."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Level of the two-sided interval over prompts, a share. A threshold inside the interval is undecided, which counts as not passed. 0.95 by custom: a model right at the threshold passes one time in forty, and a higher level needs more prompts."""
    severity: Literal["error", "warn"] = "error"
    """`warn` is shown and never counts: for what should be looked at, or whose threshold is not known yet."""
    optional: bool = False
    """Where the packages or the evaluator's model that the metric needs are not installed, or the gate cannot tell these recordings from spoilt copies of them: skip the gate, and say so in the verdict and on the model card. Otherwise that is an error."""

    @property
    def thresholds(self) -> list[str]:
        """Names of the thresholds that the gate states; one that can be judged has exactly one."""
        return [k for k in THRESHOLDS if getattr(self, k) is not None]

    @property
    def kind(self) -> str:
        """The one threshold that is stated, such as `max` or `min_decrease`."""
        return self.thresholds[0]

    @property
    def threshold(self) -> float:
        """The number of that threshold."""
        return float(getattr(self, self.kind))

    @property
    def relative(self) -> bool:
        """Whether the gate compares with a baseline."""
        return self.kind in RELATIVE

    @property
    def against_best(self) -> bool:
        """Whether the baseline is the base under the best of its own languages."""
        return self.speak_as == BEST

    @property
    def token(self) -> str | None:
        """The language whose token the judged model gets in place of the dataset's."""
        return None if self.against_best else self.speak_as

    @property
    def against(self) -> str | None:
        """The baseline, said or implied."""
        return "recordings" if self.kind == "max_over_floor" else self.baseline

    def label(self) -> str:
        """One line that names the gate, such as `talker_nll(dev) max_increase 0.1 over base`."""
        slices = [v for v in (self.layout, self.prompt, self.speaker, self.length) if v]
        spoken = [f"as {self.token}"] if self.token else []
        worst = [f"worst {self.worst}"] if self.worst else []
        over = f" over {self.baseline}" if self.relative and self.baseline else ""
        over += " as best" if self.against_best else ""
        return f"{self.metric}({', '.join([self.data, *spoken, *slices, *worst])}) {self.kind} {self.threshold:g}{over}"


class Bound(Settings):
    """A limit on a second metric. States `min` or `max`, in the metric's unit."""

    metric: Annotated[str, Field(min_length=1)]
    """A metric of the same prompts; `qrecipe schema metrics` lists them."""
    min: float | None = None
    """The value must be at least this."""
    max: float | None = None
    """The value must be at most this."""

    def allows(self, value: float) -> bool:
        """Whether a value is within the limit."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


class Select(Settings):
    """The stage's result is its best step on held-out data, not its last."""

    metric: Annotated[str, Field(min_length=1)]
    """Decides which step is best. `talker_nll` and `predictor_nll` are cheap; a metric of generated speech, such as `cer`, is measured on the model as it would be exported. Likelihood falls as a voice is learned, whether the language is read or not, so choose by ear where a recogniser knows the language."""
    data: Annotated[str, Field(min_length=1)]
    """A dataset that is not trained on, of recordings or, for metrics that read none, of sentences; the gates' own may serve, but then it has been looked at before they judge."""
    every: Annotated[int, Field(ge=1)]
    """Optimiser steps between two evaluations: often enough to meet the best step, seldom enough not to cost more than training. A likelihood reads the whole dataset in every layout."""
    prompts: Annotated[int, Field(ge=1)] = 16
    """For metrics of generated speech: at most this many rows are spoken, the first ones, with the seeds, layouts and prompts of `evaluation`. The same at every evaluation, so that steps are compared on the same random numbers."""
    bounds: Annotated[list[Bound], Field(max_length=20)] = []
    """Limits that a step must keep to be chosen; default: none. If no step keeps them, the last one is the result."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop the stage after this many evaluations without a new best; default: never early."""
    otherwise: Literal["talker_nll", "predictor_nll"] | None = None
    """Decides in place of `metric` where the recipe names no recogniser, or packages or the evaluator's model are not installed; the plan says so. Default: that is an error."""

    @property
    def metrics(self) -> list[str]:
        """Everything that an evaluation measures, the deciding metric first."""
        return list(dict.fromkeys([self.metric, *(b.metric for b in self.bounds)]))
