"""Gates proven able to fail, before hours are spent on what they will say.

Every gate on a metric that listens is tried on the dataset's own recordings and on copies that were spoilt in the ways
that the metric is there to notice. The recordings must pass and every kind of spoilt copies must fail; a gate that cannot
tell them apart with these prompts is refused, with the number of prompts that would do. A gate that demands a gain over a
baseline is given the spoilt copies as the baseline, and must see the gain of the recordings over them and none of spoilt
copies over themselves.

Metrics that read recordings through the model (held-out likelihood) cannot be tried: the base does not know the language yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from qrecipe.data.speech import Progress, SpeechData
from qrecipe.evaluate.gates import judge
from qrecipe.evaluate.listeners import Listeners
from qrecipe.evaluate.measure import measure_samples
from qrecipe.evaluate.samples import Sample, recorded, spoken_rows
from qrecipe.evaluate.spoil import TEXTS, WAYS
from qrecipe.evaluate.values import Value
from qrecipe.plan.documents import Verdict
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.metrics import MetricSpec, find
from qrecipe.recipe.recipe import Evaluation


@dataclass(frozen=True)
class Probe:
    """What a gate made of recordings and of one kind of spoilt copies."""

    gate: Gate
    natural: Verdict | None
    """None: the gate was not tried."""
    spoilt: dict[str, Verdict]
    reason: str | None = None
    """Why it was not tried."""

    @property
    def missed(self) -> list[str]:
        """Ways of spoiling that the gate did not fail."""
        return [way for way, v in self.spoilt.items() if v.outcome != "fail"]

    @property
    def sound(self) -> bool:
        """Whether the gate told recordings from spoilt copies, or was not tried."""
        return self.natural is None or (self.natural.outcome == "pass" and not self.missed)

    @property
    def prompts_needed(self) -> int | None:
        """Prompts that would do; None if more would not help, or are not needed."""
        verdicts = [v for v in (self.natural, *self.spoilt.values()) if v is not None]
        if any(v.prompts_needed is None for v in verdicts if v.outcome == "undecided") or self._hopeless:
            return None
        return max((v.prompts_needed for v in verdicts if v.prompts_needed is not None), default=None)

    @property
    def _hopeless(self) -> bool:
        return (self.natural is not None and self.natural.outcome == "fail") or any(v.outcome == "pass" for v in self.spoilt.values())

    def why(self) -> str:
        """What is wrong with a gate that is not sound, in a sentence or two."""
        assert self.natural is not None
        found = []
        if self.natural.outcome == "fail":
            found.append(f"even recordings fail it ({_numbers(self.natural)})")
        elif self.natural.outcome == "undecided":
            found.append(f"it cannot say that recordings pass ({_numbers(self.natural)})")
        for way in self.missed:
            verdict = self.spoilt[way]
            what = "passes" if verdict.outcome == "pass" else "cannot tell from good ones"
            found.append(f"it {what} recordings {TEXTS[way]} ({_numbers(verdict)})")
        return "; ".join(found)

    def as_json(self) -> dict[str, Any]:
        """For `evaluate --probe-gates`."""
        return {
            "gate": self.gate.label(),
            "sound": self.sound,
            "tried": self.natural is not None,
            "reason": self.reason if self.natural is None else None if self.sound else self.why(),
            "prompts_needed": self.prompts_needed,
            "recordings": self.natural.as_json() if self.natural else None,
            "spoilt": {way: v.as_json() for way, v in self.spoilt.items()},
        }


def _numbers(verdict: Verdict) -> str:
    if verdict.value is None or verdict.low is None or verdict.high is None:
        return verdict.reason or "no value"
    return f"{verdict.value:.3g}, {verdict.low:.3g} to {verdict.high:.3g}, {verdict.prompts} prompts"


def probe(
    gates: Sequence[Gate],
    data: dict[str, SpeechData],
    settings: Evaluation,
    listeners: Listeners,
    progress: Progress | None = None,
) -> list[Probe]:
    """Tries gates on their datasets' recordings; equal gates once."""
    tried = {(g.data, s.name): 1 + len(ways_of(g, s)) for g in gates if (s := _listens(g, listeners)) is not None}
    rows = {name: len([r for r in spoken_rows(d, settings) if r.audio is not None]) for name, d in data.items()}
    values = _Values(data, settings, listeners, progress, sum(n * rows[d] for (d, _), n in tried.items()))
    found: dict[str, Probe] = {}
    for gate in gates:
        if gate.label() not in found:
            found[gate.label()] = _probe(gate, data, values, listeners)
    return list(found.values())


