"""Work in pieces whose results lie in the cache: several processes that want the same pieces at once share them out.

A process that is at a piece holds a lock beside its file; the others go on with the next piece and come back. A lock
goes with its process, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PAUSE = 0.2
"""Seconds between two looks at what others are at."""


def shared_out(
    files: Sequence[Path], recall: Callable[[int], T | None], make: Callable[[int], T], pause: float = PAUSE
) -> Iterator[tuple[int, T]]:
    """Gives (number of the piece, result) of every piece, as they come.

    Args:
        files: where each piece's result lies.
        recall: gives a piece's result, None while it is not there.
        make: makes the result of a piece and keeps it in its file.
        pause: seconds between two looks, when all that is left is being made by others.
    """
    left = list(range(len(files)))
    while left:
        taken = []
        for i in left:
            found = recall(i)
            if found is None:
                with _claimed(files[i]) as mine:
                    if mine:
                        found = recall(i)  # it may have been made between the two looks
                        found = make(i) if found is None else found
            if found is None:
                taken.append(i)
            else:
                yield i, found
        if taken == left:
            time.sleep(pause)
        left = taken


@contextmanager
def _claimed(file: Path) -> Iterator[bool]:
    """Whether nobody else is at a piece; where files cannot be locked nobody waits for anybody."""
    lock = file.with_name(f".{file.name}.tmp")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "ab") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            yield e.errno not in (errno.EWOULDBLOCK, errno.EACCES)
            return
        try:
            yield True
        finally:
            lock.unlink(missing_ok=True)


__all__ = ["shared_out"]
