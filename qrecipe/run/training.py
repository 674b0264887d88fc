"""Training the stages of a run: objective, data and checkpoints of each, put together for `qrecipe.train`."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from qrecipe.data.batches import Sampler
from qrecipe.data.states import States
from qrecipe.files import cache_dir, digest
from qrecipe.model import generate
from qrecipe.model.batcher import memory_of
from qrecipe.model.forward import Tables
from qrecipe.model.kernels import fused
from qrecipe.model.weights import Delta, Guard, Learner, survival
from qrecipe.phases import phase
from qrecipe.plan.compute import Compute, compute
from qrecipe.plan.fingerprints import NUMERICS
from qrecipe.recipe.stage import RewardStage, Stage
from qrecipe.run.compile_ahead import CompileAhead
from qrecipe.run.events import Events
from qrecipe.run.locking import lock_stage
from qrecipe.run.rewarding import RunRewarder, rewarded_texts
from qrecipe.run.selecting import Selector
from qrecipe.run.session import RunSession
from qrecipe.run.synthetic import SyntheticSpeech
from qrecipe.train.checkpoints import Every, StageCheckpoints
from qrecipe.train.loop import Hooks, StageResult, train_stage
from qrecipe.train.objectives import build_objective
from qrecipe.train.objectives.objective import Objective, ObjectiveInputs
from qrecipe.train.observer import Observer, StepReport

ROOM = 0.9
"""Share of a GPU's memory that a stage may fill by its estimate."""


