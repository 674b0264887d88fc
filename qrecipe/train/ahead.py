"""Batches that are made in another thread while a GPU computes the one before. Changes nothing of what is computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Things that are wanted in a step that comes soon."""

    def __init__(self) -> None:
        self._worker: ThreadPoolExecutor | None = None
        self._waiting: dict[tuple[int, Hashable], Future[T]] = {}

    def start(self, step: int, key: Hashable, make: Callable[[], T]) -> None:
        """Begins to make what `take` will be asked for."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        if (step, key) not in self._waiting:
            self._waiting[step, key] = self._worker.submit(make)

    def take(self, step: int, key: Hashable, make: Callable[[], T]) -> T:
        """What was begun for this, or what `make` makes now. What was meant for earlier steps is dropped: nobody will ask for it."""
        self._waiting = {wanted: begun for wanted, begun in self._waiting.items() if wanted[0] >= step}
        found = self._waiting.pop((step, key), None)
        return make() if found is None else found.result()