def _probe(gate: Gate, data: dict[str, SpeechData], values: _Values, listeners: Listeners) -> Probe:
    spec = find(gate.metric)
    assert spec is not None, "checked by the recipe"
    if spec.source != "generated" or not spec.spoilt:
        return Probe(gate, None, {}, f"`{spec.name}` does not listen, or names no way of spoiling a recording")
    missing = listeners.missing(spec)
    if missing is not None:
        return Probe(gate, None, {}, missing.message)
    if not ways_of(gate, spec):
        return Probe(gate, None, {}, "no spoilt copy lies on the side that the gate guards")
    natural = values.of(gate.data, spec, None)
    if not natural:
        return Probe(gate, None, {}, f"`{gate.data}` has no recordings to try it on")
    gains = gate.kind in ("min_decrease", "min_increase")
    plain = gate.model_copy(update={"layout": None, "prompt": None, "worst": None if gate.worst in ("layout", "prompt") else gate.worst})
    spoilt, passes = {}, []
    for way in ways_of(gate, spec):
        bad = values.of(gate.data, spec, way)
        spoilt[way] = judge(plain, spec, bad, bad if gains else natural, natural)
        passes.append(judge(plain, spec, natural, bad if gains else natural, natural))
    order = {"fail": 0, "undecided": 1, "pass": 2, "skipped": 3}
    worst = min(passes, key=lambda v: order[v.outcome])
    return Probe(gate, worst, spoilt)


def _listens(gate: Gate, listeners: Listeners) -> MetricSpec | None:
    """The metric of a gate that can be tried here."""
    spec = find(gate.metric)
    assert spec is not None, "checked by the recipe"
    return spec if spec.source == "generated" and ways_of(gate, spec) and listeners.missing(spec) is None else None


def ways_of(gate: Gate, spec: MetricSpec) -> list[str]:
    """The ways of spoiling that the gate's side must notice: of `duration_ratio`, a cut recording is too short, a doubled one too long."""
    upper = gate.kind in ("max", "max_increase", "min_decrease", "max_over_floor")
    if spec.better in ("one", "match"):
        longer = {"duration_ratio": ("doubled",), "speaking_rate": ("cut",)}.get(spec.name, ())
        shorter = {"duration_ratio": ("cut",), "speaking_rate": ("doubled",), "f0_range": ("flat",)}.get(spec.name, ())
        return [w for w in (longer if upper else shorter) if w in spec.spoilt]
    return list(spec.spoilt) if upper == (spec.better == "lower") else []


class _Values:
    """Values of metrics over recordings and spoilt copies, measured when they are first asked for."""

    def __init__(
        self, data: dict[str, SpeechData], settings: Evaluation, listeners: Listeners, progress: Progress | None, total: int
    ) -> None:
        self._data = data
        self._settings = settings
        self._listeners = listeners
        self._progress = progress
        self._done, self._total = 0, total
        self._samples: dict[tuple[str, str | None], list[Sample]] = {}
        self._values: dict[tuple[str, str | None, str], list[Value]] = {}

    def of(self, dataset: str, spec: MetricSpec, way: str | None) -> list[Value]:
        """Values of one metric; `way` None: over the recordings as they are."""
        key = (dataset, way, spec.name)
        if key not in self._values:
            samples = self._spoilt(dataset, way)
            values: list[Value] = []
            rows = spoken_rows(self._data[dataset], self._settings)
            for sample in samples:
                values += measure_samples([sample], [spec], self._listeners, rows)[spec.name]
                self._done += 1
                if self._progress is not None:
                    self._progress("trying gates on recordings", self._done, max(self._done, self._total))
            self._values[key] = values
        return self._values[key]

    def _spoilt(self, dataset: str, way: str | None) -> list[Sample]:
        if (dataset, None) not in self._samples:
            self._samples[(dataset, None)] = [replace(s) for s in recorded(self._data[dataset], self._settings, self._listeners)]
        if (dataset, way) not in self._samples:
            assert way is not None
            self._samples[(dataset, way)] = WAYS[way](self._samples[(dataset, None)])
        return self._samples[(dataset, way)]