@dataclass(frozen=True)
class Trainer:
    """Trains the stages of a run."""

    session: RunSession
    synthetic: SyntheticSpeech
    every: Every
    """How often the state of a stage is stored, beside every interruption."""
    ahead: CompileAhead
    """The process that compiles stages before their turn."""

    @phase("training")
    def train(self, stage: Stage, before: Delta, state: str, fingerprint: str) -> tuple[Delta, dict[str, Any]]:
        """Trains a stage, or the rest of one that was stopped, on the weights before it, and keeps its result.

        `state` names those weights, `fingerprint` the result.
        Afterwards the modules hold that result as it is exported, proven to be no more than what the plan trains.
        """
        checkpoints = self._checkpoints(stage, fingerprint)
        delta, result = self._trained(stage, before, (state, fingerprint), checkpoints)
        checkpoints.keep_newest()
        self.session.store.save_stage(fingerprint, delta, result)
        if not self.session.world.alone:
            delta = self._of_first(fingerprint, before)
        checkpoints.clear()
        return delta, result

    def _of_first(self, fingerprint: str, before: Delta) -> Delta:
        """The result as the first rank has stored it: where GPUs differ in a last digit, all go on with the same weights."""
        stored = self.session.store.load_stage(fingerprint)
        assert stored is not None, "the first rank has just stored it"
        if not self.session.world.first:
            self.session.working.set(before.then(stored.delta))
        return stored.delta

    def _checkpoints(self, stage: Stage, fingerprint: str) -> StageCheckpoints:
        trainable = lock_stage(stage.id, self.session.plan.trainables[stage.id], self.session.base.tensors).model_dump(mode="json")
        return StageCheckpoints(
            self.session.store.checkpoint_folder(fingerprint),
            trainable,
            replace(self.every, keep=self.session.recipe.checkpoints.keep),
            StageEvents(self.session.events, stage.id),
            self.session.world.rank,
        )

    def _trained(self, stage: Stage, before: Delta, states: tuple[str, str], checkpoints: StageCheckpoints) -> tuple[Delta, dict[str, Any]]:
        self.synthetic.prepare([stage.id], before)
        generate.release(self.session.opened)
        trainable = self.session.plan.trainables[stage.id]
        torch.manual_seed(self.session.recipe.seed)
        guard = Guard(self.session.opened.net, trainable)
        learner = Learner(self.session.opened.net, trainable, before, stage.masters)
        try:
            with fused.compiled(self._compiles(stage)):
                result = self._learn(stage, learner, before, states, checkpoints)
        finally:
            learner.close()
            self.session.opened.reset()
        survives = survival(self.session.opened.net, result.delta, self.session.opened.export_dtype)
        self.session.working.set(before.then(result.delta))
        guard.check(self.session.opened.net)
        return result.delta, {
            "stage": stage.id,
            "steps": result.steps,
            "chosen_step": result.chosen_step,
            "history": result.history,
            "losses": result.losses,
            "survives_rounding": survives,
        }

    def _compute(self, stage: Stage) -> Compute | None:
        return compute(stage, self.session.plan.trainables[stage.id], self.session.base.tensors, None)

    def _compiles(self, stage: Stage) -> bool:
        """Whether the stage is compiled; says why not where it was asked for."""
        device = self.session.opened.device
        if stage.compile == "off" or device.type == "cpu":
            return False
        why = fused.trouble(device)
        self.session.events.emit("compiling", stage=stage.id, trouble=why)
        self.ahead.wait(stage.id)
        return why is None

    def _recomputes(self, stage: Stage, cost: Compute | None) -> bool:
        """Whether layers are computed again in the backward pass: only where the stage would not fit otherwise."""
        device = self.session.opened.device
        if device.type == "cpu" or cost is None:
            return False
        peak, room = cost.peak, memory_of(device)
        if peak <= ROOM * room:
            return False
        self.session.events.emit("recomputing", stage=stage.id, peak=peak, room=room)
        return True

    @phase("caching states")
    def _cache_states(self, stage: Stage, cost: Compute, objective: Objective, tables: Tables, sampler: Sampler, state: str) -> None:
        """Computes once what nothing that trains can change."""
        states = States(cache_dir(), self.session.opened, tables, cost.first_layer, [NUMERICS, state])
        steps = sampler.steps(stage.epochs, stage.steps)
        began = time.monotonic()
        size = objective.cache_states(
            states,
            islice(sampler.batches(), steps),
            lambda done, of: self.session.events.tell("remembering", stage=stage.id, done=done, of=of),
        )
        if size is not None:
            self.session.events.emit("remembered", stage=stage.id, bytes=size, seconds=round(time.monotonic() - began, 3))

    def _learn(
        self, stage: Stage, learner: Learner, weights_before: Delta, states: tuple[str, str], checkpoints: StageCheckpoints
    ) -> StageResult:
        before, fingerprint = states
        seed = int(digest([self.session.recipe.seed, stage.id])[:8], 16)
        cost = self._compute(stage)
        learner.tables.recompute = self._recomputes(stage, cost)
        inputs = self._inputs(stage, learner, seed, cost.terms if cost is not None else ())
        if isinstance(stage, RewardStage):
            rewarder = RunRewarder(self.session, stage, learner, weights_before)
            rewarder.prepare()
            inputs = replace(inputs, rewarder=rewarder)
        objective = build_objective(stage, inputs)
        shares = {u.name: u.share for u in stage.uses if u.share is not None}
        sampler = Sampler(objective.lengths(), shares, stage.batch, seed, objective.updates)
        if cost is not None and cost.cached is not None:
            self._cache_states(stage, cost, objective, learner.tables, sampler, before)
        select = self.session.plan.selects.get(stage.id)
        selector = Selector(self.session, select, learner, fingerprint) if select is not None else None
        hooks = Hooks(selector.held_out if selector is not None else None, checkpoints, StageEvents(self.session.events, stage.id))
        return train_stage(stage, self.session.opened, learner, objective, sampler, hooks)

    def _inputs(self, stage: Stage, learner: Learner, seed: int, terms: Collection[str]) -> ObjectiveInputs:
        """The data of a stage by the names of its uses; a text dataset may be read, spoken by the base, or respelled."""
        session = self.session
        speech = {**session.data.speech, **self.synthetic.data}
        if isinstance(stage, RewardStage):
            speech |= rewarded_texts(session, stage)
        synthetic = {u.name: session.plan.synthetic[u.dataset] for u in stage.uses if u.dataset in session.plan.synthetic}
        return ObjectiveInputs(
            self.session.opened,
            learner.tables,
            seed,
            self.session.recipe.languages,
            terms,
            {u.name: speech[u.dataset] for u in stage.uses if u.dataset in speech},
            {u.name: self.session.data.text[u.dataset] for u in stage.uses if u.dataset in self.session.data.text},
            {name: (d.sentences, d.table) for name, d in synthetic.items() if d.table is not None},
        )


class StageEvents(Observer):
    """Passes a stage's reports on as events of the run."""

    def __init__(self, events: Events, stage: str) -> None:
        self._events = events
        self._stage = stage

    def step(self, report: StepReport) -> None:
        """Recorded with rounded numbers."""
        self.event(
            "step",
            step=report.step,
            of=report.of,
            losses=_rounded(report.losses),
            gradient_norm=round(report.gradient_norm, 5),
            rate=round(report.lr_scale, 5),
            memory=peak_memory(),
        )

    def selected(self, step: int, value: float, best: bool) -> None:
        """Recorded."""
        self.event("select", step=step, value=round(value, 6), best=best)

    def event(self, kind: str, **fields: object) -> None:
        """Recorded."""
        self._events.emit(kind, stage=self._stage, **fields)

    def progress(self, kind: str, **fields: object) -> None:
        """Shown alone."""
        self._events.tell(kind, stage=self._stage, **fields)


def peak_memory() -> int:
    """Most bytes that this process has held so far: of its GPU where it uses one, else of the machine's memory."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _rounded(losses: dict[str, float]) -> dict[str, float]:
    return {k: round(v, 6) for k, v in losses.items()}
