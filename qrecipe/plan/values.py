"""The plan as a value: it can be printed, compared and hashed. Holds no logic."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SkipValidation

from qrecipe.files import digest
from qrecipe.plan.fingerprints import StageInputs, StartInputs


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class PlannedTrain(_Value):
    """An entry of `train`, resolved."""

    match: list[str]
    except_: list[str] = Field(serialization_alias="except")
    rows: str | list[int] | None
    tensors: list[str]
    rows_count: int | None
    rows_sha256: str | None
    parameters: int | None
    parameters_max: int
    lr: float
    weight_decay: float
    lora: dict[str, float] | None
    """`rank` and `alpha` of low-rank deltas; None where the tensors or rows train themselves."""


class PlannedData(_Value):
    """A dataset in a stage."""

    dataset: str
    language: str
    share: float | None
    rows: int | None


ESTIMATES = {"frames", "positions", "seconds"}
"""Fields of `PlannedSynthetic` that are estimates, which no hash may hold."""


class PlannedSynthetic(_Value):
    """A text dataset that the base speaks for a stage, or whose words it respells."""

    dataset: str
    spoken_as: str
    """The language that the base reads it in."""
    sentences: int
    voices: int
    frames: int
    """Frames that the base will speak, estimated from the texts; 0 where it only respells."""
    positions: int
    """Frames of the longest sentence of every batch, summed: steps of generation, one after the other."""
    seconds: float | None
    """Estimated time on a GPU; None if the base's shape is not known."""
    digest: str | None
    """Names what is said; None while a recording of a voice is not on this machine."""


class PlannedStage(_Value):
    """A stage, resolved."""

    id: str
    objective: str
    data: list[PlannedData]
    taught: list[PlannedSynthetic]
    """Synthetic datasets: text that the base speaks or respells for it."""
    trainable: list[PlannedTrain]
    parameters: int | None
    parameters_max: int | None
    epochs: float | None
    steps: int | None
    select: str | None
    gates: list[str]
    on_pass: str
    on_fail: str
    fingerprint: str | None
    """Hash of `inputs`, with every stage before kept; None while a part is not known."""
    inputs: SkipValidation[StageInputs] = Field(exclude=True, repr=False)
    """Everything that the result depends on, in plain data; no part of the plan's JSON, which holds its hash."""


class PlannedBase(_Value):
    """The base, as far as it is known."""

    model: str
    revision: str | None
    identity: str | None
    dtype: str


class PlannedLanguage(_Value):
    """A language with its row."""

    bcp47: str
    token_id: int | None
    init: list[str]
    lead: float = 0.0
    """Seconds of silence that every sentence begins with."""


class PlannedDataset(_Value):
    """A dataset with its content's hash."""

    kind: str
    language: str
    rows: int | None
    bad_rows: int | None
    sha256: str | None


class PlannedEvaluator(_Value):
    """A model that listens, with its content's hash or commit."""

    backend: str
    model: str | None
    identity: str | None


class Plan(_Value):
    """Everything that a run will do. `hash` names it; warnings are not part of it."""

    recipe: str
    version: str
    numerics: int
    seed: int
    start: SkipValidation[StartInputs] = Field(exclude=True, repr=False)
    """Everything that the first state of a run depends on; no part of the plan's JSON."""
    base: PlannedBase
    languages: dict[str, PlannedLanguage]
    datasets: dict[str, PlannedDataset]
    evaluators: dict[str, PlannedEvaluator]
    stages: list[PlannedStage]
    accept: list[str]
    settings: dict[str, Any]
    """The recipe itself, defaults filled in."""

    @property
    def hash(self) -> str:
        """SHA-256 of everything above but estimates."""
        return digest(self.model_dump(mode="json", exclude={"stages": {"__all__": {"taught": {"__all__": ESTIMATES}}}}))

    @property
    def bundle(self) -> str:
        """Name of the folder that its bundle gets."""
        return f"{self.recipe}-{self.version}"

    @property
    def complete(self) -> bool:
        """Whether everything that `run` needs is known."""
        return self.base.identity is not None and all(d.sha256 is not None for d in self.datasets.values())

    def as_json(self) -> dict[str, Any]:
        """The object of the command line's JSON output."""
        return {"hash": self.hash, "complete": self.complete, **self.model_dump(mode="json", by_alias=True)}
