"""The evaluators that a recipe needs: which they are, what is missing to use each, and what is done without them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from qrecipe.errors import Problem, Problems
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import BaseInfo
from qrecipe.inputs.evaluators import EvaluatorModel, find, language_problem, packages_problem
from qrecipe.plan.fingerprints import reward_inputs
from qrecipe.plan.synthetic import voice_hashes
from qrecipe.plan.values import PlannedEvaluator
from qrecipe.recipe import LoadedRecipe, metrics
from qrecipe.recipe.checks import gates_with_nodes
from qrecipe.recipe.dataset import SpeechDataset
from qrecipe.recipe.gate import Select
from qrecipe.recipe.stage import RewardStage, Stage
from qrecipe.recipe.synthetic import is_spoken, rewarded_texts
from qrecipe.source import bounds
from qrecipe.source.reader import Node


class EvaluatorPlanner:
    """Finds the evaluators of a recipe on this machine. What is wrong with them is added to `problems`."""

    def __init__(self, loaded: LoadedRecipe, base: BaseInfo, hashes: FileHashes, problems: Problems) -> None:
        self.loaded, self.recipe = loaded, loaded.recipe
        self.base = base
        self.hashes = hashes
        self.problems = problems
        self.missing: dict[str, Problems] = {}
        """Reasons why an evaluator cannot be used; of those that `evaluators` has looked for."""

    def evaluators(self) -> dict[str, PlannedEvaluator]:
        """The evaluators that the recipe needs."""
        recipe = self.recipe
        planned: dict[str, PlannedEvaluator] = {}
        measured = [g.metric for g in recipe.gates()] + [m for s in recipe.stages if s.select for m in s.select.metrics]
        needs = {s.needs for m in measured if (s := metrics.find(m)) is not None and s.needs}
        listens = any(isinstance(d, SpeechDataset) and d.filter.max_cer is not None for d in recipe.datasets.values())
        needs |= {"asr"} if recipe.evaluators.asr is not None and (recipe.teacher.heard or listens) else set()
        for need in sorted(needs):
            settings = getattr(recipe.evaluators, need)
            if settings is None:  # reported by the recipe's own checks, unless something else decides there
                continue
            model = getattr(settings, "model", None)
            named = self.loaded.node.at("evaluators", need, "model")
            if model is not None and model.startswith((".", "/", "~")):
                folder = self.loaded.root / os.path.expanduser(model)
                outside = bounds.problem(folder, model, named, self.loaded.bounds)
                self.problems += [outside] if outside else []
            here, self.missing[need] = find(need, recipe.evaluators, self.loaded.root, named.place, self.hashes)
            planned[need] = PlannedEvaluator(backend=settings.backend, model=model, identity=here.identity)
            if need == "asr":
                self._check_hearing(here)
                self.problems += self.missing[need] if listens else []
        return planned

    def _check_hearing(self, recogniser: EvaluatorModel) -> None:
        """Languages whose speech is transcribed are among the recogniser's own."""
        recipe, asr, root = self.recipe, self.recipe.evaluators.asr, self.loaded.node
        if asr is None:
            return
        listening = [(gate.metric, gate.data, node.at("data")) for gate, node in gates_with_nodes(recipe, root)]
        chosen = ((stage.select, root.at("stages", i, "select", "data")) for i, stage in enumerate(recipe.stages))
        listening += [(select.metric, select.data, node) for select, node in chosen if select is not None]
        for i, stage in enumerate(recipe.stages):
            if isinstance(stage, RewardStage) and stage.evaluators is None:
                own = [u.use for u in stage.uses if u.use in recipe.datasets and recipe.datasets[u.use].language in recipe.languages]
                parts = [(r.metric, root.at("stages", i, "reward", j, "metric")) for j, r in enumerate(stage.reward)]
                listening += [(metric, data, node) for metric, node in parts for data in own]
        transcribed: dict[str, Node] = {}
        for metric, data, node in listening:
            if data in recipe.datasets and (spec := metrics.find(metric)) is not None and spec.needs == "asr":
                transcribed.setdefault(recipe.datasets[data].language, node)
        if recipe.teacher.heard:
            heard = (recipe.datasets[u.dataset].language for s in recipe.stages for u in s.uses if is_spoken(s, u, recipe))
            for language in heard:
                transcribed.setdefault(language, root.at("teacher", "takes" if recipe.teacher.max_cer is None else "max_cer"))
        tags = {**self.base.tags, **recipe.tags()}
        spoken = recipe.languages.keys() | self.base.languages.keys()  # another one is reported where the dataset names it
        for language, node in transcribed.items():
            unknown = language_problem(asr, recogniser, language, tags.get(language), node.place) if language in spoken else None
            self.problems += [unknown] if unknown else []

    def rewards(self, stage: Stage) -> tuple[list[Any] | None, list[str | None]]:
        """Inputs of a stage's rewards, and hashes of the voices that its sentences are spoken in. Reports missing evaluators."""
        if not isinstance(stage, RewardStage):
            return None, []
        node = self.loaded.node.at("stages", self.recipe.stages.index(stage))
        evaluators, identities = stage.evaluators or self.recipe.evaluators, dict[str, str | None]()
        for i, reward in enumerate(stage.reward):
            spec, at = metrics.find(reward.metric), node.at("reward", i, "metric")
            if spec is None or (spec.needs is not None and getattr(evaluators, spec.needs) is None):
                continue  # reported by the recipe's own checks
            lacking: dict[str, Problems] = {}
            if spec.needs is not None:
                place = (node if stage.evaluators is not None else self.loaded.node).at("evaluators", spec.needs, "model").place
                model, lacking[spec.needs] = find(spec.needs, evaluators, self.loaded.root, place, self.hashes)
                identities[spec.needs] = model.identity
            known = {p.message for p in self.problems}
            self.problems += [p for p in _lacking(spec, lacking, at) if p.message not in known]
        spoken = {u.dataset for u in stage.uses} & set(rewarded_texts(self.recipe))
        return reward_inputs(stage, self.recipe, identities), voice_hashes(self.loaded, self.hashes) if spoken else []

    def report_missing(self) -> None:
        """Reports once what several gates or `select` lack, and the optional gates that are skipped for it."""
        reported = {p.message for p in self.problems}
        skipped: dict[str, list[tuple[str, Node, Problem]]] = {}
        for label, name, optional, metric in self._measurements():
            lacking = _lacking(metrics.spec_of(name), self.missing, metric)
            if lacking and optional:
                skipped.setdefault(lacking[0].message, []).append((label, metric, lacking[0]))
            else:
                self.problems += [p for p in lacking if p.message not in reported]
                reported |= {p.message for p in lacking}
        for why, gates in skipped.items():
            (label, metric, lack), more = gates[0], len(gates) - 1
            also = f" and {more} other{'s' if more > 1 else ''}" if more else ""
            self.problems.append(metric.problem("QR082", f"{label}{also} will be skipped: {why}", lack.help))

    def decided(self, select: Select | None) -> Select | None:
        """A `select` as it is carried out here: by `otherwise` where its metric cannot be measured."""
        spec = metrics.find(select.metric) if select is not None else None
        if select is None or select.otherwise is None or spec is None:
            return select
        unnamed = spec.needs is not None and getattr(self.recipe.evaluators, spec.needs) is None
        here = not unnamed and not _lacking(spec, self.missing, self.loaded.node)
        return select if here else select.model_copy(update={"metric": select.otherwise})

    def _measurements(self) -> Iterator[tuple[str, str, bool, Node]]:
        """(Label, metric, whether it may be skipped, its node) of every gate, then of every `select`."""
        for gate, node in gates_with_nodes(self.recipe, self.loaded.node):
            yield gate.label(), gate.metric, gate.optional, node.at("metric")
        for i, stage in enumerate(self.recipe.stages):
            select = stage.select
            if select is None:
                continue
            at = self.loaded.node.at("stages", i, "select", "metric")
            if select.otherwise is None or self.recipe.evaluators.asr is not None:
                yield f"`{select.metric}` in `select` of {stage.id}", select.metric, select.otherwise is not None, at
            yield from ((f"`select` of {stage.id}", b.metric, False, at) for b in select.bounds)


def _lacking(spec: metrics.MetricSpec, missing: dict[str, Problems], metric: Node) -> list[Problem]:
    """Reasons why a metric, whose name is the node, cannot be measured on this machine."""
    lacking = list(missing.get(spec.needs, []) if spec.needs else [])
    packages = packages_problem(spec.packages, spec.extra, f"`{spec.name}`", metric.place)
    if packages is not None and not any(p.code == "QR080" for p in lacking):
        lacking.append(packages)
    return lacking
