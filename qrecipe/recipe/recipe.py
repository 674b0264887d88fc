"""The recipe as a whole."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from qrecipe.recipe.base import Base
from qrecipe.recipe.dataset import Dataset, SpeechDataset, TextDataset
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.recipe.gate import Gate, Layout, PromptKind
from qrecipe.recipe.language import TAGS, Language
from qrecipe.recipe.model import Identifier, Settings
from qrecipe.recipe.stage import SpeechStage, Stage, TextLmStage

NAME = r"^[a-z][a-z0-9._-]{0,62}$"
VERSION = r"^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$"


def _not_true(value: object) -> object:
    """To Python `True` equals 1; to a reader it does not."""
    if isinstance(value, bool):
        raise PydanticCustomError("literal_error", "should be 1", {"expected": "1"})
    return value


class Evaluation(Settings):
    """How gates are measured."""

    seeds: Annotated[list[int], Field(min_length=1)] = [0, 1]
    """Seeds of generation; every prompt is spoken once with each."""
    prompts: Annotated[int, Field(ge=1)] | None = None
    """At most this many rows of a dataset are spoken for metrics of generated speech, the first ones; default: all. Teacher-forced metrics always read all."""
    batch: Annotated[int, Field(ge=1)] = 8
    """Prompts that are spoken at once. Part of the result: sampling draws from one generator."""
    layouts: Annotated[list[Layout], Field(min_length=1)] = ["streaming", "non_streaming"]
    """Layouts that are measured."""
    prompt: PromptKind | Literal["both"] | None = None
    """How the voice is given; default: in-context where a reference's text is known, as `generate_voice_clone` does, else the x-vector. `both`: every prompt in both ways, in-context where it can be."""
    frame_cap: Annotated[float, Field(ge=1)] = 3.0
    """Generation is cut at this many times the recording's frames (25 at least) and then counts as a runaway."""
    probe_gates: bool = True
    """Before anything trains, try every gate that counts and that listens on the recordings and on spoilt copies of them; one that cannot tell them apart is refused. `false` trusts the gates as they are."""

    @property
    def kinds(self) -> list[PromptKind | None]:
        """The ways of giving the voice that are evaluated."""
        return ["x_vector", "in_context"] if self.prompt == "both" else [self.prompt]


class Recipe(Settings):
    """A recipe: languages, data, stages with their gates, and what a bundle must pass."""

    qrecipe: Annotated[Literal[1], BeforeValidator(_not_true)]
    """Version of the recipe format."""
    name: Annotated[str, Field(pattern=NAME)]
    """Name of the recipe, its runs and its bundle."""
    version: Annotated[str, Field(pattern=VERSION)]
    """Version of the bundle (semver). Raise it when the result changes."""
    description: str | None = None
    """What the recipe is for; goes onto the model card."""
    vars: dict[str, str | int | float | bool] = {}
    """Values for `$name` and `${name}` in other values; `$$` is a dollar."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of everything that is drawn at random."""
    base: Base
    """The model that the recipe starts from."""
    languages: Annotated[dict[str, Language], Field(min_length=1, max_length=2000)]
    """The languages that are added, by lower-case name."""
    datasets: Annotated[dict[Identifier, Dataset], Field(min_length=1, max_length=200)]
    """Manifests by name."""
    evaluators: Evaluators = Evaluators()
    """Models that listen to generated speech."""
    evaluation: Evaluation = Evaluation()
    """How gates are measured."""
    stages: Annotated[list[Stage], Field(min_length=1, max_length=50)]
    """Run in order; a later stage starts from the earlier one's result."""
    accept: Annotated[list[Gate], Field(max_length=200)] = []
    """Judged once, last: gates that the final model must pass to become a bundle."""

    def gates(self) -> list[Gate]:
        """Every gate of the recipe, in order, `accept` last."""
        return [g for s in self.stages for g in s.gates] + list(self.accept)

    def tag(self, language: str) -> str | None:
        """BCP 47 tag of a language that the recipe adds or that published bases know; None if neither lists it."""
        own = self.languages.get(language)
        return own.bcp47 if own is not None else TAGS.get(language)

    def trained_datasets(self) -> set[str]:
        """Names of datasets that some stage learns from."""
        return {u.use for s in self.stages for u in s.uses}


__all__ = ["Dataset", "Evaluation", "Recipe", "SpeechDataset", "SpeechStage", "Stage", "TextDataset", "TextLmStage"]
