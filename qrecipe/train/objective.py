"""What every objective offers to the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from qrecipe.data.batches import Item, Micro


@dataclass
class Losses:
    """Sums over labels of one micro-batch, kept apart so that a global batch is normalised as a whole."""

    sums: dict[str, torch.Tensor]
    """Loss term -> sum over its labels, with gradient."""


class Objective(Protocol):
    """A loss as sums over labels, with the weight of each term."""

    weights: dict[str, float]
    """Loss term -> weight in the total."""

    def lengths(self) -> dict[str, list[int]]:
        """Lengths of the rows by dataset, in the sampler's unit."""
        ...

    def labels(self, micro: Micro, step: int) -> dict[str, int]:
        """Labels of a micro-batch by loss term, without computing it."""
        ...

    def losses(self, micro: Micro, step: int) -> Losses:
        """Computes a micro-batch."""
        ...

    def expect(self, micro: Micro, step: int) -> None:
        """Told of the next micro-batch, so that it can be made ready meanwhile."""
        ...

    def extra(self) -> torch.Tensor | None:
        """A term of the whole step that belongs to no label (an anchor), or None."""
        ...

    def name(self, item: Item) -> str:
        """A row as people find it: `DATASET:LINE` of its manifest."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """What the objective itself has learned and a checkpoint must keep; mostly nothing."""
        ...

    def set_state(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over what `state` gave."""
        ...
