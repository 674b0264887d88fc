"""Losses and gradient norm of a step, on their way from the device to the host.

A GPU runs behind the host. Reading a number at once would make the host wait, and then the GPU for the next launch, so
numbers are copied without waiting and read a step later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from qrecipe.data.batches import Micro


@dataclass(frozen=True)
class StepLosses:
    """This rank's losses of a global batch, on the device."""

    terms: list[str]
    """Every loss term of the batch, on whichever rank it is computed."""
    parts: list[tuple[Micro, str]]
    """Rows and loss term of every value; a value without rows belongs to the whole step."""
    values: list[torch.Tensor]
    """[] each: a part's share of its term's mean over the global batch's labels, nats."""

    def means(self, device: torch.device) -> torch.Tensor:
        """[terms] float64 on the device: this rank's share of every term's mean."""
        means = torch.zeros(len(self.terms), dtype=torch.float64, device=device)
        for (_, term), value in zip(self.parts, self.values, strict=True):
            means[self.terms.index(term)] += value
        return means


@dataclass(frozen=True)
class StepNumbers:
    """Losses and gradient norm of a step over all ranks, on the host."""

    means: dict[str, float]
    """Loss term -> mean over the global batch's labels, nats."""
    bad: Micro
    """Rows of this rank's micro-batches whose loss is not finite."""
    norm: float
    """Of all gradients, before clipping."""
    flags: list[float]
    """How many ranks set each flag."""

    @property
    def finite(self) -> bool:
        """Whether the step moved the weights."""
        return math.isfinite(self.norm) and all(map(math.isfinite, self.means.values()))


class PendingNumbers:
    """Numbers of a step whose copy to the host has begun."""

    def __init__(self, losses: StepLosses, means: torch.Tensor, grad_norm: torch.Tensor) -> None:
        """Begins the copy. `means` [terms + flags] is `losses.means` summed over the ranks, with their flags after it."""
        self._losses = losses
        self._counts = [len(losses.terms), len(means) - len(losses.terms), 1, len(losses.values)]
        numbers = torch.cat([means, torch.stack([grad_norm, *losses.values]).double()])
        self.deciding = numbers[: len(means) + 1]
        """[terms + flags + 1] on the device: the same on all ranks, and finite if the step shall move the weights."""
        self._host = numbers.to("cpu", non_blocking=True)
        self._copied: torch.cuda.Event | None = None
        if numbers.device.type == "cuda":
            self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call, unused-ignore]
            self._copied.record()

    def read(self) -> StepNumbers:
        """Waits for the copy."""
        if self._copied is not None:
            self._copied.synchronize()
        means, flags, (norm,), values = (part.tolist() for part in torch.split(self._host, self._counts))
        bad: Micro = []
        for (rows, _), value in zip(self._losses.parts, values, strict=True):
            if not math.isfinite(value):
                bad += [i for i in rows if i not in bad]
        return StepNumbers(dict(zip(self._losses.terms, means, strict=True)), bad, norm, flags)
