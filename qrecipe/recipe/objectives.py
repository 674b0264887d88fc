"""What a stage can learn towards: torch-free specs. The functions that compute the losses live in `qrecipe.train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ObjectiveSpec:
    """An objective by name: the kind of data that it reads and what it is able to move."""

    name: str
    data: Literal["text", "speech"]
    trains: tuple[str, ...] | None
    """Parameters that it can move; None: everything under `talker`."""
    function: str


OBJECTIVES: dict[str, ObjectiveSpec] = {
    o.name: o
    for o in (
        ObjectiveSpec("speech", "speech", None, "qrecipe.train.speech:SpeechObjective"),
        ObjectiveSpec("text_lm", "text", ("talker.model.text_embedding.weight",), "qrecipe.train.text_lm:TextLmObjective"),
    )
}
