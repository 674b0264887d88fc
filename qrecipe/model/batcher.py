"""Batches that fit into memory: a limit that is halved when memory runs out.

For items whose results do not depend on one another, so that another split changes nothing but the order of summation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch

from qrecipe.errors import Place, Problem, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

CPU_CHUNK_FRAMES = 400
"""Frames of a batch on a CPU. Activations of more do not fit into its caches: a sixth of the time then goes into waiting for memory."""


class AdaptiveBatcher(Generic[Item]):
    """Splits items into batches of at most `limit`; a batch that runs out of memory halves the limit for all that follow."""

    def __init__(self, limit: float, size: Callable[[Sequence[Item]], float], error: Callable[[Item], UserError]) -> None:
        """
        Args:
            limit: largest size of a batch; a single item that is larger is a batch of its own.
            size: of a batch, in the unit of `limit` (frames, seconds with padding).
            error: raised for an item that does not fit alone.
        """
        self.limit = limit
        self._size = size
        self._error = error

    def split(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """All items in batches, in their order, at the present limit."""
        batches = []
        start = 0
        while start < len(items):
            batches.append(self._next(items, start))
            start += len(batches[-1])
        return batches

    def run(
        self, items: Sequence[Item], compute: Callable[[Sequence[Item]], Sequence[Result]]
    ) -> Iterator[tuple[Sequence[Item], Sequence[Result]]]:
        """Batches of the items, in order, with their results. Raises `error` for an item that does not fit alone."""
        start = 0
        while start < len(items):
            batch = self._next(items, start)
            results = _or_none(compute, batch)
            if results is None:
                self.halve(batch)
                continue
            yield batch, results
            start += len(batch)

    def halve(self, batch: Sequence[Item]) -> None:
        """Lowers the limit below the size of a batch that ran out of memory. Raises `error` if it is a single item.

        Call it when no reference to the failed batch's tensors is left, their traceback included.
        """
        if len(batch) == 1:
            raise self._error(batch[0])
        self.limit = max(self._size(batch) / 2, max(self._size([item]) for item in batch))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _next(self, items: Sequence[Item], start: int) -> Sequence[Item]:
        end = start + 1
        while end < len(items) and self._size(items[start : end + 1]) <= self.limit:
            end += 1
        return items[start:end]


def _or_none(compute: Callable[[Sequence[Item]], Sequence[Result]], batch: Sequence[Item]) -> Sequence[Result] | None:
    """The results; None if memory ran out. A function of its own, so that the failed try's tensors are free when it returns."""
    try:
        return compute(batch)
    except torch.OutOfMemoryError:
        return None


def out_of_memory(what: str, where: str, help_: str) -> UserError:
    """The error (QR074) for something that does not fit into the GPU's memory."""
    return UserError(Problem("QR074", f"{what} does not fit into the GPU's memory: {where}", Place(where), help_))


def recording_too_large(where: str) -> UserError:
    """The error (QR074) for a recording that does not fit alone."""
    return out_of_memory("this recording", where, "leave it out or cut it, or take a larger GPU; what was done is kept")
