"""Batches that fit into memory: a limit that is halved when memory runs out.

For items whose results do not depend on one another, so that another split changes nothing but the order of summation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch

from qrecipe.errors import Place, Problem, UserError

T = TypeVar("T")
Result = TypeVar("Result")

CPU_CHUNK_FRAMES = 400
"""Frames of a batch on a CPU. Activations of more do not fit into its caches: a sixth of the time then goes into waiting for memory."""


def memory_of(device: torch.device) -> float:
    """Bytes of a GPU that this process may take, where torch was given a share of it."""
    share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)
    return float(torch.cuda.get_device_properties(device).total_memory * share(device))


class AdaptiveBatcher(Generic[T]):
    """Splits items into batches of at most `limit`; a batch that runs out of memory halves the limit for all that follow."""

    def __init__(self, limit: float, size: Callable[[Sequence[T]], float], error: Callable[[T], UserError]) -> None:
        """
        Args:
            limit: largest size of a batch; a single item that is larger is a batch of its own.
            size: of a batch, in the unit of `limit` (frames, seconds with padding).
            error: raised for an item that does not fit alone.
        """
        self.limit = limit
        self._size = size
        self._error = error

    def split(self, items: Sequence[T]) -> list[Sequence[T]]:
        """All items in batches, in their order, at the present limit."""
        batches = []
        start = 0
        while start < len(items):
            batches.append(self._next(items, start))
            start += len(batches[-1])
        return batches

    def run(self, items: Sequence[T], compute: Callable[[Sequence[T]], Sequence[Result]]) -> Iterator[tuple[Sequence[T], Sequence[Result]]]:
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

    def halve(self, batch: Sequence[T]) -> None:
        """Lowers the limit below the size of a batch that ran out of memory. Raises `error` if it is a single item.

        Call it when no reference to the failed batch's tensors is left, their traceback included.
        """
        if len(batch) == 1:
            raise self._error(batch[0])
        self.limit = max(self._size(batch) / 2, max(self._size([item]) for item in batch))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _next(self, items: Sequence[T], start: int) -> Sequence[T]:
        end = start + 1
        while end < len(items) and self._size(items[start : end + 1]) <= self.limit:
            end += 1
        return items[start:end]


def _or_none(compute: Callable[[Sequence[T]], Sequence[Result]], batch: Sequence[T]) -> Sequence[Result] | None:
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
