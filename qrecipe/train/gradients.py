"""Gradients summed over ranks, bucket by bucket, while the last backward pass of a step still runs.

This is what `DistributedDataParallel` does, with the all-reduce of `torch.distributed`. DDP itself wants the forward pass
of one module with all of its parameters; here an objective calls parts of a frozen model, only the masters communicate,
and a rank whose memory runs out computes its part again, alone. What it has sent by then was complete, so it stands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import Parameter

from qrecipe.peers import IN_STEP
from qrecipe.world import World

BUCKET_BYTES = 32 << 20
"""Gradients smaller than this travel together."""


class _Bucket:
    """Gradients that travel together."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = list(parameters)
        self.ready = 0
        """Parameters whose gradients are complete."""
        self.sent: torch.Tensor | None = None
        """Tensor that is summed over the ranks: the gradient of a single parameter, or all of them in one row."""

    def flat(self) -> torch.Tensor:
        """The bucket's gradients, zero where this rank has none."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return gradients[0] if len(gradients) == 1 else torch.cat([g.flatten() for g in gradients])

    def give_back(self) -> None:
        """Puts the sums in the place of this rank's gradients."""
        assert self.sent is not None
        parts = torch.split(self.sent.flatten(), [p.numel() for p in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)


class GradientSum:
    """Sums gradients over the ranks of a world, once a step. With one process there is nothing to do."""

    def __init__(self, parameters: Sequence[Parameter], world: World) -> None:
        """`parameters` are in the order of the forward pass, as far as it is known: the backward pass goes the other way."""
        self._world = world
        self._buckets: list[_Bucket] = []
        self._sums: list[object] = []
        self._hooks: list[Any] = []
        self._overlapping = False
        if world.alone:
            return
        for group in _grouped(list(reversed(parameters))):
            bucket = _Bucket(group)
            self._buckets.append(bucket)
            for parameter in group:
                hook = partial(self._complete, bucket)
                self._hooks.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]

    def begin_step(self) -> None:
        """Called before the first backward pass of a step, not before one that is computed again."""
        self._sums = []
        for bucket in self._buckets:
            bucket.sent = None

    @contextlib.contextmanager
    def last_pass(self, last: bool) -> Iterator[None]:
        """Around a backward pass. In the last one of a step every gradient is complete as soon as it is there."""
        for bucket in self._buckets:
            bucket.ready = 0
        self._overlapping = last
        try:
            yield
        finally:
            self._overlapping = False

    def finish(self, step: int) -> None:
        """Sums what has not been summed, and puts the sums in the place of the gradients."""
        for bucket in self._buckets:
            self._send(bucket)
        self._world.finish(self._sums, f"{IN_STEP}, step {step}")
        for bucket in self._buckets:
            bucket.give_back()

    def close(self) -> None:
        """Takes its hooks off the parameters."""
        for hook in self._hooks:
            hook.remove()

    def _complete(self, bucket: _Bucket, _: Parameter) -> None:
        """Sends buckets as they are complete: in their order, which is the same on all ranks."""
        if not self._overlapping:
            return
        bucket.ready += 1
        for first in self._buckets:
            if first.sent is None:
                if first.ready < len(first.parameters):
                    return
                self._send(first)

    def _send(self, bucket: _Bucket) -> None:
        if bucket.sent is None:
            bucket.sent = bucket.flat()
            self._sums += self._world.sum_tensors([bucket.sent])


def _grouped(parameters: Sequence[Parameter]) -> Iterator[list[Parameter]]:
    """Parameters in their order, the small ones together. One that fills a bucket has it alone and is never copied."""
    group: list[Parameter] = []
    size = 0
    for parameter in parameters:
        bytes_ = parameter.numel() * parameter.element_size()
        alike = not group or (group[0].dtype, group[0].device) == (parameter.dtype, parameter.device)
        if group and (size + bytes_ > BUCKET_BYTES or not alike):
            yield group
            group, size = [], 0
        group.append(parameter)
        size += bytes_
    if group:
        yield group
