"""The manifests of bundles and of language packs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from qrecipe.inputs.documents import Sha256
from qrecipe.inputs.documents.lock import LockBase
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.language import Language
from qrecipe.recipe.model import Identifier, Settings
from qrecipe.recipe.recipe import NAME, VERSION, Evaluation


class BundleLanguage(Settings):
    """A language of a bundle."""

    bcp47: str | None = None
    """BCP 47 tag: what `--language` understands beside the name, and the language that a recogniser is told."""
    token_id: int
    """Row of the codec embedding."""
    replace: dict[str, str] = {}
    """Spellings that were replaced in every text before the model learned it, and have to be in every text that it shall say."""
    lead: float = 0.0
    """Seconds of silence that it begins to speak with."""


class BundleStage(Settings):
    """A stage as it went."""

    id: str
    """Stage."""
    status: str
    """`kept`, `reverted` or `skipped`."""
    fingerprint: Sha256 | None
    """Settings, data, base and what came before; null if it was skipped."""
    parameters: int | None
    """Trained elements."""


class BundlePack(Settings):
    """A language pack that a bundle was put together from."""

    name: Annotated[str, Field(pattern=NAME)]
    """Name of the pack."""
    version: str
    """Version of the bundle that it was taken from."""
    content: Sha256
    """Hash of the pack's manifest, which holds the hash of everything else in it."""


class BundleManifest(Settings):
    """bundle.json: what a bundle is and the hash of every file in it. Written last."""

    bundle: Annotated[int, Field(ge=1, le=1)]
    """Version of this format."""
    name: str
    """Name of the recipe."""
    version: str
    """Version that the recipe states."""
    plan: Sha256
    """Hash of the plan that was carried out."""
    base: LockBase
    """The base."""
    languages: dict[str, BundleLanguage]
    """Languages that were added."""
    base_tags: dict[str, str] = {}
    """BCP 47 tags of languages that the base has of an earlier bundle; left out where there are none."""
    stages: list[BundleStage]
    """Stages in order."""
    packs: list[BundlePack] = []
    """Packs in the order in which they were put onto the base, for a bundle that was made of packs."""
    accepted: bool
    """Whether every gate of `accept` passed."""
    qrecipe: str
    """Version of the engine."""
    files: dict[str, Sha256]
    """SHA-256 of every other file."""


class PackJudging(Settings):
    """Everything that a language is judged by again."""

    accept: list[Gate]
    """Gates of the recipe's `accept`."""
    datasets: dict[Identifier, str]
    """Languages of the datasets that they read, by name; their rows are in `data/NAME.jsonl` of the pack."""
    settings: dict[str, Language]
    """Languages of the pack as the recipe states them: rows at their init are what `baseline: base` means."""
    evaluation: Evaluation
    """How the gates are measured."""
    evaluators: Evaluators
    """Models that listen."""
    rewarded: list[str] = []
    """Metrics that a stage was rewarded by."""


class PackManifest(Settings):
    """Manifest of a language pack: what a language adds to one base, and the hash of everything in the file."""

    pack: Annotated[int, Field(ge=1, le=1)]
    """Version of this format."""
    name: Annotated[str, Field(pattern=NAME)]
    """Name of the bundle that it was taken from."""
    version: Annotated[str, Field(pattern=VERSION)]
    """Its version."""
    bundle: Sha256
    """Hash of its bundle.json."""
    base: LockBase
    """The one base that the pack fits."""
    languages: dict[str, BundleLanguage]
    """Languages with the rows that they had there."""
    accepted: bool
    """Whether every gate of `accept` passed there."""
    judging: PackJudging
    """Gates of its recipe, and how they are measured."""
    qrecipe: str
    """Version of the engine."""
    tensors: dict[str, Sha256]
    """Number format, shape and content of every tensor and file of the pack, as one hash each."""
