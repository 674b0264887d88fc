"""recipe.lock: everything that a run resolved."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from qrecipe.inputs.documents import Sha256
from qrecipe.recipe.model import Settings


class LockBase(Settings):
    """The base that a run used."""

    model: str
    """As the recipe names it."""
    revision: str | None
    """Commit of a hub id."""
    identity: str
    """Content of the base: equal means the same weights and files."""
    dtype: str
    """Number format of the weights."""


class LockStage(Settings):
    """A stage's exact trainable set."""

    id: str
    """Stage."""
    tensors: dict[str, Annotated[int, Field(ge=1)]]
    """Trained elements of every tensor that trains."""
    rows: dict[str, Sha256]
    """Hash of the row numbers of every tensor of which only rows train."""


class Lock(Settings):
    """Everything that a run resolved; reviewed beside the recipe. Holds nothing of one machine."""

    lock: Annotated[int, Field(ge=1, le=1)]
    """Version of this format."""
    recipe: str
    """Name of the recipe."""
    plan: Sha256
    """Hash of the plan."""
    base: LockBase
    """The base."""
    languages: dict[str, int]
    """Row of every language that was added."""
    datasets: dict[str, Sha256]
    """Content of every dataset, its recordings included."""
    evaluators: dict[str, str] = {}
    """Content of the models that listen, where they have one of their own."""
    taught: dict[str, Sha256] = {}
    """Synthetic datasets by `STAGE.DATASET`, spoken or respelled: sentences as it reads them, voices and settings."""
    stages: list[LockStage]
    """Exact trainable sets."""
    numerics: int
    """Version of the engine's numerics."""
    versions: dict[str, str]
    """Packages whose versions change numbers."""
