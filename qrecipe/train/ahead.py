"""Batches that are made in another thread while a GPU computes the one before. Changes nothing of what is computed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Things that are wanted soon, by a key of their own."""

    def __init__(self) -> None:
        self._worker: ThreadPoolExecutor | None = None
        self._waiting: dict[Hashable, Future[T]] = {}

    def start(self, key: Hashable, make: Callable[[], T]) -> None:
        """Begins to make what `take` will be asked for."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        if key not in self._waiting:
            self._waiting[key] = self._worker.submit(make)

    def take(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was begun under this key, or what `make` makes now: then nobody will ask for the rest."""
        found = self._waiting.pop(key, None)
        if found is not None:
            return found.result()
        self._waiting.clear()
        return make()
