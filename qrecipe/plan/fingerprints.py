"""Inputs of what training gives, in plain data, and their fingerprints: equal ones mean that a stage need not be trained again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qrecipe.files import digest
from qrecipe.plan.trainable import Trainable
from qrecipe.recipe import metrics
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.recipe.gate import Select
from qrecipe.recipe.recipe import Evaluation, Recipe
from qrecipe.recipe.stage import RewardStage, Stage

NUMERICS = 3
"""Raised whenever the same plan would give other numbers."""
GENERATION = 2
"""Raised whenever a prompt would say something else with the same seed: stored speech of before is passed over."""
NOT_TRAINED = {"gates", "on_pass", "on_fail"}
"""Settings of a stage that decide what happens with its result and change no number of it."""


class StartInputs(NamedTuple):
    """The base with the new rows at their init. The order of the fields is part of the fingerprint."""

    kind: str
    numerics: int
    base: str | None
    """Content of the base; None while it is not known."""
    languages: dict[str, Any]
    seed: int

    @property
    def fingerprint(self) -> str | None:
        """Hash of the inputs; None while the base's content is not known."""
        return None if self.base is None else digest(self)


class StageInputs(NamedTuple):
    """Everything that a stage's result depends on. The order of the fields is part of the fingerprint."""

    before: str | None
    """Fingerprint of what the stage starts from."""
    settings: dict[str, Any]
    """The stage's settings less those of `NOT_TRAINED`."""
    measured: list[Any] | None
    """How `select` and the reward measure: settings of the recipe's evaluation, and the evaluators that they ask; None without."""
    datasets: list[str]
    """Names of the datasets that it reads, in order."""
    contents: list[str | None]
    """Hashes of these datasets, then of what the base speaks or respells for it."""
    trained: list[Any] | None
    """Tensors and rows of every entry of `train`; None while some rows are not known."""

    @property
    def fingerprint(self) -> str | None:
        """Hash of the inputs; None while one of them is not known."""
        unknown = self.before is None or self.trained is None or None in self.contents
        return None if unknown else digest(self)


def start_inputs(identity: str | None, languages: Mapping[str, Any], seed: int) -> StartInputs:
    """Inputs of the first state of a run. `languages` are models of the plan. Their lead changes datasets, and no row."""
    return StartInputs("start", NUMERICS, identity, {k: v.model_dump(exclude={"lead"}) for k, v in languages.items()}, seed)


def select_inputs(
    select: Select | None, evaluation: Evaluation, evaluators: Evaluators, identities: Mapping[str, str | None]
) -> list[Any] | None:
    """Inputs of the held-out values of a `select`, beside the weights and its own settings.

    Args:
        identities: of the evaluators' models, by what they are needed for.
    """
    if select is None:
        return None
    inputs: list[Any] = [evaluation.layouts, evaluation.prompt]
    specs = [spec for m in select.metrics if (spec := metrics.find(m)) is not None]
    if any(s.source == "generated" for s in specs):
        inputs += [GENERATION, evaluation.seeds, evaluation.frame_cap]
    for need in sorted({s.needs for s in specs if s.needs is not None}):
        inputs.append([need, getattr(evaluators, need).model_dump(mode="json"), identities.get(need)])
    return inputs


def reward_inputs(stage: RewardStage, recipe: Recipe, identities: Mapping[str, str | None]) -> list[Any]:
    """Inputs of the rewards of a stage, beside the weights and its own settings. `identities` as in `select_inputs`."""
    evaluators = stage.evaluators or recipe.evaluators
    inputs: list[Any] = [GENERATION, recipe.evaluation.frame_cap, recipe.teacher.slowest]
    needs = {spec.needs for r in stage.reward if (spec := metrics.find(r.metric)) is not None and spec.needs is not None}
    for need in sorted(needs):
        settings = getattr(evaluators, need)
        inputs.append([need, None if settings is None else settings.model_dump(mode="json"), identities.get(need)])
    return inputs


def stage_inputs(
    stage: Stage,
    measured: list[Any] | None,
    hashes: Mapping[str, str | None],
    taught: Sequence[str | None],
    resolved: Trainable,
    before: str | None,
) -> StageInputs:
    """Inputs of a stage.

    Args:
        measured: from `select_inputs`.
        hashes: of the datasets.
        taught: name what the base speaks or respells for it, and voices that sentences are spoken in.
    """
    names = [u.dataset for u in stage.uses] + ([stage.select.data] if stage.select else [])
    unknown_rows = any(not g.whole and g.rows is None for g in resolved.groups)
    return StageInputs(
        before,
        stage.model_dump(mode="json", by_alias=True, exclude=NOT_TRAINED),
        measured,
        names,
        [*(hashes[n] for n in names), *taught],
        None if unknown_rows else [[g.tensors, g.rows] for g in resolved.groups],
    )
