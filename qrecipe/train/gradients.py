"""The gradient of one step: sums over micro-batches, each divided by the labels of the whole global batch.

That is why a micro-batch that does not fit into the GPU's memory can be split, and one on a CPU is computed in pieces that
its caches hold: nothing changes but the order of summation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from qrecipe.data.batches import Micro, World, mine
from qrecipe.errors import EngineError, UserError
from qrecipe.model import fused
from qrecipe.model.layers import ON_A_CPU
from qrecipe.model.opened import Opened
from qrecipe.model.room import no_room
from qrecipe.train.objective import Objective


@dataclass
class Gradients:
    """What a step's losses were. The gradients themselves are on the parameters."""

    means: dict[str, float]
    """Loss term -> mean over the global batch's labels, nats."""
    bad: Micro = field(default_factory=list)
    """Rows of the micro-batches whose loss is not finite."""
    norm: float = 0.0
    """Of all gradients, before clipping."""


class Memory:
    """How much of a micro-batch is computed at once on this machine."""

    def __init__(self, fits: int | None, tell: Callable[..., None], device: torch.device) -> None:
        """`fits` is the length that was found to fit before; `tell` is told `(event, **fields)` of a new one."""
        self.fits = fits
        self._tell = tell
        self._best = ON_A_CPU if device.type == "cpu" else None

    def pieces(self, micro: Micro) -> list[Micro]:
        """A micro-batch in parts that fit, at least one row each."""
        most = min((n for n in (self.fits, self._best) if n is not None), default=None)
        if most is None or _total(micro) <= most:
            return [micro]
        parts: list[Micro] = []
        for item in micro:
            if parts and _total([*parts[-1], item]) <= most:
                parts[-1].append(item)
            else:
                parts.append([item])
        return parts

    def too_large(self, piece: Micro, step: int, name: str) -> None:
        """Takes note that `piece` did not fit. Raises `UserError` if it is a single row."""
        if len(piece) == 1:
            help_ = "train less at once, give the dataset a lower `max_seconds`, or take a larger GPU; finished steps are kept"
            raise no_room(f"a row of length {piece[0].length}", name, help_)
        self.fits = max(_total(piece) // 2, max(i.length for i in piece))
        self._tell("memory_split", step=step, fits=self.fits)


def _total(micro: Micro) -> int:
    return sum(i.length for i in micro)


def gradients(
    opened: Opened,
    objective: Objective,
    micro: list[Micro],
    step: int,
    world: World,
    memory: Memory,
    clear: Callable[[], None],
    clip: Callable[[], torch.Tensor],
) -> Gradients:
    """Computes a global batch. `clear` takes the gradients of a try that ran out of memory away, `clip` clips them all and
    gives their norm. What the compiler cannot do is computed again without it.

    Raises `EngineError` if no loss term reaches what trains, `UserError` if a single row does not fit into memory.
    """
    while True:
        clear()
        compiling = fused.compiling()
        try:
            found, failed = _try(opened, objective, micro, step, world, memory, clip)
        except (EngineError, UserError):
            raise
        except Exception as e:  # a backward pass is compiled when it is first run: that way nothing else can be done instead
            if not compiling:
                raise
            fused.refuse(e)
            continue
        if found is not None:
            return found
        assert failed is not None
        if opened.device.type == "cuda":
            torch.cuda.empty_cache()
        memory.too_large(failed, step, objective.name(failed[0]))


def _try(
    opened: Opened,
    objective: Objective,
    micro: list[Micro],
    step: int,
    world: World,
    memory: Memory,
    clip: Callable[[], torch.Tensor],
) -> tuple[Gradients | None, Micro | None]:
    """The gradients, or the piece that did not fit. Returns before anything is tried again, so that its tensors are free."""
    labels: dict[str, int] = {}
    for m in micro:
        for term, n in objective.labels(m, step).items():
            labels[term] = labels.get(term, 0) + n
    found = Gradients(dict.fromkeys(labels, 0.0))
    parts: list[tuple[Micro, str, torch.Tensor]] = []
    for piece in (p for m in mine(micro, world) for p in memory.pieces(m)):
        try:
            parts += ((piece, term, mean) for term, mean in _add(opened, objective, piece, step, labels).items())
        except torch.OutOfMemoryError:
            return None, piece
    anchor: list[torch.Tensor] = []
    extra = objective.extra()
    if extra is not None and world.rank == 0:
        if extra.requires_grad:
            extra.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
        anchor.append(extra.detach())
    # Read once, after everything is on its way: a number that is read waits for the GPU, which then waits for the next launch.
    *known, found.norm = torch.stack([m.float() for m in (*(m for _, _, m in parts), *anchor, clip())]).tolist()
    if anchor:
        found.means["anchor"] = known.pop()
    for (piece, term, _), value in zip(parts, known, strict=True):
        found.means[term] += value
        if not math.isfinite(value):
            found.bad += [i for i in piece if i not in found.bad]
    return found, None


def _add(opened: Opened, objective: Objective, piece: Micro, step: int, labels: dict[str, int]) -> dict[str, torch.Tensor]:
    """Adds a piece's gradients; returns its part of each term's mean."""
    with opened.autocast():
        losses = objective.losses(piece, step)
    means = {term: value / max(1, labels[term]) for term, value in losses.sums.items()}
    terms = [objective.weights[term] * mean for term, mean in means.items() if mean.requires_grad]
    if not terms:
        raise EngineError("no loss term reaches what trains")
    torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
    return {term: mean.detach() for term, mean in means.items()}
