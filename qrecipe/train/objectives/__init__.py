"""Training objectives: losses as sums over labels, and what each needs of a stage's data."""

from __future__ import annotations

from importlib import import_module

from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.stage import Stage
from qrecipe.train.objectives.objective import Objective, ObjectiveInputs


def build_objective(stage: Stage, inputs: ObjectiveInputs) -> Objective:
    """The objective that a stage names, on the stage's data."""
    module, _, name = OBJECTIVES[stage.objective].function.partition(":")
    objective: type[Objective] = getattr(import_module(module), name)
    return objective.build(stage, inputs)
