"""Objectives of stages: torch-free specs. The classes that compute the losses are in `qrecipe.train.objectives`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qrecipe.qwen3 import TEXT_PROJECTION, TEXT_TABLE

_PROJECTION = tuple(f"{TEXT_PROJECTION}.linear_fc{i}.{part}" for i in (1, 2) for part in ("weight", "bias"))


@dataclass(frozen=True)
class ObjectiveSpec:
    """An objective by name: the kind of data that it reads and what it is able to move."""

    name: str
    data: tuple[Literal["text", "speech"], ...]
    """Kinds of datasets that it reads, what it is for first."""
    trains: tuple[str, ...] | None
    """Parameters that it can move; None: everything under `talker`."""
    speaks: bool
    """Whether rows stand under their language's prefix before frames, so that the language's row learns."""
    respells: bool
    """Whether texts are respelled for a language of the base."""
    function: str
    """`MODULE:CLASS` of the `qrecipe.train.objectives.objective.Objective`, whose `build` makes one for a stage."""


OBJECTIVES: dict[str, ObjectiveSpec] = {
    o.name: o
    for o in (
        ObjectiveSpec("speech", ("speech",), None, True, False, "qrecipe.train.objectives.speech:SpeechObjective"),
        ObjectiveSpec("text_lm", ("text",), (TEXT_TABLE,), False, False, "qrecipe.train.objectives.text_lm:TextLmObjective"),
        ObjectiveSpec("respell", ("text", "speech"), None, True, True, "qrecipe.train.objectives.speech:SpeechObjective"),
        ObjectiveSpec("reward", ("text", "speech"), None, True, False, "qrecipe.train.objectives.reward:RewardObjective"),
        ObjectiveSpec(
            "embedding_match",
            ("text",),
            (TEXT_TABLE, *_PROJECTION),
            False,
            True,
            "qrecipe.train.objectives.embedding_match:EmbeddingMatchObjective",
        ),
    )
}
