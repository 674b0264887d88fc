"""Computing items several at once, as many as fit into the GPU's memory, where no item's result depends on the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch

from qrecipe.errors import Place, Problem, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Room(Generic[Item]):
    """How much is computed at once on this machine: what was asked for, or less once that was found not to fit."""

    def __init__(self, most: float, total: Callable[[Sequence[Item]], float], name: Callable[[Item], str]) -> None:
        """`total` measures a part (frames, seconds with padding) in the unit of `most`; `name` names an item for messages."""
        self.most = most
        self._total = total
        self._name = name

    def compute(
        self, items: Sequence[Item], compute: Callable[[Sequence[Item]], Sequence[Result]]
    ) -> Iterator[tuple[Sequence[Item], Sequence[Result]]]:
        """Parts of the items, in order, with their results. Raises `UserError` (QR074) for an item that does not fit alone."""
        done = 0
        while done < len(items):
            part = self._part(items, done)
            results = _try(compute, part)
            if results is None:
                if len(part) == 1:
                    raise no_room(
                        "this recording", self._name(part[0]), "leave it out or cut it, or take a larger GPU; what was done is kept"
                    )
                self.most = self._total(part) / 2
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            yield part, results
            done += len(part)

    def _part(self, items: Sequence[Item], start: int) -> Sequence[Item]:
        end = start + 1
        while end < len(items) and self._total(items[start : end + 1]) <= self.most:
            end += 1
        return items[start:end]


def _try(compute: Callable[[Sequence[Item]], Sequence[Result]], part: Sequence[Item]) -> Sequence[Result] | None:
    """The results, or None. Returns before anything is tried again, so that the tensors of the failed try are free."""
    try:
        return compute(part)
    except torch.OutOfMemoryError:
        return None


def no_room(what: str, where: str, help_: str) -> UserError:
    """The error of something that does not fit into the GPU's memory."""
    return UserError(Problem("QR074", f"{what} does not fit into the GPU's memory: {where}", Place(where), help_))
