"""Gates proven able to fail, before hours are spent on what they will say.

A gate on a metric of sound is tried on the dataset's own recordings, and on corrupted copies of them: corrupted in the
ways that the metric is there to notice. The recordings must pass, and every kind of corrupted copies must fail. A gate
that cannot tell them apart with these prompts is refused, with the number of prompts that would do. A gate that demands a
gain over a baseline gets the corrupted copies as its baseline. It must see the gain of the recordings over them, and no
gain of the corrupted copies over themselves.

Metrics that read recordings through the model (held-out likelihood) cannot be tried: the base does not know the language yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from qrecipe.data.speech import OnProgress, SpeechData
from qrecipe.evaluate.corruptions import CORRUPTIONS, DESCRIPTIONS
from qrecipe.evaluate.evaluators import EvaluatorSet
from qrecipe.evaluate.gates import judge
from qrecipe.evaluate.measure import heard_together, measure_samples
from qrecipe.evaluate.samples import Sample, recorded, spoken_rows
from qrecipe.evaluate.values import Value
from qrecipe.inputs.documents.verdicts import Verdict
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.metrics import MetricSpec, spec_of
from qrecipe.recipe.recipe import Evaluation

GAINS = ("min_decrease", "min_increase")
"""Thresholds that demand a gain over a baseline."""


@dataclass(frozen=True)
class Probe:
    """Verdicts of one gate on recordings and on corrupted copies of them."""

    gate: Gate
    clean_verdict: Verdict | None
    """On the recordings as they are; None: the gate was not tried."""
    corrupted_verdicts: dict[str, Verdict]
    """By the name of the corruption."""
    reason: str | None = None
    """Why it was not tried."""

    @property
    def undetected_corruptions(self) -> list[str]:
        """Corruptions that the gate did not fail. Copies over themselves gain exactly 0: a gate that demands more than that of
        them need not do so, for it does not pass what is undecided."""
        fine = ("fail", "undecided") if self.gate.kind in GAINS and self.gate.threshold == 0 else ("fail",)
        return [name for name, v in self.corrupted_verdicts.items() if v.outcome not in fine]

    @property
    def is_valid(self) -> bool:
        """Whether the gate told recordings from corrupted copies, or was not tried."""
        return self.clean_verdict is None or (self.clean_verdict.outcome == "pass" and not self.undetected_corruptions)

    @property
    def prompts_needed(self) -> int | None:
        """Prompts that would do; None if more would not help, or are not needed."""
        verdicts = [v for v in (self.clean_verdict, *self.corrupted_verdicts.values()) if v is not None]
        if any(v.prompts_needed is None for v in verdicts if v.outcome == "undecided") or self._hopeless:
            return None
        return max((v.prompts_needed for v in verdicts if v.prompts_needed is not None), default=None)

    @property
    def _hopeless(self) -> bool:
        return (self.clean_verdict is not None and self.clean_verdict.outcome == "fail") or any(
            v.outcome == "pass" for v in self.corrupted_verdicts.values()
        )

    def why(self) -> str:
        """Why a gate that was tried is not valid, in a sentence or two."""
        assert self.clean_verdict is not None
        reasons = []
        if self.clean_verdict.outcome == "fail":
            reasons.append(f"even recordings fail it ({_numbers(self.clean_verdict)})")
        elif self.clean_verdict.outcome == "undecided":
            reasons.append(f"it cannot say that recordings pass ({_numbers(self.clean_verdict)})")
        for name in self.undetected_corruptions:
            verdict = self.corrupted_verdicts[name]
            what = "passes" if verdict.outcome == "pass" else "cannot tell from good ones"
            reasons.append(f"it {what} recordings {DESCRIPTIONS[name]} ({_numbers(verdict)})")
        return "; ".join(reasons)

    def as_json(self) -> dict[str, Any]:
        """For `evaluate --probe-gates`."""
        return {
            "gate": self.gate.label(),
            "sound": self.is_valid,
            "tried": self.clean_verdict is not None,
            "reason": self.reason if self.clean_verdict is None else None if self.is_valid else self.why(),
            "prompts_needed": self.prompts_needed,
            "recordings": self.clean_verdict.as_json() if self.clean_verdict else None,
            "spoilt": {name: v.as_json() for name, v in self.corrupted_verdicts.items()},
        }


def _numbers(verdict: Verdict) -> str:
    if verdict.value is None:
        return verdict.reason or "no value"
    interval = "no interval" if verdict.low is None or verdict.high is None else f"{verdict.low:.3g} to {verdict.high:.3g}"
    return f"{verdict.value:.3g}, {interval}, {verdict.prompts} prompts"


def probe(
    gates: Sequence[Gate],
    data: dict[str, SpeechData],
    settings: Evaluation,
    evaluators: EvaluatorSet,
    progress: OnProgress | None = None,
) -> list[Probe]:
    """Tries gates on their datasets' recordings; equal gates once."""
    tried: dict[tuple[str, str], set[str]] = {}
    for gate in gates:
        if (spec := _listens(gate, evaluators)) is not None:
            tried.setdefault((gate.data, spec.name), set()).update(corruptions_for(gate, spec))
    rows = {name: len([r for r in spoken_rows(d, settings) if r.audio is not None]) for name, d in data.items()}
    values = _Values(data, settings, evaluators, progress, sum((1 + len(ways)) * rows[name] for (name, _), ways in tried.items()))
    probes: dict[str, Probe] = {}
    for gate in gates:
        if gate.label() not in probes:
            probes[gate.label()] = _probe(gate, data, values, evaluators)
    return list(probes.values())


