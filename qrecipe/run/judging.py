"""Measuring and judging in a run: every value is measured once for a state of the model, gates read values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from qrecipe.data.speech import SpeechData
from qrecipe.errors import Place, Problem, Problems, RecipeError
from qrecipe.evaluate.gates import centre_of, judge, undecidable
from qrecipe.evaluate.measure import MEASURING, measure, measure_recordings
from qrecipe.evaluate.preference import Pair, judge_preference
from qrecipe.evaluate.probe import probe
from qrecipe.evaluate.samples import Sample, Task, generated, recorded
from qrecipe.evaluate.statistics import shortfall
from qrecipe.evaluate.values import Value, per_prompt
from qrecipe.files import write_text
from qrecipe.inputs.documents.verdicts import Verdict
from qrecipe.phases import phase
from qrecipe.plan.fingerprints import GENERATION, NUMERICS
from qrecipe.qwen3 import Layout
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.metrics import MetricSpec, spec_of
from qrecipe.recipe.recipe import Evaluation
from qrecipe.report.history import RunHistory
from qrecipe.report.page import PAGE, Column, column_of, write_page
from qrecipe.run.bench import Bench
from qrecipe.run.best_language import UNTOLD, BestLanguage, split

Key = tuple[str, str | None, str]
"""(dataset, language whose token is given in place of its own, metric)."""
Measured = dict[Key, list[Value]]


@dataclass(frozen=True)
class Baselines:
    """Values of the models that gates compare with."""

    base: Measured
    """Of the base with the new rows at their init."""
    best: Mapping[tuple[str, str], BestLanguage] = field(default_factory=dict)
    """Of the base under the best of its own languages, by (dataset, metric)."""
    previous: Measured = field(default_factory=dict)
    """Of the model before a stage."""

    def of(self, gate: Gate) -> list[Value] | None:
        """Values that a gate compares with; None where it compares with a number or with the recordings."""
        key = (gate.data, gate.token, gate.metric)
        return self.base[key] if gate.baseline == "base" else self.previous[key] if gate.baseline == "previous" else None


class _Part(NamedTuple):
    """Some sentences of a dataset."""

    name: str
    data: SpeechData
    settings: Evaluation


@dataclass(frozen=True)
class Judge:
    """Judges gates on whatever the modules of a session hold; a `state` is the fingerprint of that."""

    session: Bench
    unsound: dict[str, str] = field(default_factory=dict)
    """Optional gates that cannot tell good recordings from spoilt ones, by their labels -> why: they are skipped."""

    def baseline(self, gates: Sequence[Gate], baseline: str, state: str) -> Measured:
        """Values that gates with this baseline compare with, measured while the modules hold it."""
        return self._measured([g for g in gates if g.baseline == baseline and not g.against_best], state, f"baseline {baseline}")

    def best_languages(self, gates: Sequence[Gate], state: str) -> dict[tuple[str, str], BestLanguage]:
        """How the base speaks best what gates compare it on, by (dataset, metric). The modules must hold the base."""
        wanted: dict[tuple[str, str], list[Gate]] = {}
        for gate, _ in self._judged_here(gates):
            if gate.against_best:
                wanted.setdefault((gate.data, gate.metric), []).append(gate)
        return {key: self._best_language(*key, state, {g.layout for g in of_key}) for key, of_key in wanted.items()}

    def _best_language(self, dataset: str, metric: str, state: str, judged_layouts: Set[Layout | None]) -> BestLanguage:
        session, spec = self.session, spec_of(metric)
        layouts = [x for x in session.evaluation.layouts if None in judged_layouts or x in judged_layouts]
        settings = session.evaluation.model_copy(update={"layouts": layouts})
        choosing, judging = split(session.data.speech[dataset], settings)
        recordings: list[Value] = []
        if spec.better == "match":
            recordings = measure_recordings(choosing, [metric], settings.model_copy(update={"prompts": None}), session.evaluators)[metric]
        # one seed in one layout chooses: languages differ far more than chance and layouts do
        once = settings.model_copy(update={"prompts": None, "seeds": settings.seeds[:1], "layouts": layouts[:1]})
        tried: dict[str, float] = {}
        for language in (*session.base.languages, UNTOLD):
            part = _Part("choosing", choosing, once)
            values = self._values(dataset, language, [metric], state, f"the base's best language for {dataset}", part)[metric]
            tried[language] = centre_of(spec, per_prompt(values)) if values else math.nan
        best = min(tried, key=lambda language: shortfall(spec, tried[language], recordings))
        judged = _Part("judging", judging, settings)
        values, untold = (self._values(dataset, lang, [metric], state, "baseline base", judged)[metric] for lang in (best, UNTOLD))
        session.events.emit(
            "best_language", dataset=dataset, metric=metric, language=best, tried=_finite(tried), prompts=len(choosing.rows)
        )
        return BestLanguage(best, _finite(tried), values, untold)

    def judge(self, gates: Sequence[Gate], state: str, where: str, baselines: Baselines) -> list[Verdict]:
        """Verdicts of gates, in order. `baselines` has what relative gates compare with."""
        values = self._measured(gates, state, where)
        recordings = self._recordings(gates, where)
        verdicts = []
        for gate in gates:
            spec = spec_of(gate.metric)
            missing = self.session.evaluators.missing(spec)
            if spec.source == "ballots":
                verdict = judge_preference(gate, self.session.ballots(gate), self._pairs(gate.data, state))
            elif missing is not None:
                assert gate.optional, "reported before the run"
                verdict = undecidable(gate, missing.message, "skipped")
            elif gate.label() in self.unsound:
                verdict = undecidable(gate, self.unsound[gate.label()], "skipped")
            else:
                measured = values[gate.data, gate.token, gate.metric]
                evaluator = self.session.evaluators.describe(spec, self.session.data.speech[gate.data].language)
                floor = recordings.get((gate.data, gate.metric), ())
                if gate.against_best:
                    verdict = _against_best(gate, spec, measured, baselines.best[gate.data, gate.metric], floor, evaluator)
                else:
                    verdict = judge(gate, spec, measured, baselines.of(gate), floor, evaluator)
            verdict = verdict.model_copy(update={"rewarded": self.session.rewarded(gate.metric, where)})
            verdicts.append(verdict)
            self.session.events.emit("verdict", where=where, **verdict.as_json())
        return verdicts

    @phase("trying gates")
    def require_sound(self, gates: Sequence[tuple[Gate, Place]]) -> None:
        """Tries the gates that count on recordings. Raises `RecipeError` for those that cannot tell good from spoilt; of these,
        optional ones are skipped."""
        places = {g.label(): place for g, place in reversed(gates) if g.severity == "error"}
        counting = [g for g, _ in gates if g.severity == "error"]
        problems = Problems()
        session = self.session
        for probed in probe(counting, session.data.speech, session.evaluation, session.evaluators, self.session.events.evaluating):
            label, needed, tried = probed.gate.label(), probed.prompts_needed, probed.clean_verdict is not None
            reason = probed.reason
            if not probed.is_valid and probed.gate.optional:
                reason = self.unsound[label] = f"on recordings {probed.why()}"
            session.events.emit("gate_tried", gate=label, sound=probed.is_valid, tried=tried, reason=reason)
            if not probed.is_valid and not probed.gate.optional:
                help_ = f"about {needed:,} prompts would do" if needed else "move the threshold, or see docs/method.md on gates"
                problems.append(Problem("QR083", f"{label} was tried on recordings: {probed.why()}", places[label], help_))
        problems.raise_any(RecipeError)

    def demonstrate(self, gates: Sequence[Gate], state: str) -> None:
        """Has the base speak what gates will judge, once and in one layout: what a person compares the stages with."""
        compared = [g.data for g in gates if spec_of(g.metric).source == "ballots"]
        spoken = [g.data for g, s in self._judged_here(gates) if s.source == "generated" and g.token is None]
        for dataset in dict.fromkeys(spoken + compared):
            for _ in generated(self.session.opened, self._task(dataset, state, self._shown), self.session.events.evaluating):
                pass

    @property
    def _shown(self) -> Evaluation:
        """How the base speaks for people: once, in one layout."""
        settings = self.session.evaluation
        return settings.model_copy(update={"seeds": settings.seeds[:1], "layouts": settings.layouts[:1]})

    def _pairs(self, dataset: str, state: str) -> list[Pair]:
        """Speech of the model and of the base for the same prompts. The modules hold the model; the base has spoken before."""
        base = {(s.row.line, s.prompt): s for s in generated(None, self._task(dataset, self.session.start_state, self._shown))}
        model = generated(self.session.opened, self._task(dataset, state, self._shown), self.session.events.evaluating)
        return [Pair(s.row.line, s.key, base[at].key) for s in model if (at := (s.row.line, s.prompt)) in base]

    def _task(self, dataset: str, state: str, settings: Evaluation, speak_as: str | None = None) -> Task:
        """Speech of a state over a dataset; its samples are stored in the state's folder."""
        folder = self.session.store.stage_folder(state) / "samples" / dataset
        identity = [NUMERICS, state, self.session.content(dataset)]
        return Task(self.session.data.speech[dataset], settings, self.session.evaluators, speak_as, folder, identity)

    def page(self, title: str, states: Sequence[tuple[str, str]], history: RunHistory) -> None:
        """Writes report.html: how the run went, recordings, and what every state said, side by side, as far as it was kept."""
        settings, evaluators = self.session.evaluation, self.session.evaluators
        first = settings.model_copy(update={"seeds": settings.seeds[:1]})
        columns: list[Column] = []
        for dataset, data in self.session.data.speech.items():
            made = []
            for name, fingerprint in states:
                samples = list(generated(None, self._task(dataset, fingerprint, first)))
                if samples:
                    made.append(column_of(f"{dataset}: {name}", samples, self._hears(data, samples)))
            if made:
                samples = recorded(data, settings, evaluators)
                columns += [column_of(f"{dataset}: recording", samples, self._hears(data, samples)), *made]
        write_text(self.session.store.folder / PAGE, write_page(title, columns, history=history))

    def _hears(self, data: SpeechData, samples: Sequence[Sample]) -> bool:
        """Whether all samples were transcribed: the page asks no recogniser."""
        return all(self.session.evaluators.known_transcript(s) is not None for s in samples)

    def _judged_here(self, gates: Sequence[Gate]) -> list[tuple[Gate, MetricSpec]]:
        specs = [(g, spec_of(g.metric)) for g in gates]
        return [(g, s) for g, s in specs if s.source != "ballots" and self.session.evaluators.missing(s) is None]

    def _measured(self, gates: Sequence[Gate], state: str, where: str) -> Measured:
        wanted: dict[tuple[str, str | None], set[str]] = {}
        for gate, _ in self._judged_here(gates):
            wanted.setdefault((gate.data, gate.token), set()).add(gate.metric)
        measured: Measured = {}
        for (dataset, speak_as), metrics in wanted.items():
            values = self._values(dataset, speak_as, sorted(metrics), state, where)
            measured.update({(dataset, speak_as, m): v for m, v in values.items()})
        return measured

    def _values(
        self, dataset: str, speak_as: str | None, metrics: list[str], state: str, where: str, part: _Part | None = None
    ) -> dict[str, list[Value]]:
        """Values of metrics over a dataset or a part of it, from the store where they were measured before."""
        data, settings = (part.data, part.settings) if part is not None else (self.session.data.speech[dataset], self.session.evaluation)
        kind = "values" if part is None else f"values, {part.name}"
        keys = {m: self._key(kind, dataset, m, state, speak_as, settings) for m in metrics}
        task = replace(self._task(dataset, state, settings, speak_as), data=data)
        return self._stored(
            dataset, keys, where, lambda missing: measure(self.session.opened, task, missing, self.session.events.evaluating)
        )

    def _stored(
        self, dataset: str, keys: Mapping[str, list[Any]], where: str, measure: Callable[[list[str]], dict[str, list[Value]]]
    ) -> dict[str, list[Value]]:
        """Values of metrics by their keys in the store; those that it lacks are measured and stored."""
        store = self.session.store
        values = {m: v for m, key in keys.items() if (v := store.load_values(key)) is not None}
        missing = [m for m in keys if m not in values]
        if missing:
            self.session.events.emit("measuring", dataset=dataset, metrics=missing, where=where)
            for metric, new in measure(missing).items():
                store.save_values(keys[metric], new)
                values[metric] = new
        return values

    def _key(
        self, kind: str, dataset: str, metric: str, state: str, speak_as: str | None = None, settings: Evaluation | None = None
    ) -> list[Any]:
        """Inputs of a value."""
        spec = spec_of(metric)
        evaluator = self.session.evaluators.describe(spec, self.session.data.speech[dataset].language)
        settings = settings or self.session.evaluation
        return [
            kind,
            NUMERICS,
            GENERATION,
            MEASURING,
            state,
            self.session.content(dataset),
            settings.model_dump(mode="json", exclude={"probe_gates", "batch"}),
            speak_as,
            metric,
            spec.function,
            evaluator,
        ]

    def _recordings(self, gates: Sequence[Gate], where: str) -> dict[tuple[str, str], list[Value]]:
        """Metrics over the recordings themselves, by (dataset, metric); none for metrics that recordings have no value of."""
        session = self.session
        wanted: dict[str, dict[str, list[Any]]] = {}
        for gate, spec in self._judged_here(gates):
            if spec.on_recordings:
                key = self._key("recordings", gate.data, gate.metric, session.start_state)
                wanted.setdefault(gate.data, {})[gate.metric] = key
        measured: dict[tuple[str, str], list[Value]] = {}
        for dataset, keys in wanted.items():
            progress = session.events.evaluating
            these = partial(
                measure_recordings,
                session.data.speech[dataset],
                settings=session.evaluation,
                evaluators=session.evaluators,
                progress=progress,
            )
            values = self._stored(dataset, keys, f"recordings, for {where}", these)
            measured |= {(dataset, metric): v for metric, v in values.items()}
        return measured


def _against_best(
    gate: Gate, spec: MetricSpec, values: list[Value], best: BestLanguage, recordings: Sequence[Value], evaluator: dict[str, Any] | None
) -> Verdict:
    """The verdict over the sentences that did not choose the base's language."""
    lines = {v.line for v in best.values}
    verdict = judge(gate, spec, [v for v in values if v.line in lines], best.values, recordings, evaluator)
    untold = centre_of(spec, per_prompt(best.untold)) if best.untold else None
    return verdict.model_copy(update={"spoken_as": best.language, "tried": dict(best.tried), "untold": untold})


def _finite(values: dict[str, float]) -> dict[str, float]:
    """Without those that no sentence has a value for: JSON knows no NaN."""
    return {k: v for k, v in values.items() if math.isfinite(v)}
