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
    """Losses of a global batch, on the device."""

    terms: list[str]
    """Every loss term of the batch."""
    parts: list[tuple[Micro, str]]
    """Rows and loss term of every value; a value without rows belongs to the whole step."""
    values: list[torch.Tensor]
    """[] each: a part's share of its term's mean over the global batch's labels, nats."""

    def with_norm(self, grad_norm: torch.Tensor) -> torch.Tensor:
        """[parts + 1] float32 on the device: the values, then the norm."""
        return torch.stack([v.float() for v in (*self.values, grad_norm)])


@dataclass(frozen=True)
class StepNumbers:
    """Losses and gradient norm of a step, on the host."""

    means: dict[str, float]
    """Loss term -> mean over the global batch's labels, nats."""
    bad: Micro
    """Rows of the micro-batches whose loss is not finite."""
    norm: float
    """Of all gradients, before clipping."""

    @property
    def finite(self) -> bool:
        """Whether the step moved the weights."""
        return math.isfinite(self.norm) and all(map(math.isfinite, self.means.values()))


class PendingNumbers:
    """Numbers of a step whose copy to the host has begun."""

    def __init__(self, losses: StepLosses, numbers: torch.Tensor) -> None:
        """Begins the copy. `numbers` is the result of `losses.with_norm`."""
        self._losses = losses
        self._host = numbers.to("cpu", non_blocking=True)
        self._copied: torch.cuda.Event | None = None
        if numbers.device.type == "cuda":
            self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call, unused-ignore]
            self._copied.record()

    def read(self) -> StepNumbers:
        """Waits for the copy."""
        if self._copied is not None:
            self._copied.synchronize()
        *values, norm = self._host.tolist()
        means = dict.fromkeys(self._losses.terms, 0.0)
        bad: Micro = []
        for (rows, term), value in zip(self._losses.parts, values, strict=True):
            means[term] = means.get(term, 0.0) + value
            if not math.isfinite(value):
                bad += [i for i in rows if i not in bad]
        return StepNumbers(means, bad, norm)
