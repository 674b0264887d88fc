"""Measuring and judging during a run: every value is measured once for a state of the model, gates read values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import soundfile

from qrecipe.data.audio import RATE
from qrecipe.data.speech import SpeechData
from qrecipe.evaluate.gates import Verdict, judge, skipped
from qrecipe.evaluate.listeners import Listeners
from qrecipe.evaluate.measure import Value, measure, measure_recordings
from qrecipe.evaluate.metrics import Sample
from qrecipe.model.opened import Opened
from qrecipe.plan.fingerprints import NUMERICS
from qrecipe.plan.values import PlannedDataset
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.metrics import MetricSpec, find
from qrecipe.recipe.recipe import Evaluation
from qrecipe.run.events import Events
from qrecipe.run.spoken import SpokenStore
from qrecipe.run.store import RunStore

SAMPLES_KEPT = 3
"""Utterances of a layout that are written for listening."""

Measured = dict[tuple[str, str], list[Value]]
"""(dataset, metric) -> values."""


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
        verdicts = []
        for gate in gates:
            spec = find(gate.metric)
            assert spec is not None, "checked by the recipe"
            missing = self._listeners.missing(spec)
            if missing is not None:
                assert gate.optional, "reported before the run"
                verdict = skipped(gate, missing.message)
            else:
                key = (gate.data, gate.metric)
                before = baselines[gate.baseline][key] if gate.baseline is not None else None
                evaluator = self._listeners.describe(spec, self._data[gate.data].language)
                verdict = judge(gate, spec, values[key], before, self._recordings(gate, spec, where), evaluator)
            verdicts.append(verdict)
            self._events.emit("verdict", where=where, **verdict.as_json())
        return verdicts

    def _measured(self, gates: Sequence[Gate], state: str, where: str) -> Measured:
        wanted: dict[str, set[str]] = {}
        for gate in gates:
            spec = find(gate.metric)
            assert spec is not None, "checked by the recipe"
            if self._listeners.missing(spec) is None:
                wanted.setdefault(gate.data, set()).add(gate.metric)
        return {(d, m): v for d, metrics in wanted.items() for m, v in self._values(d, sorted(metrics), state, where).items()}

    def _key(self, kind: str, dataset: str, metric: str, state: str | None) -> list[Any]:
        """What a value depends on."""
        spec = find(metric)
        assert spec is not None, "checked by the recipe"
        listener = self._listeners.describe(spec, self._data[dataset].language)
        settings = self._settings.model_dump(mode="json")
        return [kind, NUMERICS, state, self._planned[dataset].sha256, settings, metric, listener]

    def _values(self, dataset: str, metrics: list[str], state: str, where: str) -> dict[str, list[Value]]:
        """Values of metrics over a dataset, from the store where they were measured before."""
        keys = {m: self._key("values", dataset, m, state) for m in metrics}
        found = {m: v for m in metrics if (v := self._store.load_values(keys[m])) is not None}
        missing = [m for m in metrics if m not in found]
        if missing:
            self._events.emit("measuring", dataset=dataset, metrics=missing, where=where)
            new = measure(
                self._opened,
                self._data[dataset],
                missing,
                self._settings,
                self._listeners,
                progress=self._progress,
                on_samples=lambda layout, samples: self._keep(dataset, layout, samples, state),
                kept=self._spoken(dataset, state).batch,
            )
            for metric, values in new.items():
                self._store.save_values(keys[metric], values)
            found.update(new)
        return found

    def _spoken(self, dataset: str, state: str) -> SpokenStore:
        """Speech is kept by the weights that made it, the prompts, and how the voice is given."""
        return SpokenStore(
            self._store.stage_folder(state) / "spoken", [NUMERICS, state, self._planned[dataset].sha256, self._settings.prompt]
        )

    def _recordings(self, gate: Gate, spec: MetricSpec, where: str) -> list[Value]:
        """The metric over the recordings themselves; none for metrics that recordings have no value of."""
        if not spec.on_recordings:
            return []
        key = self._key("recordings", gate.data, gate.metric, self._base)
        found = self._store.load_values(key)
        if found is None:
            self._events.emit("measuring", dataset=gate.data, metrics=[gate.metric], where=f"recordings, for {where}")
            data = self._data[gate.data]
            found = measure_recordings(data, [gate.metric], self._settings, self._listeners, self._progress)[gate.metric]
            self._store.save_values(key, found)
        return found

    def _progress(self, what: str, done: int, of: int) -> None:
        self._events.tell("speaking", what=what, done=done, of=of)

    def _keep(self, dataset: str, layout: str, samples: list[tuple[int, Sample]], state: str) -> None:
        """A few utterances to listen to, in the folder of the stage that made them."""
        folder = self._store.stage_folder(state) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        for _, sample in samples[:SAMPLES_KEPT]:
            soundfile.write(str(folder / f"{dataset}-{sample.row.line}-{layout}.wav"), sample.audio, RATE)
