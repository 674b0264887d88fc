"""The training loop of one stage. The optimiser step is `_Loop._train_step`, in the order in which it happens.

Every loss is a sum over labels divided by the labels of the whole global batch, so that splitting a batch into
micro-batches or over ranks changes nothing but the order of summation. A stage that was stopped resumes from its newest
checkpoint and gives, on the CPU, the bytes that it would have given undisturbed.

Ranks take every step together: what ends a stage, or stores its state, is decided by numbers that all of them have.

A GPU is given a step before the numbers of the one before are read. It skips by itself a step that is not finite.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.nn.utils import clip_grad_norm_

from qrecipe import interrupts
from qrecipe.data.batches import Micro, Sampler
from qrecipe.errors import EngineError, listed
from qrecipe.model.load import LoadedBase
from qrecipe.model.weights import Delta, Learner, LearningGroup
from qrecipe.peers import IN_STEP
from qrecipe.recipe.stage import Stage
from qrecipe.train.accumulate import Accumulator
from qrecipe.train.checkpoints import StageCheckpoints
from qrecipe.train.gradients import GradientSum
from qrecipe.train.numbers import PendingNumbers, StepLosses, StepNumbers
from qrecipe.train.objectives.objective import Objective
from qrecipe.train.observer import Observer, StepReport
from qrecipe.train.optimizer import lr_scale, make_optimizer, set_learning_rates, step_unless_non_finite
from qrecipe.train.progress import HeldOut, Progress

MAX_BAD_STEPS = 5
"""Steps in a row whose loss or gradient is not finite before the stage is given up."""
MAX_BAD_IN_ALL = 50
"""Such steps of a stage in all."""
SHOWN_ROWS = 8


@dataclass(frozen=True)
class Hooks:
    """Parts of a run that the loop calls; all are optional."""

    evaluate: Callable[[int], HeldOut] | None = None
    """Measures the weights of a step for `select`."""
    checkpoints: StageCheckpoints | None = None
    """Keeps the stage's state; None keeps nothing."""
    observer: Observer = field(default_factory=Observer)


@dataclass
class StageResult:
    """The outcome of a stage."""

    delta: Delta
    """Learned weights."""
    steps: int
    """Steps that were taken."""
    chosen_step: int
    """The step whose weights the result holds."""
    history: list[tuple[int, float]]
    """(step, held-out value) of every selection."""
    losses: dict[str, float]
    """Means over the last tenth of the steps."""


def train_stage(
    stage: Stage, base: LoadedBase, learner: Learner, objective: Objective, sampler: Sampler, hooks: Hooks | None = None
) -> StageResult:
    """Trains a stage, or the rest of one that was stopped.

    Raises `EngineError` if a group of parameters gets no gradient, or if losses stay non-finite; `UserError` if a single
    row does not fit into memory.
    """
    return _Loop(stage, base, learner, objective, sampler, hooks or Hooks()).run()


@dataclass(frozen=True)
class _StepInFlight:
    """A step that the device was given and whose numbers have not been read."""

    step: int
    lr_scale: float
    batch: list[Micro]
    silent: list[int]
    """Groups of parameters that have had no gradient up to it."""
    numbers: PendingNumbers


