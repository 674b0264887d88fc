"""The gradient of one step: sums over micro-batches, each divided by the labels of the whole global batch.

That is why a micro-batch that does not fit into the GPU's memory can be split, and one on a CPU is computed in pieces that
its caches hold: nothing changes but the order of summation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from qrecipe.data.batches import Micro, World, mine
from qrecipe.errors import EngineError, UserError
from qrecipe.model import fused
from qrecipe.model.layers import ON_A_CPU
from qrecipe.model.opened import Opened
from qrecipe.model.room import no_room
from qrecipe.train.objective import Objective


@dataclass(frozen=True)
class Numbers:
    """What came of a step's gradients."""

    means: dict[str, float]
    """Loss term -> mean over the global batch's labels, nats."""
    bad: Micro
    """Rows of the micro-batches whose loss is not finite."""
    norm: float
    """Of all gradients, before clipping."""

    @property
    def finite(self) -> bool:
        """Whether a step may be taken by them."""
        return math.isfinite(self.norm) and all(map(math.isfinite, self.means.values()))


@dataclass(frozen=True)
class Gradients:
    """The gradients of a step are on the parameters, or will be as soon as the device has come so far. So with their numbers."""

    terms: list[str]
    """All loss terms of the global batch."""
    parts: list[tuple[Micro, str]]
    """Rows and loss term of every number but the last, the norm; a number without rows belongs to the whole step."""
    found: torch.Tensor
    """[parts + 1] on the CPU."""
    there: torch.cuda.Event | None
    """When `found` holds them; None: it does."""
    spoiled: torch.Tensor
    """[] float32 on the device: 1 where a number is not finite, so that no step may be taken, else 0."""

    def read(self) -> Numbers:
        """Waits for the numbers."""
        if self.there is not None:
            self.there.synchronize()
        *values, norm = self.found.tolist()
        means = dict.fromkeys(self.terms, 0.0)
        bad: Micro = []
        for (rows, term), value in zip(self.parts, values, strict=True):
            means[term] = means.get(term, 0.0) + value
            if not math.isfinite(value):
                bad += [i for i in rows if i not in bad]
        return Numbers(means, bad, norm)


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
    parts: list[tuple[Micro, str]] = []
    values: list[torch.Tensor] = []
    for piece in (p for m in mine(micro, world) for p in memory.pieces(m)):
        try:
            means = _add(opened, objective, piece, step, labels)
        except torch.OutOfMemoryError:
            return None, piece
        parts += ((piece, term) for term in means)
        values += means.values()
    extra = objective.extra()
    if extra is not None and world.rank == 0:
        if extra.requires_grad:
            extra.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
        parts.append(([], "anchor"))
        values.append(extra.detach())
    return _on_their_way(list(labels), parts, torch.stack([v.float() for v in (*values, clip())])), None


def _on_their_way(terms: list[str], parts: list[tuple[Micro, str]], found: torch.Tensor) -> Gradients:
    """Nothing here waits for the device: who reads a number at once does, and then the device waits for the next launch."""
    spoiled = (~found.isfinite()).any().float()
    there = None
    numbers = found.to("cpu", non_blocking=True)
    if found.device.type == "cuda":
        there = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call, unused-ignore]
        there.record()
    return Gradients(terms, parts, numbers, there, spoiled)


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
