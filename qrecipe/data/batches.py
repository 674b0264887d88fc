"""Which rows make which step: shares, length buckets, a frame budget.

Pure and seeded: the same rows, settings and seed give the same batches on any machine and any number of ranks.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

from qrecipe.recipe.stage import Batch
from qrecipe.world import World


@dataclass(frozen=True)
class Item:
    """A row as the sampler sees it."""

    dataset: str
    index: int
    length: int
    """Frames, or text tokens in `text_lm`."""


Micro = list[Item]


class Sampler:
    """Epochs of global batches, each a list of micro-batches."""

    def __init__(
        self, sources: Mapping[str, Sequence[int]], shares: Mapping[str, float], batch: Batch, seed: int, updates: int = 1
    ) -> None:
        """
        Args:
            sources: lengths by dataset.
            shares: of those datasets that have one.
            updates: optimiser steps in a row that read the same batch.
        """
        self._own = [Item(d, i, n) for d, lengths in sources.items() if d not in shares for i, n in enumerate(lengths)]
        self._others = {d: [Item(d, i, n) for i, n in enumerate(sources[d])] for d in sources if d in shares}
        self._shares = shares
        self._batch = batch
        self.seed = seed
        self.updates = updates

    def epoch(self, number: int) -> list[list[Micro]]:
        """The global batches of one epoch: every own row once, and as much of the others as their shares ask for."""
        rng = random.Random(f"{self.seed}:{number}")
        items = list(self._own)
        own = sum(i.length for i in self._own)
        rest = 1.0 - sum(self._shares.values())
        for dataset, pool in self._others.items():
            wanted = own * self._shares[dataset] / rest
            items += self._draw(dataset, pool, wanted, number)
        rng.shuffle(items)
        micro = self._pack(items, rng)
        k = self._batch.accumulate
        return [micro[i : i + k] for i in range(0, len(micro), k)]

    def _draw(self, dataset: str, pool: list[Item], wanted: float, number: int) -> list[Item]:
        """Rows of about `wanted` length: the pool is gone through in shuffled rounds that continue over epochs."""
        total = sum(i.length for i in pool)
        start = wanted * number
        drawn: list[Item] = []
        position = (start // total) * total if total else 0.0
        turn = int(start // total) if total else 0
        while total and position < start + wanted:
            order = list(pool)
            random.Random(f"{self.seed}:{dataset}:{turn}").shuffle(order)
            for item in order:
                if start <= position < start + wanted:
                    drawn.append(item)
                position += item.length
            turn += 1
        return drawn

    def _pack(self, items: list[Item], rng: random.Random) -> list[Micro]:
        """Micro-batches of as many rows as the budget holds, those of similar length together.

        What a micro-batch costs is the sum of its rows: nothing is padded but, on a GPU without a kernel for rows end to end,
        what enters attention. That is what similar lengths are for. Windows are sorted up and down by turns, so that a
        micro-batch may go on in the next one.
        """
        window = max(64, len(items) // 8)
        micro: list[Micro] = []
        room = 0
        for start in range(0, len(items), window):
            up = start // window % 2 == 0
            for item in sorted(items[start : start + window], key=lambda i: (i.length, i.dataset, i.index), reverse=not up):
                if not micro or item.length > room:
                    micro.append([])
                    room = self._batch.frames
                micro[-1].append(item)
                room -= item.length
        rng.shuffle(micro)
        return micro

    def steps(self, epochs: float | None, steps: int | None) -> int:
        """Optimiser steps in all."""
        if steps is not None:
            return steps
        assert epochs is not None
        whole = int(epochs)
        count = sum(len(self.epoch(e)) for e in range(whole))
        if epochs > whole:
            count += max(1, round((epochs - whole) * len(self.epoch(whole))))
        return max(1, count) * self.updates

    def batches(self, start: int = 0) -> Iterator[list[Micro]]:
        """Global batches of every step without end, from number `start` on."""
        number, (start, again) = 0, divmod(start, self.updates)
        while True:
            epoch = self.epoch(number)
            for batch in epoch[start:]:
                yield from repeat(batch, self.updates - again)
                again = 0
            start = max(0, start - len(epoch))
            number += 1


def part_of(batch: Sequence[Micro], world: World) -> list[Micro]:
    """A rank's part of a global batch: whole micro-batches where they divide evenly, else about as much length as the others.

    Losses are sums over labels, so the parts' order of summation is all that differs. A rank's part may be empty.
    """
    if len(batch) % world.size == 0:
        return list(world.share(batch))
    loads = [(0, rank) for rank in range(world.size)]
    mine: Micro = []
    for item in sorted((i for micro in batch for i in micro), key=lambda i: (-i.length, i.dataset, i.index)):
        length, rank = loads[0]  # the longest first, each to the rank that has least
        heapq.heapreplace(loads, (length + item.length, rank))
        if rank == world.rank:
            mine.append(item)
    count = -(-len(batch) // world.size)
    return [mine[i::count] for i in range(count) if mine[i::count]]
