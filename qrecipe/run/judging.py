"""Measuring and judging during a run: every value is measured once for a state of the model, gates read values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qrecipe.data.speech import SpeechData
from qrecipe.errors import Place, Problem, Problems, RecipeError
from qrecipe.evaluate.gates import judge, undecidable
from qrecipe.evaluate.listeners import Listeners
from qrecipe.evaluate.measure import MEASURING, measure, measure_recordings
from qrecipe.evaluate.probe import probe
from qrecipe.evaluate.samples import Sample, Task, generated, recorded
from qrecipe.evaluate.values import Value
from qrecipe.files import write_text
from qrecipe.model.opened import Opened
from qrecipe.plan.documents import Verdict
from qrecipe.plan.fingerprints import NUMERICS
from qrecipe.plan.values import PlannedDataset
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.metrics import MetricSpec, find
from qrecipe.recipe.recipe import Evaluation
from qrecipe.report.page import Column, write_page
from qrecipe.run.events import Events, tell_progress
from qrecipe.run.store import RunStore

Key = tuple[str, str | None, str]
"""(dataset, language whose token is given in place of its own, metric)."""
Measured = dict[Key, list[Value]]


def spec_of(gate: Gate) -> MetricSpec:
    """The metric of a gate that was checked."""
    spec = find(gate.metric)
    assert spec is not None, "checked by the recipe"
    return spec


class Judge:
    """Judges gates on whatever the modules of `opened` hold; `state` names that, and `base` the encoders, which never change."""

    def __init__(
        self,
        opened: Opened,
        data: dict[str, SpeechData],
        planned: dict[str, PlannedDataset],
        settings: Evaluation,
        listeners: Listeners,
        store: RunStore,
        events: Events,
        base: str,
    ) -> None:
        self._opened = opened
        self._data = data
        self._planned = planned
        self._settings = settings
        self._listeners = listeners
        self._store = store
        self._events = events
        self._base = base

    def baseline(self, gates: Sequence[Gate], baseline: str, state: str) -> Measured:
        """Values that gates with this baseline compare with, measured while the modules hold it."""
        return self._measured([g for g in gates if g.baseline == baseline], state, f"baseline {baseline}")

    def judge(self, gates: Sequence[Gate], state: str, where: str, baselines: dict[str, Measured]) -> list[Verdict]:
        """Verdicts of gates, in order. `baselines` has what relative gates compare with, by the baseline's name."""
        values = self._measured(gates, state, where)
        recordings = self._recordings(gates, where)
        verdicts = []
        for gate in gates:
            spec = spec_of(gate)
            missing = self._listeners.missing(spec)
            if missing is not None:
                assert gate.optional, "reported before the run"
                verdict = undecidable(gate, missing.message, "skipped")
            else:
                key = (gate.data, gate.speak_as, gate.metric)
                before = baselines[gate.baseline][key] if gate.baseline in baselines else None
                evaluator = self._listeners.describe(spec, self._data[gate.data].language)
                verdict = judge(gate, spec, values[key], before, recordings.get((gate.data, gate.metric), ()), evaluator)
            verdicts.append(verdict)
            self._events.emit("verdict", where=where, **verdict.as_json())
        return verdicts

    def require_sound(self, gates: Sequence[tuple[Gate, Place]]) -> None:
        """Tries the gates that count on recordings. Raises `RecipeError` for those that cannot tell good from spoilt."""
        places = {g.label(): place for g, place in reversed(gates) if g.severity == "error"}
        counting = [g for g, _ in gates if g.severity == "error"]
        problems = Problems()
        for found in probe(counting, self._data, self._settings, self._listeners, self._progress):
            label, needed = found.gate.label(), found.prompts_needed
            self._events.emit("gate_tried", gate=label, sound=found.is_valid, tried=found.clean_verdict is not None, reason=found.reason)
            if not found.is_valid:
                help_ = f"about {needed:,} prompts would do" if needed else "move the threshold, or see docs/method.md on gates"
                problems.append(Problem("QR083", f"{label} was tried on recordings: {found.why()}", places[label], help_))
        problems.raise_any(RecipeError)

    def demonstrate(self, gates: Sequence[Gate], state: str) -> None:
        """Has the base speak what gates will judge, once and in one layout: what a person compares the stages with."""
        settings = self._settings.model_copy(update={"seeds": self._settings.seeds[:1], "layouts": self._settings.layouts[:1]})
        for dataset in dict.fromkeys(g.data for g, s in self._judged_here(gates) if s.source == "generated" and g.speak_as is None):
            for _ in generated(self._opened, self._task(dataset, state, settings), self._progress):
                pass

    def _task(self, dataset: str, state: str, settings: Evaluation, speak_as: str | None = None) -> Task:
        """What a state is asked to speak; its samples are kept in the state's folder."""
        folder = self._store.stage_folder(state) / "samples" / dataset
        identity = [NUMERICS, state, self._planned[dataset].sha256]
        return Task(self._data[dataset], settings, self._listeners, speak_as, folder, identity)

    def page(self, title: str, states: Sequence[tuple[str, str]], verdicts: dict[str, list[Verdict]]) -> None:
        """Writes report.html: recordings and what every state said, side by side, as far as it was kept."""
        first = self._settings.model_copy(update={"seeds": self._settings.seeds[:1]})
        columns: list[Column] = []
        for dataset, data in self._data.items():
            made = []
            for name, state in states:
                samples = list(generated(None, self._task(dataset, state, first)))
                if samples:
                    made.append(Column(f"{dataset}: {name}", samples, self._hears(data, samples)))
            if made:
                samples = recorded(data, self._settings, self._listeners)
                columns += [Column(f"{dataset}: recording", samples, self._hears(data, samples)), *made]
        write_text(self._store.folder / "report.html", write_page(title, columns, verdicts=verdicts))

    def _hears(self, data: SpeechData, samples: Sequence[Sample]) -> bool:
        """Whether all samples were transcribed: the page asks no recogniser."""
        return all(self._listeners.heard(s) is not None for s in samples)

    def _judged_here(self, gates: Sequence[Gate]) -> list[tuple[Gate, MetricSpec]]:
        return [(g, s) for g in gates if self._listeners.missing(s := spec_of(g)) is None]

    def _measured(self, gates: Sequence[Gate], state: str, where: str) -> Measured:
        wanted: dict[tuple[str, str | None], set[str]] = {}
        for gate, _ in self._judged_here(gates):
            wanted.setdefault((gate.data, gate.speak_as), set()).add(gate.metric)
        found: Measured = {}
        for (dataset, speak_as), metrics in wanted.items():
            values = self._values(dataset, speak_as, sorted(metrics), state, where)
            found.update({(dataset, speak_as, m): v for m, v in values.items()})
        return found

    def _values(self, dataset: str, speak_as: str | None, metrics: list[str], state: str, where: str) -> dict[str, list[Value]]:
        """Values of metrics over a dataset, from the store where they were measured before."""
        keys = {m: self._key("values", dataset, m, state, speak_as) for m in metrics}
        found = {m: v for m in metrics if (v := self._store.load_values(keys[m])) is not None}
        missing = [m for m in metrics if m not in found]
        if missing:
            self._events.emit("measuring", dataset=dataset, metrics=missing, where=where)
            new = measure(self._opened, self._task(dataset, state, self._settings, speak_as), missing, self._progress)
            for metric, values in new.items():
                self._store.save_values(keys[metric], values)
            found.update(new)
        return found

    def _key(self, kind: str, dataset: str, metric: str, state: str, speak_as: str | None = None) -> list[Any]:
        """What a value depends on."""
        spec = find(metric)
        assert spec is not None, "checked by the recipe"
        listener = self._listeners.describe(spec, self._data[dataset].language)
        settings = self._settings.model_dump(mode="json", exclude={"probe_gates"})
        return [kind, NUMERICS, MEASURING, state, self._planned[dataset].sha256, settings, speak_as, metric, spec.function, listener]

    def _recordings(self, gates: Sequence[Gate], where: str) -> dict[tuple[str, str], list[Value]]:
        """Metrics over the recordings themselves, by (dataset, metric); none for metrics that recordings have no value of."""
        found: dict[tuple[str, str], list[Value]] = {}
        wanted: dict[str, dict[str, list[Any]]] = {}
        for gate, spec in self._judged_here(gates):
            if not spec.on_recordings:
                continue
            key = self._key("recordings", gate.data, gate.metric, self._base)
            stored = self._store.load_values(key)
            if stored is not None:
                found[(gate.data, gate.metric)] = stored
            else:
                wanted.setdefault(gate.data, {})[gate.metric] = key
        for dataset, keys in wanted.items():
            self._events.emit("measuring", dataset=dataset, metrics=list(keys), where=f"recordings, for {where}")
            new = measure_recordings(self._data[dataset], list(keys), self._settings, self._listeners, self._progress)
            for metric, values in new.items():
                self._store.save_values(keys[metric], values)
                found[(dataset, metric)] = values
        return found

    def _progress(self, what: str, done: int, of: int) -> None:
        tell_progress(self._events, what, done, of)
