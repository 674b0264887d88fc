"""Processes that compute beside this one, ahead of who needs the results.

They are started by a command of their own, so they import only what the work needs and do not run the caller's
program again, as `multiprocessing` would. A result does not depend on who computed it: what a worker cannot do is done here.
"""

from __future__ import annotations

import gc
import os
import pickle
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST = 12
"""Workers of a process; recordings are then read faster than a GPU encodes them."""
WORTH = 24
"""Items for each worker from which starting it pays."""
AHEAD = 8
"""Items for each worker that may be computed before they are asked for."""
MANY = 1_000_000
"""New objects after which a worker looks for garbage: results are many, and hold no cycles."""
_MALLOC = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(64 << 20))
"""Keeps memory of one item for the next, where glibc would give it back and have the kernel clear it again."""
_COMMAND = "from qrecipe.workers import _serve; _serve()"


def spare(items: int) -> int:
    """How many workers so many items are worth, with a core left for each process of the program itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    programs = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return max(0, min(cores // max(1, programs) - 1, MOST, items // WORTH))


def in_order(work: Callable[[T], R], items: Sequence[T], count: int) -> Generator[R]:
    """Results of `work` for the items, in their order, from `count` workers; computed here where that is 0.

    Args:
        work: a function of a module; it and what it takes and gives can be pickled. An exception reaches the caller.
        items: what it is called with.
        count: of processes. They end with the iterator, or with this process, however that ends.
    """
    if not count:
        yield from map(work, items)
        return
    workers = [_Worker() for _ in range(count)]
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def compute(item: T) -> R:
        worker = idle.get()
        try:
            result: R = worker.compute(work, item)
            return result
        finally:
            idle.put(worker)

    pool = ThreadPoolExecutor(count)
    try:
        remaining = iter(items)
        pending: deque[Future[R]] = deque(pool.submit(compute, item) for item in islice(remaining, count * AHEAD))
        while pending:
            yield pending.popleft().result()
            pending.extend(pool.submit(compute, item) for item in islice(remaining, 1))
    finally:
        for worker in workers:
            worker.end()
        pool.shutdown(cancel_futures=True)
        for worker in workers:
            worker.end()  # one that a thread was just starting


class _Worker:
    """One process, started by the first thing that it is to compute."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._usable, self._ended = True, False

    def compute(self, work: Callable[[Any], Any], item: Any) -> Any:
        """The result, from the process if it gives one."""
        if self._usable:
            try:
                process = self._process = self._process or _started()
                assert process.stdin is not None
                assert process.stdout is not None
                pickle.dump((work, item), process.stdin, pickle.HIGHEST_PROTOCOL)
                process.stdin.flush()
                done, result = pickle.load(process.stdout)
                if done:
                    return result
            except (OSError, EOFError, ValueError, pickle.UnpicklingError):
                self._usable = False  # it was killed, or could not be started
        if self._ended:
            raise CancelledError
        return work(item)

    def end(self) -> None:
        """Ends the process at once: nothing that it does is kept."""
        self._ended = True
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()


def _started() -> subprocess.Popen[bytes]:
    """A worker with this process's modules, in a session of its own: signals of a terminal are for who started it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "OMP_NUM_THREADS": "1", **_MALLOC}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment,
    )


def _serve() -> None:
    """A worker's program: computes what standard input asks for until it ends. (False, None) stands for an exception."""
    requests, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no result
    gc.set_threshold(MANY)
    with suppress(EOFError, OSError):
        while True:
            work, item = pickle.load(requests)
            try:
                answer = pickle.dumps((True, work(item)), pickle.HIGHEST_PROTOCOL)
            except Exception:
                answer = pickle.dumps((False, None))
            results.write(answer)
            results.flush()
