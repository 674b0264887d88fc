"""Ctrl-C, SIGTERM, SIGHUP and SIGQUIT: they stop any loop at once, except for the moments that must be whole.

The first signal raises `KeyboardInterrupt` where the program is, or at the end of a `whole()` block; everything that
was finished is on disk by then. A second signal raises it even inside such a block. Never ends the process itself.
"""

from __future__ import annotations

import _thread
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager


class _State:
    count = 0
    """Signals that have come."""
    late = False
    """It came inside a `whole()` block and is raised at its end."""
    depth = 0
    together = False
    """A launcher started several processes: it passes a signal on that may have come to all of them already."""
    first = 0.0
    """When the first signal came, in seconds of the monotonic clock."""


ECHO_SECONDS = 10.0
"""Seconds after the first signal in which another one is the launcher's own, not a person's second."""


def install() -> None:
    """Listens to these signals. Only the main thread of a process may.

    SIGHUP comes when a connection or a terminal goes away; where it was ignored before (`nohup`) it stays ignored.
    """
    _State.count = _State.depth = 0
    _State.late = _State.together = False
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(signum: int, frame: object) -> None:
    if _State.together and _State.count and time.monotonic() - _State.first < ECHO_SECONDS:
        return
    stop()


def stop() -> None:
    """Does what a signal does: for what means the same and sends none."""
    _State.count += 1
    if _State.count == 1:
        _State.first = time.monotonic()
        if _State.depth:
            _State.late = True
            return
    raise KeyboardInterrupt


def together() -> None:
    """From now on this process is one of several, which a launcher ends together."""
    _State.together = True
    signal.signal(signal.SIGUSR1, _woken)


def wake() -> None:
    """Interrupts the main thread from another one, as a first signal does; it does not count as one."""
    _thread.interrupt_main(signal.SIGUSR1)


def _woken(signum: int, frame: object) -> None:
    if _State.depth:
        _State.late = True
        return
    raise KeyboardInterrupt


def came() -> bool:
    """Whether a signal has come, also where a library made another error of the `KeyboardInterrupt`."""
    return _State.count > 0


def pending() -> bool:
    """Whether a signal has come inside a block that it does not cut."""
    return _State.late


def at_once() -> bool:
    """Whether a second signal has come: nothing more is saved."""
    return _State.count > 1


@contextmanager
def whole() -> Iterator[None]:
    """A block that the first signal does not cut in two."""
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
    check()


@contextmanager
def deferred() -> Iterator[None]:
    """A block that the first signal does not cut, and after which it stays pending until `check`."""
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1


def check() -> None:
    """Raises what is pending."""
    if _State.late and not _State.depth:
        _State.late = False
        raise KeyboardInterrupt


def agreed() -> None:
    """Raises `KeyboardInterrupt`, which is then no longer pending: several processes have agreed to stop here."""
    _State.late = False
    raise KeyboardInterrupt
