"""The training loop of one stage, in one piece: batches, losses over the global batch, clipping, AdamW, selection, checkpoints.

Every loss is a sum over labels divided by the labels of the whole global batch, so that splitting a batch into
micro-batches or over ranks changes nothing but the order of summation. A stage that was stopped goes on from its newest
checkpoint and gives, on the CPU, the bytes that it would have given undisturbed.

A GPU is given a step before the numbers of the one before are read, and leaves out by itself what must not be taken.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean, pstdev

import torch

from qrecipe.data.batches import Micro, Sampler, World, mine
from qrecipe.errors import EngineError
from qrecipe.interrupts import at_once, whole
from qrecipe.model import fused
from qrecipe.model.opened import Opened
from qrecipe.model.weights import Delta, Learner, LearningGroup
from qrecipe.recipe.stage import Stage
from qrecipe.train.checkpoints import Checkpoints, Progress, Randomness, Selection, randomness
from qrecipe.train.gradients import Gradients, Memory, Numbers, gradients
from qrecipe.train.objective import Objective


@dataclass(frozen=True)
class StepReport:
    """One optimiser step."""

    step: int
    """From 1."""
    of: int
    losses: dict[str, float]
    """Loss term -> mean over the global batch's labels, nats."""
    gradient_norm: float
    """Before clipping."""
    rate: float
    """Share of the peak learning rate."""


@dataclass(frozen=True)
class _Given:
    """A step that the device was given, and of which nothing is known yet."""

    step: int
    share: float
    """Of the peak learning rate."""
    micro: list[Micro]
    silent: list[int]
    """Groups of parameters that have had no gradient up to it."""
    gradients: Gradients
    drawn: Randomness
    """The generators after it."""


@dataclass
class StageResult:
    """What a stage learned."""

    delta: Delta
    steps: int
    """Steps that were taken."""
    chosen_step: int
    """The step whose weights the result holds."""
    history: list[tuple[int, float]]
    """(step, held-out value) of every selection."""
    losses: dict[str, float]
    """Means over the last tenth of the steps."""


MAX_BAD_STEPS = 5
"""Steps in a row whose loss or gradient is not finite before the stage is given up."""
MAX_BAD_IN_ALL = 50
"""Such steps of a stage in all."""
SPIKE_WINDOW = 32
"""Steps that a loss is compared with."""
SPIKE_AFTER = 16
SPIKE_DEVIATIONS = 6.0
SPIKE_RATIO = 1.5
"""A loss this many standard deviations above the window's mean, and this many times the mean, is reported."""
SHOWN_ROWS = 8


def rate_at(step: int, total: int, warmup: float, schedule: str) -> float:
    """Share of the peak learning rate at a step from 1 to `total`."""
    rising = max(0, math.ceil(warmup * total))
    if step <= rising:
        return step / rising
    if schedule == "constant":
        return 1.0
    left = (total - step) / max(1, total - rising)
    return left if schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))


