"""Training the stages of a run: objective, data and checkpoints of each, put together for `qrecipe.train`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from qrecipe.data.batches import Sampler
from qrecipe.data.states import States
from qrecipe.evaluate.measure import teacher_forced
from qrecipe.files import cache_dir, digest
from qrecipe.model import fused
from qrecipe.model.forward import Tables
from qrecipe.model.weights import Delta, Guard, Learner, survival
from qrecipe.plan.compute import Compute, compute
from qrecipe.plan.fingerprints import NUMERICS
from qrecipe.recipe.stage import EmbeddingMatchStage, SpokenStage, Stage, TextLmStage
from qrecipe.run.locking import lock_stage
from qrecipe.run.session import RunSession
from qrecipe.run.synthetic import SyntheticSpeech
from qrecipe.train.checkpoints import Checkpoints, Every
from qrecipe.train.embedding_match import EmbeddingMatchObjective, Pair, pairs
from qrecipe.train.loop import StageResult, train_stage
from qrecipe.train.objective import Objective
from qrecipe.train.speech import SpeechObjective
from qrecipe.train.text_lm import TextLmObjective

ROOM = 0.9
"""Share of a GPU's memory that a stage may fill by its estimate."""


@dataclass(frozen=True)
class Trainer:
    """What every stage of a run trains with."""

    session: RunSession
    synthetic: SyntheticSpeech
    every: Every
    """How often the state of a stage is stored, beside every interruption."""

    def train(self, stage: Stage, before: Delta, state: str, fingerprint: str) -> tuple[Delta, dict[str, Any]]:
        """Trains a stage, or the rest of one that was stopped, on the weights before it, and keeps its result.

        `state` names those weights, `fingerprint` the result.
        Afterwards the modules hold that result as it is exported, proven to be no more than what the plan trains.
        """
        checkpoints = self._checkpoints(stage, fingerprint)
        delta, result = self._trained(stage, before, state, checkpoints)
        self.session.store.save_stage(fingerprint, delta, result)
        checkpoints.clear()
        return delta, result

    def _checkpoints(self, stage: Stage, fingerprint: str) -> Checkpoints:
        trainable = lock_stage(stage.id, self.session.plan.trainables[stage.id], self.session.base.tensors).model_dump(mode="json")
        return Checkpoints(
            self.session.store.checkpoint_folder(fingerprint),
            trainable,
            self.every,
            lambda event, **fields: self.session.events.emit(event, stage=stage.id, **fields),
        )

    def _trained(self, stage: Stage, before: Delta, state: str, checkpoints: Checkpoints) -> tuple[Delta, dict[str, Any]]:
        self.synthetic.prepare([stage.id], before)
        trainable = self.session.plan.trainables[stage.id]
        torch.manual_seed(self.session.recipe.seed)
        guard = Guard(self.session.opened.net, trainable)
        learner = Learner(self.session.opened.net, trainable, before)
        try:
            with fused.compiled(self._compiles(stage)):
                result = self._learn(stage, learner, state, checkpoints)
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
            "survives_rounding": survives.share,
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
        return why is None

    def _recomputes(self, stage: Stage, found: Compute | None) -> bool:
        """Whether layers are computed again in the backward pass: only where the stage would not fit otherwise."""
        device = self.session.opened.device
        if device.type == "cpu" or found is None:
            return False
        peak, room = found.peak, torch.cuda.get_device_properties(device).total_memory
        if peak <= ROOM * room:
            return False
        self.session.events.emit("recomputing", stage=stage.id, peak=peak, room=room)
        return True

    def _remember(self, stage: Stage, found: Compute, objective: SpeechObjective, tables: Tables, sampler: Sampler, state: str) -> None:
        """Computes once what nothing that trains can change."""
        states = States(cache_dir(), self.session.opened, tables, found.first_layer, [NUMERICS, state])
        steps = sampler.steps(stage.epochs, stage.steps)
        began = time.monotonic()
        size = objective.remember(
            states,
            islice(sampler.batches(), steps),
            lambda done, of: self.session.events.tell("remembering", stage=stage.id, done=done, of=of),
        )
        if size is not None:
            self.session.events.emit("remembered", stage=stage.id, bytes=size, seconds=round(time.monotonic() - began, 3))

    def _learn(self, stage: Stage, learner: Learner, state: str, checkpoints: Checkpoints) -> StageResult:
        seed = int(digest([self.session.recipe.seed, stage.id])[:8], 16)
        found = self._compute(stage)
        learner.tables.recompute = self._recomputes(stage, found)
        objective: Objective
        if isinstance(stage, SpokenStage):
            assert found is not None, "it runs the talker"
            spoken = {u.name: self.synthetic.data.get(u.dataset) or self.session.data.speech[u.dataset] for u in stage.uses}
            objective = SpeechObjective(stage, self.session.opened, learner.tables, spoken, seed, found.terms)
        elif isinstance(stage, EmbeddingMatchStage):
            objective = EmbeddingMatchObjective(stage, self.session.opened, learner.tables, self._words(stage))
        else:
            objective = self._text_objective(stage, learner, seed)
        lengths = objective.lengths()
        shares = {u.name: u.share for u in stage.uses if u.share is not None}
        sampler = Sampler(lengths, shares, stage.batch, seed)
        if isinstance(objective, SpeechObjective) and found is not None and found.cached is not None:
            self._remember(stage, found, objective, learner.tables, sampler, state)
        begin = None
        if isinstance(objective, TextLmObjective):
            fitted = objective

            def begin() -> None:
                batches = sampler.batches()
                last = fitted.fit(
                    lambda: next(batches)[0],
                    lambda step, loss: self.session.events.tell("fitting", stage=stage.id, step=step, of=fitted.stage.fit_steps, loss=loss),
                )
                self.session.events.emit("fitted", stage=stage.id, loss=last)

        evaluate = None
        if stage.select is not None:
            held_out = self.session.data.speech[stage.select.data]
            metric = stage.select.metric

            def evaluate() -> float:
                found = [
                    getattr(item, metric)
                    for layout in self.session.recipe.evaluation.layouts
                    for kind in self.session.recipe.evaluation.kinds
                    for _, item in teacher_forced(self.session.opened, learner.tables, held_out, layout, kind, metrics=[metric])
                ]
                return float(sum(found) / len(found))

        return train_stage(
            stage,
            self.session.opened,
            learner,
            objective,
            sampler,
            begin=begin,
            evaluate=evaluate,
            checkpoints=checkpoints,
            tell=lambda event, **fields: self.session.events.emit(event, stage=stage.id, **fields),
            on_step=lambda r: self.session.events.emit(
                "step",
                stage=stage.id,
                step=r.step,
                of=r.of,
                losses=_rounded(r.losses),
                gradient_norm=round(r.gradient_norm, 5),
                rate=round(r.rate, 5),
            ),
            on_select=lambda step, value, best: self.session.events.emit(
                "select", stage=stage.id, step=step, value=round(value, 6), best=best
            ),
        )

    def _words(self, stage: EmbeddingMatchStage) -> dict[str, list[Pair]]:
        """Words of the stage's texts with their respellings."""
        words = {}
        for use in stage.uses:
            dataset = self.session.plan.synthetic[use.dataset]
            assert dataset.table is not None, "checked by the recipe"
            words[use.name] = pairs(dataset.sentences, dataset.table)
        return words

    def _text_objective(self, stage: TextLmStage, learner: Learner, seed: int) -> TextLmObjective:
        data = {u.use: self.session.data.text[u.use] for u in stage.uses}
        own = [d for d in data.values() if d.language in self.session.recipe.languages]
        special = set(self.session.opened.tokenizer.special.values())
        seen = sorted({t for d in own for body in d.bodies for t in body} - special)
        return TextLmObjective(stage, self.session.opened, learner.tables, data, seen, seed)


def _rounded(losses: dict[str, float]) -> dict[str, float]:
    return {k: round(v, 6) for k, v in losses.items()}
