"""The judge is not the teacher: what a stage is rewarded for rises whether speech gets better or not, so another ear must judge.

A metric that an evaluator hears is another ear only by another evaluator; any other metric is an ear of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qrecipe.errors import Problem
from qrecipe.recipe import metrics
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.recipe import Recipe
from qrecipe.recipe.stage import RewardStage, Stage
from qrecipe.source.reader import Node

Ear = tuple[str, ...]


def _ear(metric: str, evaluators: Evaluators) -> Ear:
    """The evaluator by its model, however it is asked, or the metric that needs none."""
    spec = metrics.find(metric)
    if spec is None or spec.needs is None:
        return (metric,)
    settings = getattr(evaluators, spec.needs)
    return (spec.needs, *(str(getattr(settings, name, "")) for name in ("backend", "model", "revision")))


def taught(recipe: Recipe, stages: Sequence[Stage]) -> set[Ear]:
    """The ears that these stages are rewarded by."""
    return {
        _ear(part.metric, stage.evaluators or recipe.evaluators)
        for stage in stages
        if isinstance(stage, RewardStage)
        for part in stage.reward
    }


def is_taught(recipe: Recipe, metric: str, where: str) -> bool:
    """Whether the model of a stage, or of `accept`, was rewarded by the ear that a gate there judges with."""
    ids = [s.id for s in recipe.stages]
    end = ids.index(where) + 1 if where in ids else len(ids)
    return _ear(metric, recipe.evaluators) in taught(recipe, recipe.stages[:end])


def check(recipe: Recipe, node: Node) -> Iterator[Problem]:
    """Gates and `select` that nobody else's ear stands beside."""
    seconds = "`mos`, `speaker_similarity`, or the reward by `evaluators` of its stage"
    for i, stage in enumerate(recipe.stages):
        now = taught(recipe, [stage])
        if now and stage.select is not None and all(_ear(m, recipe.evaluators) in now for m in stage.select.metrics):
            message = f"`select` chooses by `{stage.select.metric}`, and `{stage.id}` is rewarded by the same ear: it cannot see that the ear is fooled"
            yield node.at("stages", i, "select", "metric").problem("QR085", message, f"choose by another ear, or bound one: {seconds}")
        so_far = taught(recipe, recipe.stages[: i + 1])
        yield from _alone(recipe, stage.gates, [*stage.gates, *recipe.accept], so_far, node.at("stages", i, "gates"))
    yield from _alone(recipe, recipe.accept, recipe.accept, taught(recipe, recipe.stages), node.at("accept"))


def _alone(recipe: Recipe, gates: Sequence[Gate], beside: Sequence[Gate], ears: set[Ear], node: Node) -> Iterator[Problem]:
    """The first gate that judges by a rewarded ear, where no evaluator that was not asked for rewards judges the language as well."""
    languages = {name: d.language for name, d in recipe.datasets.items()}
    others = {
        languages.get(g.data)
        for g in beside
        if g.severity == "error" and (s := metrics.find(g.metric)) is not None and s.needs and _ear(g.metric, recipe.evaluators) not in ears
    }
    for j, gate in enumerate(gates):
        language = languages.get(gate.data)
        if gate.severity == "warn" or language in others or language not in recipe.languages:
            continue
        if _ear(gate.metric, recipe.evaluators) in ears:
            message = f"`{gate.metric}` on `{gate.data}` judges by the ear that the model was rewarded by, and no other one does"
            help_ = "add a gate by another recogniser (`evaluators` of the stage), `mos`, or `speaker_similarity` by another encoder"
            yield node.at(j, "metric").problem("QR085", message, help_)
            return
