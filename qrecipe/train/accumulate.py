"""Gradients of one global batch: forward and backward passes over pieces that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from qrecipe.data.batches import Item, Micro, part_of
from qrecipe.errors import EngineError, UserError
from qrecipe.model.batcher import CPU_CHUNK_FRAMES, AdaptiveBatcher, out_of_memory
from qrecipe.model.kernels import fused
from qrecipe.model.load import LoadedBase
from qrecipe.train.gradients import GradientSum
from qrecipe.train.numbers import StepLosses
from qrecipe.train.objectives.objective import Objective
from qrecipe.train.observer import Observer
from qrecipe.train.progress import Progress


class Accumulator:
    """Adds up this rank's gradients. The size of its pieces is halved when memory runs out, and kept in `progress`."""

    def __init__(self, base: LoadedBase, objective: Objective, gradients: GradientSum, progress: Progress, observer: Observer) -> None:
        self._base, self._objective, self._gradients = base, objective, gradients
        self._progress, self._observer = progress, observer
        limit = CPU_CHUNK_FRAMES if base.device.type == "cpu" else math.inf
        self._splitter: AdaptiveBatcher[Item] = AdaptiveBatcher(limit, _length, self._row_too_large)

    def accumulate(self, batch: list[Micro], step: int, labels: dict[str, int]) -> StepLosses | None:
        """Adds up the gradients of this rank's part of a global batch; None if they are incomplete and it must start again."""
        anchor = self._objective.anchor()
        losses = StepLosses([*labels, *(["anchor"] if anchor is not None else [])], [], [])
        compiled = fused.compiling()
        too_large: Micro | None = None
        pieces = self.pieces(batch)
        for i, piece in enumerate(pieces, start=1):
            try:
                # An anchor has a backward pass of its own after the last one.
                with self._gradients.last_pass(i == len(pieces) and anchor is None):
                    means = self._backward(piece, step, labels)
            except (EngineError, UserError):
                raise
            except torch.OutOfMemoryError:
                too_large = piece
                break  # first out of this block: the traceback holds the failed piece's tensors
            except Exception as e:
                # A backward pass is compiled when it first runs, too late for calling the plain formula instead.
                if not compiled:
                    raise
                fused.refuse(e)
                return None
            losses.parts.extend((piece, term) for term in means)
            losses.values.extend(means.values())
        if too_large is not None:
            self._split_smaller(too_large, step)
            return None
        if anchor is not None and self._base.world.first:
            self._add_anchor(anchor, losses)
        if (reason := fused.refused()) is not None:
            self._observer.event("compiling", trouble=reason)
        return losses

    def _backward(self, piece: Micro, step: int, labels: dict[str, int]) -> dict[str, torch.Tensor]:
        """Adds a piece's gradients; returns its share of each term's mean."""
        with self._base.autocast():
            sums = self._objective.loss_sums(piece, step)
        if not sums:
            return {}  # samples that are all worth the same
        means = {term: value / max(1, labels[term]) for term, value in sums.items()}
        terms = [self._objective.weights[term] * mean for term, mean in means.items() if mean.requires_grad]
        if not terms:
            raise EngineError("no loss term reaches what trains")
        torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
        return {term: mean.detach() for term, mean in means.items()}

    def _add_anchor(self, anchor: torch.Tensor, losses: StepLosses) -> None:
        """Adds the gradients of the objective's anchor, once a step."""
        if anchor.requires_grad:
            anchor.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
        losses.parts.append(([], "anchor"))
        losses.values.append(anchor.detach())

    def pieces(self, batch: list[Micro]) -> list[Micro]:
        """Parts of this rank's micro-batches that fit into memory."""
        return [list(piece) for micro in part_of(batch, self._base.world) for piece in self._splitter.split(micro)]

    def _split_smaller(self, piece: Micro, step: int) -> None:
        self._splitter.halve(piece)
        self._progress.fits = int(self._splitter.limit)
        self._observer.event("memory_split", step=step, fits=self._progress.fits)

    def keep_to_what_fits(self) -> None:
        """Begins with pieces of the size that memory was enough for before the stage was stopped."""
        if self._progress.fits is not None:
            self._splitter.limit = min(self._splitter.limit, self._progress.fits)

    def _row_too_large(self, item: Item) -> UserError:
        help_ = "train less at once, give the dataset a lower `max_seconds`, or take a larger GPU; finished steps are kept"
        return out_of_memory(f"a row of length {item.length}", self._objective.name(item), help_)


def _length(items: Sequence[Item]) -> int:
    return sum(i.length for i in items)
