"""A plan with its sources: what is handed on to whoever shows it, compares it or carries it out."""

from __future__ import annotations

from dataclasses import dataclass, field

from qrecipe.errors import CODES, Problems, RecipeError
from qrecipe.inputs.bases import BaseInfo
from qrecipe.inputs.documents.ballots import Ballot
from qrecipe.inputs.manifest import Manifest
from qrecipe.inputs.replacements import Replacements
from qrecipe.plan.synthetic import SyntheticDataset
from qrecipe.plan.trainable import Trainable
from qrecipe.plan.values import Plan
from qrecipe.recipe import LoadedRecipe
from qrecipe.recipe.gate import Select


@dataclass
class Planned:
    """A plan with its sources, for whoever carries it out, and with its problems."""

    loaded: LoadedRecipe
    plan: Plan
    base: BaseInfo
    manifests: dict[str, Manifest]
    trainables: dict[str, Trainable]
    synthetic: dict[str, SyntheticDataset] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)
    replacements: dict[str, Replacements] = field(default_factory=dict)
    """Of the recipe's languages."""
    ballots: dict[str, list[Ballot]] = field(default_factory=dict)
    """By the pattern that gates name."""
    selects: dict[str, Select] = field(default_factory=dict)
    """By stage, as they are carried out here: `otherwise` decides where the metric cannot be measured."""

    @property
    def warnings(self) -> Problems:
        """Problems that do not keep the plan from being carried out."""
        return self.problems.warnings

    @property
    def errors(self) -> Problems:
        """Problems that do."""
        return self.problems.errors


def require_complete(planned: Planned) -> None:
    """Raises `RecipeError` if the plan cannot be carried out on this machine."""
    planned.problems.strict().errors.raise_any(RecipeError)


def require_data(planned: Planned) -> None:
    """Raises `RecipeError` for everything but a base that is not on this machine yet: it is fetched only for a run that can go on."""
    errors = planned.problems.strict().errors
    Problems(p for p in errors if not CODES[p.code].absent_base).raise_any(RecipeError)
