"""Held-out measurements of a stage in training: what `select` chooses the best step by."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qrecipe.evaluate.gates import centre_of
from qrecipe.evaluate.measure import measure, measure_recordings, number_of, teacher_forced
from qrecipe.evaluate.samples import Task
from qrecipe.evaluate.statistics import shortfall
from qrecipe.evaluate.values import Value, per_prompt
from qrecipe.model import generate
from qrecipe.model.weights import Learner
from qrecipe.phases import phase
from qrecipe.plan.fingerprints import NUMERICS
from qrecipe.recipe.gate import Select
from qrecipe.recipe.metrics import MetricSpec, spec_of
from qrecipe.run.session import RunSession
from qrecipe.train.progress import HeldOut


@dataclass(frozen=True)
class Selector:
    """Measures the weights of a learner for the `select` of a stage. What it has the model say is stored like other samples."""

    session: RunSession
    select: Select
    """From the plan, which knows what can be measured here."""
    learner: Learner
    fingerprint: str
    """Of the stage's result."""

    @phase("choosing")
    def held_out(self, step: int) -> HeldOut:
        """The weights of a step: the deciding metric, and its rank among steps."""
        specs = [spec_of(m) for m in self.select.metrics]
        values = self._likelihoods([s for s in specs if s.source == "teacher_forced"])
        values |= self._spoken([s for s in specs if s.source == "generated"], step)
        value = values[self.select.metric]
        allowed = all(b.allows(values[b.metric]) for b in self.select.bounds)
        return HeldOut(value, shortfall(specs[0], value, self._recorded(specs[0])) if allowed else math.inf)

    def _likelihoods(self, specs: list[MetricSpec]) -> dict[str, float]:
        """Means over all rows, in every layout and kind of prompt that is evaluated, of the unrounded weights."""
        if not specs:
            return {}
        evaluation, data = self.session.evaluation, self.session.data.speech[self.select.data]
        numbers: dict[str, list[float]] = {s.name: [] for s in specs}
        for layout in evaluation.layouts:
            for kind in evaluation.kinds:
                rows = teacher_forced(self.session.opened, self.learner.tables, data, layout, kind, metrics=list(numbers))
                for spec in specs:
                    numbers[spec.name] += [number[0] for _, item in rows if (number := number_of(spec, item)) is not None]
        return {name: sum(n) / len(n) if n else math.nan for name, n in numbers.items()}

    def _spoken(self, specs: list[MetricSpec], step: int) -> dict[str, float]:
        """Centres over the prompts of the weights as a bundle would hold them; NaN where no prompt has a value."""
        if not specs:
            return {}
        session, name = self.session, self.select.data
        settings = session.evaluation.model_copy(update={"prompts": self.select.prompts})
        folder = session.store.stage_folder(self.fingerprint) / "samples" / f"{name}-step{step}"
        identity = [NUMERICS, self.fingerprint, step, session.plan.plan.datasets[name].sha256]
        task = Task(session.data.speech[name], settings, session.evaluators, None, folder, identity)
        with self.learner.exported(session.opened.export_dtype):
            measured = measure(session.opened, task, [s.name for s in specs], session.events.evaluating)
        generate.release(session.opened)
        return {s.name: centre_of(s, per_prompt(measured[s.name])) if measured[s.name] else math.nan for s in specs}

    def _recorded(self, spec: MetricSpec) -> list[Value]:
        """The recordings' own values of a metric that should match them."""
        if spec.better != "match":
            return []
        data, settings = self.session.data.speech[self.select.data], self.session.evaluation
        return measure_recordings(data, [spec.name], settings, self.session.evaluators)[spec.name]
