"""Ctrl-C, SIGTERM, SIGHUP and SIGQUIT: they stop any loop at once, except for the moments that must be whole.

The first signal raises `KeyboardInterrupt` where the program is, or at the end of a `whole()` block; everything that
was finished is on disk by then. A second signal raises it even inside such a block. Never ends the process itself.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class _State:
    count = 0
    """Signals that have come."""
    late = False
    """It came inside a `whole()` block and is raised at its end."""
    depth = 0


def install() -> None:
    """Listens to these signals. Only the main thread of a process may.

    SIGHUP comes when a connection or a terminal goes away; where it was ignored before (`nohup`) it stays ignored.
    """
    _State.count = _State.depth = 0
    _State.late = False
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(signum: int, frame: object) -> None:
    stop()


def stop() -> None:
    """Does what a signal does: for what means the same and sends none."""
    _State.count += 1
    if _State.depth and _State.count == 1:
        _State.late = True
        return
    raise KeyboardInterrupt


def came() -> bool:
    """Whether a signal has come, also where a library made another error of the `KeyboardInterrupt`."""
    return _State.count > 0


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
    if _State.late and not _State.depth:
        _State.late = False
        raise KeyboardInterrupt
