"""The training loop of one stage, in one piece: batches, losses over the global batch, clipping, AdamW, selection.

Every loss is a sum over labels divided by the labels of the whole global batch, so that splitting a batch into
micro-batches or over ranks changes nothing but the order of summation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from qrecipe.data.batches import Sampler, World, mine
from qrecipe.errors import EngineError
from qrecipe.model.opened import Opened
from qrecipe.model.weights import Delta, Learner, LearningGroup
from qrecipe.recipe.stage import Stage
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


@dataclass
class Selection:
    """The best step so far by held-out data."""

    best_step: int = 0
    best_value: float = math.inf
    best: Delta | None = None
    history: list[tuple[int, float]] = field(default_factory=list)
    misses: int = 0


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
    evaluate: Callable[[], float] | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_select: Callable[[int, float, bool], None] | None = None,
) -> StageResult:
    """Trains a stage. `evaluate` gives the held-out value that `select` asks for.

    Raises `EngineError` if a group of parameters gets no gradient, or if losses stay non-finite.
    """
    world = world or World()
    total = sampler.steps(stage.epochs, stage.steps)
    optimizer = torch.optim.AdamW(
        [{"params": g.parameters, "lr": g.lr, "weight_decay": g.weight_decay} for g in learner.groups], betas=(0.9, 0.95), eps=1e-8
    )
    peaks = [g.lr for g in learner.groups]
    batches = sampler.batches()
    selection = Selection()
    recent: list[dict[str, float]] = []
    silent = list(learner.groups)  # have had no gradient yet: a batch of replay alone gives none to a language's row
    heard_by = min(total, len(sampler.epoch(0)))
    bad = step = 0
    if evaluate is not None:
        _consider(selection, 0, evaluate(), learner, on_select)
    for step in range(1, total + 1):
        share = rate_at(step, total, stage.warmup, stage.schedule)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * share
        micro = next(batches)
        labels: dict[str, int] = {}
        for m in micro:
            for term, n in objective.labels(m, step).items():
                labels[term] = labels.get(term, 0) + n
        optimizer.zero_grad(set_to_none=True)
        means = dict.fromkeys(labels, 0.0)
        for m in mine(micro, world):
            with opened.autocast():
                losses = objective.losses(m, step)
            terms = []
            for term, value in losses.sums.items():
                mean = value / max(1, labels[term])
                means[term] += float(mean.detach())
                if mean.requires_grad:
                    terms.append(objective.weights[term] * mean)
            if not terms:
                raise EngineError(f"stage {stage.id}: no loss term reaches what trains")
            torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
        extra = objective.extra()
        if extra is not None and world.rank == 0:
            if extra.requires_grad:
                extra.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
            means["anchor"] = float(extra.detach())
        silent = _without_gradient(silent)
        if silent and (step >= heard_by or any(p.grad is None for g in silent for p in g.parameters)):
            raise EngineError(f"stage {stage.id}: `{silent[0].label}` gets no gradient from this objective and data")
        norm = float(torch.nn.utils.clip_grad_norm_(list(learner.parameters()), stage.clip))
        if not math.isfinite(norm) or not all(math.isfinite(v) for v in means.values()):
            bad += 1
            if bad >= MAX_BAD_STEPS:
                raise EngineError(f"stage {stage.id}: losses are not finite in {bad} steps in a row (step {step}); lower the learning rate")
            continue
        bad = 0
        optimizer.step()
        recent.append(means)
        if on_step is not None:
            on_step(StepReport(step, total, means, norm, share))
        if evaluate is not None and stage.select is not None and (step % stage.select.every == 0 or step == total):
            _consider(selection, step, evaluate(), learner, on_select)
            if stage.select.patience is not None and selection.misses >= stage.select.patience:
                break
    if not recent:
        raise EngineError(f"stage {stage.id}: losses are not finite in any of {step} steps; lower the learning rate")
    tail = recent[-max(1, len(recent) // 10) :]
    last = {k: sum(m.get(k, 0.0) for m in tail) / len(tail) for k in tail[-1]}
    if selection.best is not None:
        return StageResult(selection.best, step, selection.best_step, selection.history, last)
    return StageResult(learner.snapshot(), step, step, [], last)


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


def _without_gradient(groups: list[LearningGroup]) -> list[LearningGroup]:
    """Those that this step's loss does not reach. One that no step of an epoch reaches would be a silence."""
    return [g for g in groups if not any(p.grad is not None and bool((p.grad != 0).any()) for p in g.parameters)]