def _probe(gate: Gate, data: dict[str, SpeechData], values: _Values, evaluators: EvaluatorSet) -> Probe:
    spec = spec_of(gate.metric)
    if spec.source != "generated" or not spec.spoilt:
        return Probe(gate, None, {}, f"`{spec.name}` does not listen, or names no way of spoiling a recording")
    missing = evaluators.missing(spec)
    if missing is not None:
        return Probe(gate, None, {}, missing.message)
    if not corruptions_for(gate, spec):
        return Probe(gate, None, {}, "no spoilt copy lies on the side that the gate guards")
    clean = values.of(gate.data, spec, None)
    if not clean:
        return Probe(gate, None, {}, f"`{gate.data}` has no recordings to try it on")
    gains = gate.kind in GAINS
    plain = gate.model_copy(update={"layout": None, "prompt": None, "worst": None if gate.worst in ("layout", "prompt") else gate.worst})
    corrupted_verdicts, clean_verdicts = {}, []
    for name in corruptions_for(gate, spec):
        corrupted = values.of(gate.data, spec, name)
        baseline = corrupted if gains else clean
        corrupted_verdicts[name] = judge(plain, spec, corrupted, baseline, clean)
        clean_verdicts.append(judge(plain, spec, clean, baseline, clean))
    order = {"fail": 0, "undecided": 1, "pass": 2, "skipped": 3}
    worst = min(clean_verdicts, key=lambda v: order[v.outcome])
    return Probe(gate, worst, corrupted_verdicts)


def _listens(gate: Gate, evaluators: EvaluatorSet) -> MetricSpec | None:
    """The metric of a gate that can be tried here."""
    spec = spec_of(gate.metric)
    return spec if spec.source == "generated" and corruptions_for(gate, spec) and evaluators.missing(spec) is None else None


def corruptions_for(gate: Gate, spec: MetricSpec) -> list[str]:
    """Corruptions that must fail on the side that the gate guards.

    Of `duration_ratio`, for example, a cut recording is too short and a doubled one too long.
    """
    upper = gate.kind in ("max", "max_increase", "min_decrease", "max_over_floor")
    if spec.better in ("one", "match"):
        longer = {"duration_ratio": ("doubled",), "speaking_rate": ("cut",)}.get(spec.name, ())
        shorter = {"duration_ratio": ("cut",), "speaking_rate": ("doubled",), "f0_range": ("flat",)}.get(spec.name, ())
        return [name for name in (longer if upper else shorter) if name in spec.spoilt]
    return list(spec.spoilt) if upper == (spec.better == "lower") else []


class _Values:
    """Values of metrics over recordings and corrupted copies, measured when they are first needed."""

    def __init__(
        self, data: dict[str, SpeechData], settings: Evaluation, evaluators: EvaluatorSet, progress: OnProgress | None, total: int
    ) -> None:
        self._data = data
        self._settings = settings
        self._evaluators = evaluators
        self._progress = progress
        self._done, self._total = 0, total
        self._samples: dict[tuple[str, str | None], list[Sample]] = {}
        self._values: dict[tuple[str, str | None, str], list[Value]] = {}

    def of(self, dataset: str, spec: MetricSpec, corruption: str | None) -> list[Value]:
        """Values of one metric; `corruption` None: over the recordings as they are."""
        key = (dataset, corruption, spec.name)
        if key not in self._values:
            samples = self._corrupted(dataset, corruption)
            values: list[Value] = []
            rows = spoken_rows(self._data[dataset], self._settings)
            for sample in heard_together(samples, [spec], self._evaluators):
                values += measure_samples([sample], [spec], self._evaluators, rows)[spec.name]
                self._done += 1
                if self._progress is not None:
                    self._progress("trying gates on recordings", self._done, self._total)
            self._values[key] = values
        return self._values[key]

    def _corrupted(self, dataset: str, corruption: str | None) -> list[Sample]:
        if (dataset, None) not in self._samples:
            self._samples[(dataset, None)] = [replace(s) for s in recorded(self._data[dataset], self._settings, self._evaluators)]
        if (dataset, corruption) not in self._samples:
            assert corruption is not None
            self._samples[(dataset, corruption)] = CORRUPTIONS[corruption](self._samples[(dataset, None)])
        return self._samples[(dataset, corruption)]
