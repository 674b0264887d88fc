"""The recipe as a whole."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from qrecipe.qwen3 import Layout, PromptKind
from qrecipe.recipe.base import Base
from qrecipe.recipe.dataset import Dataset
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.language import Language, lead_frames
from qrecipe.recipe.licence import License
from qrecipe.recipe.model import Identifier, Settings
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.search import Search
from qrecipe.recipe.stage import SELF, Stage, Use
from qrecipe.recipe.teacher import Teacher

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
    """Seeds of generation; every prompt is spoken once with each. Two, so that one unlucky sample is not a prompt's value; more make values steadier, never the prompts more."""
    prompts: Annotated[int, Field(ge=1)] | None = None
    """At most this many rows of a dataset are spoken for metrics of generated speech, the first ones; default: all. Teacher-forced metrics always read all."""
    batch: Annotated[int, Field(ge=1)] = 8
    """Prompts whose speech is stored together. No part of the result: what a prompt says does not depend on what is spoken beside it."""
    layouts: Annotated[list[Layout], Field(min_length=1)] = ["streaming", "non_streaming"]
    """How text meets frames where models are measured. Both, because `generate_voice_clone` offers both and a model may be good in one alone; give one if the language will only be spoken so."""
    prompt: PromptKind | Literal["both"] | None = None
    """How the voice is given; default: in-context where a reference's text is known, as `generate_voice_clone` does, else the x-vector. `both`: every prompt in both ways, in-context where it can be."""
    frame_cap: Annotated[float, Field(ge=1)] = 3.0
    """Generation is cut at this many times the recording's frames (25 at least) and then counts as a runaway. 3 is beyond any reader's slowness, and bounds what a model that never ends costs."""
    probe_gates: bool = True
    """Before anything trains, try every gate that counts and that listens on the recordings and on corrupted copies of them; one that cannot tell them apart is refused. `false` trusts the gates as they are."""

    @property
    def kinds(self) -> list[PromptKind | None]:
        """The ways of giving the voice that are evaluated."""
        return ["x_vector", "in_context"] if self.prompt == "both" else [self.prompt]


class Checkpoints(Settings):
    """The state of a stage on the disk, from which a stopped stage goes on."""

    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """Checkpoints of the stage that trains. Two, so that one that was damaged on the disk costs little; 1 needs as much room while the next is written, and leaves half of it free between."""


class Recipe(Settings):
    """A recipe: languages, data, stages with their gates, and what a bundle must pass."""

    qrecipe: Annotated[Literal[1], BeforeValidator(_not_true)]
    """Version of the recipe format; 1 is the only one. A later program that reads files otherwise asks for another number."""
    name: Annotated[str, Field(pattern=NAME)]
    """Name of the recipe, its runs and its bundle; becomes part of folder names, at most 63 characters."""
    version: Annotated[str, Field(pattern=VERSION)]
    """Version of the bundle (semver). Raise it when the result changes."""
    description: str | None = None
    """Purpose of the recipe, in a sentence; default: nothing. Goes onto the model card."""
    license: License | None = None
    """Licence under which the bundle may be passed on, as the Hugging Face hub names it, such as `apache-2.0` or `cc-by-4.0`; default: none is stated. Goes onto the model card, where the hub asks for it. The base's licence and those of the recordings say what is allowed."""
    vars: dict[str, str | int | float | bool] = {}
    """Values for `$name` and `${name}` in other values; `$$` is a dollar."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of everything that is drawn at random in training: the order of rows, their layouts and prompts. The same seed gives the same bytes on the same CPU; another one shows how much luck is in a result."""
    base: Base
    """The model that the recipe starts from."""
    languages: Annotated[dict[str, Language], Field(min_length=1, max_length=2000)]
    """The languages that are added, by the lower-case name that people will ask for, such as `malay`."""
    datasets: Annotated[dict[Identifier, Dataset], Field(min_length=1, max_length=200)]
    """Manifests by name. What trains and what judges are different datasets: a dataset that a gate or `select` reads cannot be trained on."""
    teacher: Teacher = Teacher()
    """How the untouched base speaks what stages learn from."""
    evaluators: Evaluators = Evaluators()
    """Models that listen to generated speech, for the metrics that need them."""
    evaluation: Evaluation = Evaluation()
    """How gates are measured: prompts, seeds, layouts."""
    checkpoints: Checkpoints = Checkpoints()
    """Stored states of the stage that trains. Changes no result."""
    stages: Annotated[list[Stage], Field(min_length=1, max_length=50)]
    """Run in order; a later stage starts from the earlier one's result, so what moves most, and what is cheap, comes first."""
    accept: Annotated[list[Gate], Field(max_length=200)] = []
    """Judged once, last: gates that the final model must pass to become a bundle. Without any, whatever comes out becomes one."""

    search: Search | None = None
    """For `qrecipe search`: which variants of this recipe are tried, and which sentences choose. No part of what `run` does."""

    def gates(self) -> list[Gate]:
        """Every gate of the recipe, in order, `accept` last."""
        return [g for s in self.stages for g in s.gates] + list(self.accept)

    def tags(self) -> dict[str, str]:
        """BCP 47 tags of the languages that the recipe adds, by name. Those of the base's are the base's to say."""
        return {key: language.bcp47 for key, language in self.languages.items()}

    def lead(self, language: str) -> int:
        """Frames of silence that a language begins every sentence with; none in the base's own."""
        own = self.languages.get(language)
        return 0 if own is None else lead_frames(own.lead)

    def trained_datasets(self) -> set[str]:
        """Names of datasets that some stage learns from."""
        return {u.dataset for s in self.stages for u in s.uses}

    def judging_datasets(self) -> set[str]:
        """Names of datasets that a gate or `select` reads."""
        return {g.data for g in self.gates()} | {s.select.data for s in self.stages if s.select}

    def spoken_judges(self) -> list[str]:
        """Names of the texts in languages of the base among them: the untouched base speaks their sentences."""
        judging = self.judging_datasets()
        return [k for k, d in self.datasets.items() if k in judging and d.kind == "text" and d.language not in self.languages]

    def read_judges(self) -> list[str]:
        """Names of the texts in the recipe's own languages among them: the model reads their sentences, which nobody has recorded."""
        judging = self.judging_datasets()
        return [k for k, d in self.datasets.items() if k in judging and d.kind == "text" and d.language in self.languages]

    def texts_in(self, language: str) -> list[str]:
        """Names of the text datasets in a language."""
        return [name for name, d in self.datasets.items() if d.kind == "text" and d.language == language]

    @model_validator(mode="after")
    def _name_texts_of_self(self) -> Recipe:
        """`{use: self, language: english}` means the text dataset in this language where there is exactly one.

        A stage that learns speech and reads text in a language of the base means `{use: self}` of it.
        """

        def named(use: str | Use, speaks: bool) -> str | Use:
            name = use if isinstance(use, str) else use.use
            if isinstance(use, Use) and use.is_self:
                texts = self.texts_in(str(use.language)) if use.text is None else []
                return use.model_copy(update={"text": texts[0]}) if len(texts) == 1 else use
            dataset, share = self.datasets.get(name), use.share if isinstance(use, Use) else None
            if not speaks or dataset is None or dataset.kind != "text" or dataset.language in self.languages:
                return use
            return Use(use=SELF, language=dataset.language, text=name, share=share)

        stages = [s.model_copy(update={"data": [named(d, OBJECTIVES[s.objective].speaks) for d in s.data]}) for s in self.stages]
        return self if stages == self.stages else self.model_copy(update={"stages": stages})