def train_stage(
    stage: Stage,
    opened: Opened,
    learner: Learner,
    objective: Objective,
    sampler: Sampler,
    *,
    world: World | None = None,
    begin: Callable[[], None] | None = None,
    evaluate: Callable[[], float] | None = None,
    checkpoints: Checkpoints | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_select: Callable[[int, float, bool], None] | None = None,
    tell: Callable[..., None] | None = None,
) -> StageResult:
    """Trains a stage, or the rest of one that was stopped.

    Args:
        begin: done before the first step, and not again by a stage that goes on.
        evaluate: gives the held-out value that `select` asks for.
        checkpoints: where the stage's state is kept; default: nowhere.
        tell: told `(event, **fields)` of what a person should know: skipped steps, spikes, memory.

    Raises `EngineError` if a group of parameters gets no gradient, or if losses stay non-finite.
    """
    world = world or World()
    tell = tell or _silence
    total = sampler.steps(stage.epochs, stage.steps)
    groups = [{"params": g.parameters, "lr": g.lr, "weight_decay": g.weight_decay} for g in learner.groups]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, fused=_by_one_kernel(opened.device))
    peaks = [g.lr for g in learner.groups]
    heard_by = min(total, len(sampler.epoch(0)))
    # Groups without a gradient yet: a batch of replay alone gives none to a language's row.
    at = Progress(silent=list(range(len(learner.groups))), recent=deque(maxlen=max(1, total // 10)), totals=deque(maxlen=SPIKE_WINDOW))
    good = at
    resumed = checkpoints is not None and checkpoints.resume(at, learner, optimizer, objective, opened.device)
    drawn = randomness(opened.device)
    if begin is not None and not resumed:
        begin()
        if checkpoints is not None:
            checkpoints.save(at, learner, optimizer, objective, drawn)
    memory = Memory(at.fits, tell, opened.device)
    clear = partial(optimizer.zero_grad, set_to_none=True)
    clip = partial(torch.nn.utils.clip_grad_norm_, list(learner.parameters()), stage.clip)
    batches = sampler.batches(at.step)
    coming = next(batches)
    silent = at.silent
    given: deque[_Given] = deque()

    def settle(leave: int = 0) -> None:
        """Takes note of what became of steps that the device was given, but for the last few."""
        nonlocal good, drawn
        while len(given) > leave:
            with whole():
                one = given.popleft()
                found = one.gradients.read()
                if found.finite:
                    drawn = one.drawn
                    _taken(at, one, found, objective, tell)
                    if on_step is not None:
                        on_step(StepReport(one.step, total, found.means, found.norm, one.share))
                    continue
                if at.bad_row == 0:
                    good = replace(at, recent=at.recent.copy(), totals=at.totals.copy())
                rows = [objective.name(i) for i in found.bad or [i for m in one.micro for i in m]]
                tell("step_skipped", step=one.step, why="loss" if found.bad else "gradient", rows=rows)
                at.step, at.silent, at.bad_row, at.bad = one.step, one.silent, at.bad_row + 1, at.bad + 1
                if at.bad_row >= MAX_BAD_STEPS or at.bad > MAX_BAD_IN_ALL:
                    if checkpoints is not None:
                        checkpoints.save(good, learner, optimizer, objective, drawn)
                    raise EngineError(_given_up(stage, at, good.step, rows))

    try:
        while True:
            if evaluate is not None and _selects(stage, at, total):
                value = evaluate()
                with whole():
                    _consider(at.selection, at.step, value, learner, on_select)
                    drawn = randomness(opened.device)
            if at.step >= total or _patience_is_over(stage, at.selection):
                break
            step = (given[-1].step if given else at.step) + 1
            share = rate_at(step, total, stage.warmup, stage.schedule)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * share
            micro, coming = coming, next(batches)
            for piece in (p for m in mine(coming, world) for p in memory.pieces(m) if step < total):
                objective.expect(piece, step + 1)
            found = gradients(opened, objective, micro, step, world, memory, clear, clip)
            at.fits = memory.fits
            if (trouble := fused.refused()) is not None:
                tell("compiling", trouble=trouble)
            silent = [i for i in silent if _without_gradient(learner.groups[i])]
            if silent and (step >= heard_by or any(p.grad is None for i in silent for p in learner.groups[i].parameters)):
                raise EngineError(f"stage {stage.id}: `{learner.groups[silent[0]].label}` gets no gradient from this objective and data")
            with whole():
                _update(optimizer, found)
                given.append(_Given(step, share, micro, silent, found, randomness(opened.device)))
            settle(1 if _by_one_kernel(opened.device) and not silent and not _looked_at(stage, step, total) else 0)
            if at.bad_row or at.bad >= MAX_BAD_IN_ALL:
                settle()  # the next one may end the stage: nothing comes after it before that is known
            if checkpoints is not None and step < total and checkpoints.due(step):
                settle()
                if not at.bad_row:
                    checkpoints.save(at, learner, optimizer, objective, drawn)
    except KeyboardInterrupt:
        if checkpoints is not None and not at_once():
            settle()
            checkpoints.save(at, learner, optimizer, objective, drawn)
        raise
    if not at.taken:
        raise EngineError(f"stage {stage.id}: losses are not finite in any of {at.step} steps; lower the learning rate")
    tail = list(at.recent)[-max(1, at.taken // 10) :]
    last = {k: sum(m.get(k, 0.0) for m in tail) / len(tail) for k in tail[-1]}
    best = at.selection
    if best.best is not None:
        return StageResult(best.best, at.step, best.best_step, best.history, last)
    return StageResult(learner.snapshot(), at.step, at.step, [], last)


def _by_one_kernel(device: torch.device) -> bool:
    """Whether AdamW is one kernel, which itself leaves an update out: then the device has its next step before the last one is read."""
    return device.type == "cuda"


def _update(optimizer: torch.optim.Optimizer, found: Gradients) -> None:
    """Moves the weights, unless a loss or a gradient is not finite."""
    if optimizer.defaults["fused"]:
        optimizer.found_inf = found.spoiled  # type: ignore[attr-defined]  # what torch's gradient scaler tells the kernel by
    elif found.spoiled:
        return
    optimizer.step()


def _taken(at: Progress, one: _Given, found: Numbers, objective: Objective, tell: Callable[..., None]) -> None:
    """Takes note of a step that moved the weights."""
    _watch(at, sum(objective.weights.get(k, 1.0) * v for k, v in found.means.items()), one.step, one.micro, objective, tell)
    at.step, at.silent, at.bad_row, at.taken = one.step, one.silent, 0, at.taken + 1
    at.recent.append(found.means)


def _looked_at(stage: Stage, step: int, total: int) -> bool:
    """Whether the weights after a step are judged, or are the result."""
    return step == total or (stage.select is not None and step % stage.select.every == 0)


def _selects(stage: Stage, at: Progress, total: int) -> bool:
    """Whether the held-out value is due at this step and not known yet. A step that was skipped has changed nothing."""
    history = at.selection.history
    if stage.select is None or at.bad_row or (history and history[-1][0] == at.step):
        return False
    return _looked_at(stage, at.step, total)


def _patience_is_over(stage: Stage, selection: Selection) -> bool:
    return stage.select is not None and stage.select.patience is not None and selection.misses >= stage.select.patience


def _consider(
    selection: Selection, step: int, value: float, learner: Learner, on_select: Callable[[int, float, bool], None] | None
) -> None:
    selection.history.append((step, value))
    better = value < selection.best_value
    if better:
        selection.best_step, selection.best_value, selection.best, selection.misses = step, value, learner.snapshot(), 0
    else:
        selection.misses += 1
    if on_select is not None:
        on_select(step, value, better)


def _without_gradient(group: LearningGroup) -> bool:
    """Whether this step's loss does not reach a group. One that no step of an epoch reaches would be a silence."""
    return not any(p.grad is not None and bool((p.grad != 0).any()) for p in group.parameters)


def _watch(at: Progress, loss: float, step: int, micro: list[Micro], objective: Objective, tell: Callable[..., None]) -> None:
    """Reports a loss that leaps out of those before it, with the batch's rows; the step is taken all the same."""
    if len(at.totals) >= SPIKE_AFTER:
        usual, spread = fmean(at.totals), pstdev(at.totals)
        if loss > usual + SPIKE_DEVIATIONS * spread and loss > SPIKE_RATIO * usual:
            tell("loss_spike", step=step, loss=loss, usual=usual, rows=[objective.name(i) for m in micro for i in m])
    at.totals.append(loss)


def _given_up(stage: Stage, at: Progress, good: int, rows: list[str]) -> str:
    shown = ", ".join(rows[:SHOWN_ROWS]) + (f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else "")
    many = f"in {at.bad_row} steps in a row" if at.bad_row >= MAX_BAD_STEPS else f"in {at.bad} steps in all"
    return (
        f"stage {stage.id}: losses or gradients are not finite {many} (step {at.step}, rows {shown}); "
        f"look at these rows, or lower the learning rate; the weights are those of step {good}"
    )


def _silence(event: str, **fields: object) -> None:
    """For whoever does not listen."""
