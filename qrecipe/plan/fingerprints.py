"""Names of what training gives: equal fingerprints mean that a stage need not be trained again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qrecipe.files import digest
from qrecipe.plan.trainable import Trainable
from qrecipe.plan.values import PlannedDataset, PlannedLanguage, PlannedTaught
from qrecipe.recipe.recipe import Evaluation, Recipe
from qrecipe.recipe.stage import Stage

NUMERICS = 3
"""Raised whenever the same plan would give other numbers."""


def start_fingerprint(identity: str | None, languages: dict[str, PlannedLanguage], seed: int) -> str | None:
    """Names the base with the new rows at their init; None while the base's content is not known."""
    if identity is None:
        return None
    return digest(["start", NUMERICS, identity, {k: v.model_dump() for k, v in languages.items()}, seed])


def stage_fingerprint(
    stage: Stage,
    evaluation: Evaluation,
    datasets: dict[str, PlannedDataset],
    resolved: Trainable,
    before: str | None,
    taught: Sequence[PlannedTaught] = (),
) -> str | None:
    """Names what a stage learns: its settings less the gates, its data, what the base says, what trains, and what came before.

    None while a part is not known. How gates are measured counts only where `select` measures in the same way.
    """
    names = [u.dataset for u in stage.uses] + ([stage.select.data] if stage.select else [])
    hashes = [*(datasets[n].sha256 for n in names), *(t.digest for t in taught)]
    unknown = any(not g.whole and g.rows is None for g in resolved.groups)
    if before is None or unknown or any(h is None for h in hashes):
        return None
    return _learned(stage, evaluation, names, hashes, resolved, before)


def _learned(
    stage: Stage, evaluation: Evaluation, names: list[str], contents: Sequence[str | None], resolved: Trainable, before: str
) -> str:
    settings = stage.model_dump(mode="json", by_alias=True, exclude={"gates", "on_pass", "on_fail"})
    selected = [evaluation.layouts, evaluation.prompt] if stage.select else None
    trained = [[g.tensors, g.rows] for g in resolved.groups]
    return digest([before, settings, selected, names, contents, trained])


def stand_ins(
    recipe: Recipe,
    languages: dict[str, PlannedLanguage],
    base: str,
    contents: dict[str, str],
    trainables: dict[str, Trainable],
    taught: dict[str, list[Any]],
) -> dict[str, str]:
    """Fingerprints by stage for a comparison of two plans of which not everything is known.

    `base` and `contents` name the base and every dataset's content as well as both plans know them; `taught` is what the
    base says, by stage. Equal fingerprints
    mean the same as those of complete plans as far as that goes.
    """
    before = digest(["start", NUMERICS, base, {k: v.model_dump() for k, v in languages.items()}, recipe.seed])
    found = {}
    for stage in recipe.stages:
        names = [u.dataset for u in stage.uses] + ([stage.select.data] if stage.select else [])
        before = _learned(
            stage, recipe.evaluation, names, [*(contents[n] for n in names), *map(digest, taught[stage.id])], trainables[stage.id], before
        )
        found[stage.id] = before
    return found