class _Loop:
    """One stage in training."""

    def __init__(self, stage: Stage, base: LoadedBase, learner: Learner, objective: Objective, sampler: Sampler, hooks: Hooks) -> None:
        self.stage, self.base, self.learner, self.objective, self.sampler = stage, base, learner, objective, sampler
        self.evaluate, self.checkpoints = hooks.evaluate, hooks.checkpoints
        self.observer, self.world = hooks.observer, base.world
        self.total = sampler.steps(stage.epochs, stage.steps)
        self.epoch_end = min(self.total, len(sampler.epoch(0)) * sampler.updates)
        """The step by which every group of parameters must have had a gradient."""
        self.optimizer = make_optimizer(stage, learner, base.device, sampler.seed)
        # Groups without a gradient yet: a batch of replay alone gives none to a language's row.
        self.silent = list(range(len(learner.groups)))
        self.progress = Progress(silent=self.silent, recent=deque(maxlen=max(1, self.total // 10)))
        self.last_good = self.progress
        """Progress at the last step that moved the weights: the checkpoint of a stage that is given up."""
        self.in_flight: deque[_StepInFlight] = deque()
        self.gradients = GradientSum(learner.in_order(), self.world)
        self.stop_asked = self.save_asked = False
        """Whether the ranks, by the numbers of a step, have agreed to stop or to store their state."""
        self.save_postponed = False
        """Until the weights have been measured: those of the best step are stored once, in the checkpoint of that step."""
        self.accumulator = Accumulator(base, objective, self.gradients, self.progress, hooks.observer)

    def run(self) -> StageResult:
        """Trains until the last step, or until `select` loses its patience."""
        self._resume_or_fit()
        batches = self.sampler.batches(self.progress.step)
        upcoming = next(batches)
        try:
            while True:
                self._select_if_due()
                if self.progress.step >= self.total or self._out_of_patience():
                    interrupts.check()
                    return self._result()
                step = (self.in_flight[-1].step if self.in_flight else self.progress.step) + 1
                batch, upcoming = upcoming, next(batches)
                if step < self.total:
                    for piece in self.accumulator.pieces(upcoming):
                        self.objective.prefetch(piece, step + 1)
                with self.world.in_step():
                    self._train_step(step, batch)
                    self._checkpoint_if_due(step)
                    if self.stop_asked:
                        interrupts.agreed()
        except KeyboardInterrupt:
            if not interrupts.at_once():
                self._drain()
                self._save()
            raise
        finally:
            self.gradients.close()

    def _train_step(self, step: int, batch: list[Micro]) -> None:
        """One optimiser step on a global batch."""
        scale = lr_scale(step, self.total, self.stage)
        set_learning_rates(self.optimizer, self.learner.groups, scale)

        # An objective that learns from what it says itself says it now, with the weights as they are.
        self.objective.begin_step(self.accumulator.pieces(batch), step)

        # Counted over the GLOBAL batch: splitting it into micro-batches or over ranks changes only rounding.
        labels = self.objective.count_labels(batch)

        # Forward and backward per micro-batch. Where memory ran out, or the compiler failed, gradients are incomplete:
        # this rank starts the step again from zero, in smaller pieces or uncompiled.
        losses = None
        self.gradients.begin_step()
        while losses is None:
            self.optimizer.zero_grad(set_to_none=True)
            losses = self.accumulator.accumulate(batch, step, labels)

        # Summed over the ranks, which from here on all compute the same.
        self._require_gradients_here()
        self.gradients.finish(step)
        means = self._summed_means(losses, step)
        grad_norm = clip_grad_norm_(list(self.learner.parameters()), self.stage.clip)
        self._require_gradients(step)

        # On a GPU nothing here waits for the device: its numbers are read one step later. Ctrl-C must not come between
        # the weights and the record of the step that moved them.
        with interrupts.whole():
            pending = PendingNumbers(losses, means, grad_norm)
            step_unless_non_finite(self.optimizer, pending.deciding)
            self.in_flight.append(_StepInFlight(step, scale, batch, self.silent, pending))
        self._drain(keep=1 if self._may_overlap(step) else 0)

    def _summed_means(self, losses: StepLosses, step: int) -> torch.Tensor:
        """Means of the losses over the global batch, on the device; with several ranks, what they ask of one another after them."""
        means = losses.means(self.base.device)
        if self.world.alone:
            return means
        save = self.world.first and self.checkpoints is not None and self.checkpoints.due(step)
        flags = torch.tensor([float(interrupts.pending()), float(save)], dtype=torch.float64)
        means = torch.cat([means, flags.to(self.base.device, non_blocking=True)])
        self.world.finish(self.world.sum_tensors([means]), f"{IN_STEP}, step {step}")
        return means

    def _require_gradients_here(self) -> None:
        """Raises `EngineError` for a group that this rank's loss cannot reach; a rank without rows cannot tell."""
        for i in self.silent if any(p.grad is not None for p in self.learner.parameters()) else ():
            self._require(i, all(p.grad is not None for p in self.learner.groups[i].parameters))

    def _require_gradients(self, step: int) -> None:
        """Raises `EngineError` for a group that the loss did not reach in an epoch: it would learn nothing."""
        self.silent = [i for i in self.silent if not _has_gradient(self.learner.groups[i])]
        for i in self.silent:
            self._require(i, step < self.epoch_end)

    def _require(self, group: int, reached: bool) -> None:
        if not reached:
            label = self.learner.groups[group].label
            raise EngineError(f"stage {self.stage.id}: `{label}` gets no gradient from this objective and data")

    def _may_overlap(self, step: int) -> bool:
        """Whether the device may be given another step before the numbers of this one are read."""
        if not self.optimizer.defaults["fused"]:
            return False  # the host must decide whether the step is taken
        if self.silent:
            return False  # the host must look into the next gradients anyway
        return not self._weights_are_read_after(step)

    def _weights_are_read_after(self, step: int) -> bool:
        """Whether the weights after a step are evaluated, or are the result."""
        return step == self.total or (self.stage.select is not None and step % self.stage.select.every == 0)

    def _drain(self, keep: int = 0) -> None:
        """Reads the numbers of steps in flight, oldest first, until `keep` are left.

        Reads all of them after a skipped step: the next may end the stage, and nothing may move the weights after that.
        """
        while len(self.in_flight) > keep or (self.in_flight and self._may_give_up()):
            with interrupts.whole():
                step = self.in_flight.popleft()
                with self.world.waiting(f"{IN_STEP}, step {step.step}"):
                    numbers = step.numbers.read()
                if numbers.flags:
                    self.stop_asked |= numbers.flags[0] > 0
                    self.save_asked |= numbers.flags[1] > 0
                if numbers.finite:
                    self._record_taken(step, numbers)
                else:
                    self._record_skipped(step, numbers)

    def _may_give_up(self) -> bool:
        return self.progress.bad_row > 0 or self.progress.bad >= MAX_BAD_IN_ALL

    def _record_taken(self, step: _StepInFlight, numbers: StepNumbers) -> None:
        """A step that moved the weights. A loss that leaps is reported with its rows, and the step counts all the same."""
        progress = self.progress
        loss = sum(self.objective.weights.get(k, 1.0) * v for k, v in numbers.means.items())
        if (usual := progress.spike_over(loss)) is not None:
            self.observer.event("loss_spike", step=step.step, loss=loss, usual=usual, rows=self._names(step.batch))
        progress.totals.append(loss)
        progress.recent.append(numbers.means)
        progress.step, progress.silent = step.step, step.silent
        progress.bad_row, progress.taken = 0, progress.taken + 1
        self.observer.step(StepReport(step.step, self.total, numbers.means, numbers.norm, step.lr_scale))

    def _record_skipped(self, step: _StepInFlight, numbers: StepNumbers) -> None:
        """A step that was left out. Raises `EngineError` after too many, with the last good step's checkpoint saved."""
        progress = self.progress
        if progress.bad_row == 0:
            self.last_good = progress.copy()
        bad = [row for rows in self.world.exchange(self._names([numbers.bad]), "naming bad rows") for row in rows]
        rows = bad or self._names(step.batch)
        self.observer.event("step_skipped", step=step.step, why="loss" if bad else "gradient", rows=rows)
        progress.step, progress.silent = step.step, step.silent
        progress.bad_row, progress.bad = progress.bad_row + 1, progress.bad + 1
        if progress.bad_row >= MAX_BAD_STEPS or progress.bad > MAX_BAD_IN_ALL:
            if self.checkpoints is not None:
                self.checkpoints.save(self.last_good, self.learner, self.optimizer, self.objective)
            raise EngineError(self._why_given_up(rows))

    def _why_given_up(self, rows: list[str]) -> str:
        progress = self.progress
        shown = listed(rows, SHOWN_ROWS)
        in_a_row = progress.bad_row >= MAX_BAD_STEPS
        many = f"in {progress.bad_row} steps in a row" if in_a_row else f"in {progress.bad} steps in all"
        return (
            f"stage {self.stage.id}: losses or gradients are not finite {many} (step {progress.step}, rows {shown}); "
            f"look at these rows, or lower the learning rate; the weights are those of step {self.last_good.step}"
        )

    def _names(self, batch: list[Micro]) -> list[str]:
        return [self.objective.name(item) for micro in batch for item in micro]

    def _resume_or_fit(self) -> None:
        """Resumes from the newest checkpoint; without one, lets the objective fit what it needs before the first step.

        The first rank looks and fits, and the others resume from what it has stored.
        """
        first = self.world.first or self.checkpoints is None
        resumed = first and self._resume()
        if first and not resumed:
            self.objective.fit(self.sampler.batches(), self.observer)
            if self.checkpoints is not None and self.objective.state():
                self.checkpoints.save(self.progress, self.learner, self.optimizer, self.objective)
                resumed = True
        expected = self.world.from_first(lambda: [resumed, self.progress.step], "fitting or resuming")
        if first:
            return
        if expected[0] != self._resume() or expected[1] != self.progress.step:
            raise EngineError(f"stage {self.stage.id}: the first rank resumes after step {expected[1]}, and rank {self.world.rank} cannot")

    def _resume(self) -> bool:
        """Takes over the newest checkpoint, if there is one."""
        if self.checkpoints is None or not self.checkpoints.resume(self.progress, self.learner, self.optimizer, self.objective):
            return False
        self.silent = self.progress.silent
        self.accumulator.keep_to_what_fits()
        return True

    def _checkpoint_if_due(self, step: int) -> None:
        """Saves the state, except after a skipped step: the checkpoint before it is as good."""
        due = self.checkpoints is not None and self.checkpoints.due(step) if self.world.alone else self.save_asked
        if self.checkpoints is None or step >= self.total or not due:
            return
        self._drain()
        self.save_asked = False
        if self.evaluate is not None and self._weights_are_read_after(step):
            self.save_postponed = True
        elif not self.progress.bad_row:
            self._save()

    def _save(self) -> None:
        self.save_postponed = False
        if self.checkpoints is not None:
            with self.world.saving():
                self.checkpoints.save(self.progress, self.learner, self.optimizer, self.objective)

    def _select_if_due(self) -> None:
        """Evaluates the weights where `select` asks for it, once a step. A skipped step has changed nothing."""
        progress, selection = self.progress, self.progress.selection
        if self.evaluate is None or self.stage.select is None or progress.bad_row:
            return
        if selection.history and selection.history[-1][0] == progress.step:
            return  # known already: the stage was stopped just after it
        if not self._weights_are_read_after(progress.step):
            return
        interrupts.check()
        mine = self.evaluate(progress.step)
        held_out = HeldOut(*self.world.from_first(lambda: [mine.value, mine.score], "choosing the best step"))
        with interrupts.whole():
            selection.history.append((progress.step, held_out.value))
            better = held_out.score < selection.best_score
            if better:
                selection.best_step, selection.best_score = progress.step, held_out.score
                selection.best, selection.misses = self.learner.state(), 0
            else:
                selection.misses += 1
            self.observer.selected(progress.step, held_out.value, better)
        # before the first step there is nothing that starting again would lose
        if progress.step and (better or self.save_postponed):
            self._save()
        if self._out_of_patience():
            since = self.objective.since(selection.best_step)
            self.observer.event("stopped_early", step=progress.step, best_step=selection.best_step, **since)

    def _out_of_patience(self) -> bool:
        select = self.stage.select
        return select is not None and select.patience is not None and self.progress.selection.misses >= select.patience

    def _result(self) -> StageResult:
        """The best step by held-out data, or the last one. Raises `EngineError` if no step moved the weights."""
        progress, selection = self.progress, self.progress.selection
        if not progress.taken:
            raise EngineError(f"stage {self.stage.id}: losses are not finite in any of {progress.step} steps; lower the learning rate")
        losses = progress.mean_losses()
        if selection.best is not None:
            self.learner.set_state(selection.best)
            return StageResult(self.learner.snapshot(), progress.step, selection.best_step, selection.history, losses)
        return StageResult(self.learner.snapshot(), progress.step, progress.step, selection.history, losses)


def _has_gradient(group: LearningGroup) -> bool:
    return any(p.grad is not None and bool((p.grad != 0).any()) for p in group.parameters)
