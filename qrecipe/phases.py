"""Where the seconds of a run go: named phases, each of which counts only what no phase within it counts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Clock:
    """Seconds by phase since a moment."""

    seconds: dict[str, float] = field(default_factory=dict)
    _running: list[str] = field(default_factory=lambda: ["other"])
    _since: float = field(default_factory=lambda: time.monotonic())

    def lap(self) -> None:
        """Counts the seconds since the last call for the phase that runs."""
        now = time.monotonic()
        name = self._running[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    def enter(self, name: str) -> None:
        """Counts for `name` from now on."""
        self.lap()
        self._running.append(name)

    def leave(self) -> None:
        """Counts for the phase around the last one that was entered."""
        self.lap()
        self._running.pop()

    def table(self) -> dict[str, float]:
        """Seconds by phase up to now, the longest first; their sum is the time that has passed."""
        self.lap()
        return {name: round(s, 3) for name, s in sorted(self.seconds.items(), key=lambda item: -item[1])}


_clock: ContextVar[Clock | None] = ContextVar("clock", default=None)


@contextmanager
def measured() -> Iterator[Clock]:
    """Inside the block, in this thread, phases count for the clock."""
    clock = Clock()
    token = _clock.set(clock)
    try:
        yield clock
    finally:
        _clock.reset(token)


def current() -> Clock | None:
    """The clock that runs in this thread."""
    return _clock.get()


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Names what a block does. Does nothing where no clock runs."""
    clock = _clock.get()
    if clock is None:
        yield
        return
    clock.enter(name)
    try:
        yield
    finally:
        clock.leave()


def each(name: str, items: Iterable[T]) -> Iterator[T]:
    """Items as they come; making them counts for a phase, what happens between them does not."""
    iterator = iter(items)
    while True:
        with phase(name):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
