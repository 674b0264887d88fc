"""The stages of a run, one after the other: trained or reused, judged, then kept or reverted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from qrecipe.inputs.documents.verdicts import Verdict
from qrecipe.model.weights import Delta
from qrecipe.recipe.stage import Stage
from qrecipe.run.judging import Baselines, Judge
from qrecipe.run.record import RunStatus, StageOutcome, Status, record_of
from qrecipe.run.session import RunSession
from qrecipe.run.training import Trainer


@dataclass(frozen=True)
class State:
    """The weights at one moment of a run: the base with the new rows and every stage that was kept."""

    fingerprint: str
    delta: Delta

    def then(self, fingerprint: str, delta: Delta) -> State:
        """The state after a stage."""
        return State(fingerprint, self.delta.then(delta))


@dataclass
class RunProgress:
    """How far a run came."""

    state: State
    outcomes: list[StageOutcome] = field(default_factory=list)
    ended: Literal["stopped", "until"] | None = None
    """Why the run ended before `accept`."""


@dataclass(frozen=True)
class StageRunner:
    """Runs the stages of a session."""

    session: RunSession
    judge: Judge
    trainer: Trainer

    def run(self, progress: RunProgress, until: str | None, baselines: Baselines) -> None:
        """Runs every stage, up to the one called `until`. `baselines` are those of the base."""
        finished = False
        for index, stage in enumerate(self.session.recipe.stages):
            if finished:
                progress.outcomes.append(StageOutcome(id=stage.id, status="skipped"))
                self.session.events.emit("stage_skipped", stage=stage.id)
                continue
            outcome = self._run_stage(index, stage, progress, baselines)
            progress.outcomes.append(outcome)
            self.save(progress)
            finished = stage.on_pass == "finish" and all(v.counts_as_pass for v in outcome.verdicts)
            if outcome.status == "failed":
                progress.ended = "stopped"
            elif until == stage.id:
                progress.ended = "until"
            if progress.ended is not None:
                return

    def _run_stage(self, index: int, stage: Stage, progress: RunProgress, baselines: Baselines) -> StageOutcome:
        before = progress.state
        fingerprint = self.session.plan.fingerprint(index, before.fingerprint)
        parameters = self.session.plan.plan.stages[index].parameters
        previous = self.judge.baseline(stage.gates, "previous", before.fingerprint)
        # a result that is stored already is loaded, else the stage is trained, or the rest of it
        stored = self.session.store.load_stage(fingerprint)
        if stored is None:
            about = {"stage": stage.id, "objective": stage.objective, "parameters": parameters, "fingerprint": fingerprint}
            self.session.events.emit("stage_started", **about)
            self.save(progress, training=fingerprint)
            delta, result = self.trainer.train(stage, before.delta, before.fingerprint, fingerprint)
            after = before.then(fingerprint, delta)
        else:
            after, result = before.then(fingerprint, stored.delta), stored.result
            self.session.working.set(after.delta)
            self.session.events.emit("stage_reused", stage=stage.id, fingerprint=fingerprint)
        # the modules hold the stage's result now, whoever put it there
        verdicts = self.judge.judge(stage.gates, fingerprint, stage.id, replace(baselines, previous=previous))
        status = _status(stage, verdicts)
        if status == "reverted":
            self.session.working.set(before.delta)
        else:
            progress.state = after
        survives = result["survives_rounding"]
        self.session.events.emit("stage_finished", stage=stage.id, status=status, survives_rounding=survives)
        return StageOutcome(
            id=stage.id, status=status, fingerprint=fingerprint, parameters=parameters, verdicts=verdicts, survives=survives
        )

    def save(
        self,
        progress: RunProgress,
        training: str | None = None,
        status: RunStatus | Literal["running"] = "running",
        accept: list[Verdict] | None = None,
    ) -> None:
        """Records how far the run came; `training` is the fingerprint of a stage that begins."""
        if not self.session.world.first:
            return
        record = record_of(self.session.plan, progress.outcomes, status, accept or [], training)
        record.write(self.session.store.folder)


def _status(stage: Stage, verdicts: list[Verdict]) -> Status:
    if all(v.counts_as_pass for v in verdicts) or stage.on_fail == "continue":
        return "kept"
    return "reverted" if stage.on_fail == "revert" else "failed"
