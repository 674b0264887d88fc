"""Work on a CPU that is shared out by item: each on one thread of torch's, as many beside one another as torch has threads.

Two threads that share one small product spend most of their time waiting for each other, and on a core that another process
uses the wait is spun away. And how a product is shared changes its last digits: an item on one thread does not depend on the
machine's cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


def each_on_one(work: Callable[[A], B], items: Sequence[A]) -> list[B]:
    """`work` of every item, without gradients, in their order. The first error is raised, after what was begun has ended."""

    def without_gradients(item: A) -> B:
        with torch.inference_mode():
            return work(item)

    with one_thread() as threads:
        if threads == 1 or len(items) < 2:
            return [without_gradients(item) for item in items]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(without_gradients, items))


@contextmanager
def one_thread() -> Iterator[int]:
    """Threads that begin inside the block, and this one, compute alone; gives the number that torch had."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
