"""Verdicts of gates."""

from __future__ import annotations

from typing import Any, Literal

from qrecipe.recipe.model import Settings

Judgement = Literal["pass", "fail", "undecided", "skipped"]


class Verdict(Settings):
    """A gate's decision, with the numbers that decided it. Without a value: why there is none."""

    gate: str
    """The gate in one line."""
    metric: str
    """Name of the metric."""
    data: str
    """On which dataset."""
    outcome: Judgement
    """`pass` if the whole interval is on the good side of the threshold, `fail` if it is on the bad side, `undecided` between, which does not pass; `skipped`: the gate is optional and cannot be judged on this machine."""
    severity: Literal["error", "warn"]
    """`warn` never counts."""
    value: float | None = None
    """The deciding number: the mean over prompts (the median, the pooled rate); for a relative gate the mean difference."""
    low: float | None = None
    """Lower end of the interval of `value`; null where there are too few prompts for one."""
    high: float | None = None
    """Upper end."""
    threshold: float
    """The gate's number."""
    kind: str
    """The gate's threshold, such as `max`."""
    confidence: float
    """Level of the interval."""
    prompts: int
    """Prompts that were judged."""
    prompts_needed: int | None = None
    """For undecided: prompts at which an interval of this spread would decide."""
    measured: float | None = None
    """The metric itself."""
    spread: tuple[float, float] | None = None
    """Between which 95 % of the prompts lie."""
    baseline: float | None = None
    """The metric at the baseline."""
    spoken_as: str | None = None
    """The language of its own that the base spoke for the baseline, `auto` for none; null unless the gate says `speak_as: best`."""
    tried: dict[str, float] = {}
    """The metric of the base under each of its languages on the sentences that chose `spoken_as`, which are not judged."""
    untold: float | None = None
    """The metric of the base that is told no language, on the sentences that are judged."""
    recordings: float | None = None
    """The metric over the recordings themselves: what the evaluator finds in real speech."""
    slice: str | None = None
    """For a gate on the worst slice: which that is."""
    slices: dict[str, dict[str, float]] = {}
    """The metric by layout, prompt, speaker and length, where there are several."""
    evaluator: dict[str, Any] | None = None
    """The evaluator with everything that its numbers depend on."""
    rewarded: bool = False
    """Whether a stage was rewarded by the metric's own ear: the value rises whether speech gets better or not."""
    reason: str | None = None
    """Why there is no value."""

    @property
    def bound(self) -> float:
        """The threshold on the scale of `value`: a decrease is a negative difference."""
        return -self.threshold if self.kind in ("min_decrease", "max_decrease") else self.threshold

    def against_best(self) -> str | None:
        """Scores of the base, told nothing and told its best language, and of the model, in a line; None for other gates.

        >>> Verdict(gate="", metric="cer", data="dev", outcome="pass", severity="error", threshold=0, kind="min_decrease",
        ...     confidence=0.95, prompts=27, measured=0.13, baseline=0.165, spoken_as="spanish", untold=0.41).against_best()
        'cer on dev: the base told nothing 0.41, told spanish 0.165, this model 0.13 (27 sentences, which did not choose the language)'
        """
        if self.spoken_as is None or self.measured is None or self.baseline is None:
            return None
        untold = [f"told nothing {self.untold:.3g}"] if self.untold is not None else []
        with_language = [f"told {self.spoken_as} {self.baseline:.3g}"] if self.spoken_as != "auto" else []
        values = ", ".join([f"the base {'; '.join(untold)}" if untold else "the base", *with_language, f"this model {self.measured:.3g}"])
        return f"{self.metric} on {self.data}: {values} ({self.prompts} sentences, which did not choose the language)"

    @property
    def counts_as_pass(self) -> bool:
        """Whether the gate lets the run go on."""
        return self.outcome in ("pass", "skipped") or self.severity == "warn"

    def as_json(self) -> dict[str, Any]:
        """For verdicts.json and the command line."""
        rounded: dict[str, Any] = _rounded(self.model_dump(mode="json"))
        return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 6) if isinstance(value, float) else value


class Verdicts(Settings):
    """verdicts.json of a bundle: what every gate decided, by the stage after which it was judged; `accept` last."""

    verdicts: dict[str, list[Verdict]]
    """By stage."""
    survives_rounding: dict[str, float]
    """Share of what a stage trained that survives rounding to the base's number format."""


def interval_text(low: float | None, high: float | None, sign: str = "") -> str:
    """An interval as people read it. `sign` is `+` for one of a difference.

    >>> interval_text(0.25, 1.5)
    '0.25 to 1.5'
    >>> interval_text(None, None)
    'none'
    """
    return "none" if low is None or high is None else f"{low:{sign}.4g} to {high:{sign}.4g}"
