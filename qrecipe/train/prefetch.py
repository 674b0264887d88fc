"""Batches made in another thread while a GPU computes the one before. Changes nothing in the results."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Values that a step which comes soon will ask for, by step and key."""

    def __init__(self) -> None:
        self._worker: ThreadPoolExecutor | None = None
        self._pending: dict[tuple[int, Hashable], Future[T]] = {}

    def start(self, step: int, key: Hashable, make: Callable[[], T]) -> None:
        """Begins to make a value in the other thread, unless that has begun."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "prefetch", *_on_the_same_gpu())
        if (step, key) not in self._pending:
            self._pending[step, key] = self._worker.submit(make)

    def take(self, step: int, key: Hashable, make: Callable[[], T]) -> T:
        """The value that was begun, or else the one that `make` makes now. Drops values of earlier steps."""
        self._pending = {pending: future for pending, future in self._pending.items() if pending[0] >= step}
        future = self._pending.pop((step, key), None)
        return make() if future is None else future.result()


def _on_the_same_gpu() -> tuple[Callable[[int], None], tuple[int]] | tuple[()]:
    """The initialiser of a thread that uses this one's GPU: by itself a new thread uses the first."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return ()
    return torch.cuda.set_device, (torch.cuda.current_device(),)
