"""Carrying out a plan: languages, data, self-check, stages with their gates, `accept`, bundle."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from qrecipe.bundle.build import Content, build, refuse_other
from qrecipe.data.codes import Encoder
from qrecipe.errors import EngineError, UserError
from qrecipe.evaluate.listeners import Listeners
from qrecipe.model.forward import Tables
from qrecipe.model.languages import check_free, initial_rows, require_free
from qrecipe.model.opened import open_model
from qrecipe.model.weights import Delta
from qrecipe.model.working import WorkingWeights
from qrecipe.plan.complete import RunPlan
from qrecipe.plan.documents import Lock, Verdict
from qrecipe.recipe.checks import gates_with_nodes
from qrecipe.recipe.stage import Stage
from qrecipe.run import disk
from qrecipe.run.datasets import needed, prepare_all
from qrecipe.run.events import Events, Listener
from qrecipe.run.judging import Judge
from qrecipe.run.locking import differences, lock_path, make_lock, read_lock, require_lock, write_lock
from qrecipe.run.reasons import Standing, inputs_of, standings
from qrecipe.run.record import Outcome, RecordedBase, RunRecord, RunStatus, StageOutcome, Status
from qrecipe.run.store import RunStore
from qrecipe.run.synthetic import SyntheticSpeech
from qrecipe.run.training import Trainer
from qrecipe.store import Journal
from qrecipe.train import selfcheck
from qrecipe.train.checkpoints import Every


@dataclass(frozen=True)
class RunOptions:
    """Where and how a plan is carried out."""

    runs: Path
    """Folder of run folders."""
    bundles: Path
    """Folder of bundles."""
    until: str | None = None
    """Stop after this stage."""
    every: Every = field(default_factory=Every)
    """How often the state of a stage is stored, beside every interruption."""
    locked: bool = False
    """Refuse whatever differs from the lock beside the recipe."""
    fresh: bool = False
    """Put the run's folder aside and start over."""


def run(plan: RunPlan, options: RunOptions, listener: Listener | None = None) -> Outcome:
    """Carries out a plan, which is the one that was shown: nothing is planned here.

    `listener` gets every event, and progress that is not recorded.

    Raises `UserError` for what a person can mend, `EngineError` for a promise that did not hold.
    """
    if options.locked:
        require_lock(plan)
    store = RunStore(options.runs / plan.plan.recipe)
    aside = store.put_aside() if options.fresh else None
    with store.held():
        events = Events(store.folder / "events.jsonl", listener)
        try:
            if aside is not None:
                events.tell("put_aside", path=str(aside))
            return _Run(plan, options, store, events).carry_out()
        except BaseException as e:
            with suppress(OSError):  # on a full disk the reason itself has no room
                events.emit("run_failed", error=type(e).__name__, message=str(e)[:2000])
            raise
        finally:
            events.close()


class _Run:
    """One run, from the opened base to the bundle. Methods are in the order in which they happen."""

    def __init__(self, planned: RunPlan, options: RunOptions, store: RunStore, events: Events) -> None:
        if planned.plan.base.identity != planned.base.identity:
            raise EngineError(f"the plan was made for {planned.plan.base.identity} and the base is {planned.base.identity}")
        self.planned = planned
        self.plan = planned.plan
        self.recipe = planned.loaded.recipe
        self.base = planned.base
        self.hashes = planned.hashes
        self.options = options
        self.store = store
        self.events = events
        self.outcomes: list[StageOutcome] = []
        self.state: tuple[str, ...] = ()
        """Fingerprints of the kept stages, the start first; each holds the ones before it."""

    def carry_out(self) -> Outcome:
        refuse_other(self.plan, self.options.bundles)
        found = self._say_what_changed()
        lock = make_lock(self.planned)
        path = lock_path(self.planned.loaded.file)
        written = self.options.locked or self._write_lock(lock, path)
        opened = open_model(self.base)
        device = torch.cuda.get_device_name() if opened.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        self.events.emit(
            "run_started",
            recipe=self.recipe.name,
            plan=self.plan.hash,
            device=device,
            lock=str(path) if written else None,
            stages=found,
        )
        self.opened = opened
        self.working = WorkingWeights(opened)
        self._start_languages()
        encoder = Encoder(opened, self.base, self.hashes)
        self.data = prepare_all(self.planned, encoder, needed(self.planned), self.events)
        self.judge = Judge(
            opened,
            self.data.speech,
            self.plan.datasets,
            self.recipe.evaluation,
            self._listeners(),
            self.store,
            self.events,
            self.state[0],
        )
        synthetic = SyntheticSpeech(self.planned, encoder, self.working, self.start, self.events)
        self.trainer = Trainer(
            self.planned, self.base, opened, self.working, self.data, synthetic, self.store, self.events, self.options.every
        )
        self._self_check()
        self._try_gates()
        synthetic.prepare([s for s, standing in found.items() if standing != str(Standing("done", []))], self.start)
        ended = self._stages(self.options.until)
        accept = self.judge.judge(self.recipe.accept, self.state[-1], "accept", {"base": self.base_values}) if ended is None else []
        accepted = ended is None and all(v.counts_as_pass for v in accept)
        bundle = self._bundle(lock, accept) if accepted else None
        status: RunStatus = ended or ("accepted" if accepted else "rejected")
        outcome = Outcome(status, bundle, self.outcomes, accept)
        self._save(outcome)
        self._page(accept)
        self.events.emit("run_finished", **outcome.as_json())
        opened.close()
        return outcome

    def _listeners(self) -> Listeners:
        """The recipe's evaluators."""
        loaded = self.planned.loaded
        tags = {k: v.bcp47 for k, v in self.recipe.languages.items()}
        places = {need: loaded.node.at("evaluators", need).place for need in ("asr", "speaker", "mos")}
        journal = Journal(self.store.folder / "heard.jsonl")
        return Listeners(self.opened, self.base.identity, self.recipe.evaluators, loaded.root, tags, places, self.hashes, journal)

    def _try_gates(self) -> None:
        """A gate that cannot fail must not decide."""
        if self.recipe.evaluation.probe_gates:
            self.judge.require_sound([(g, n.place) for g, n in gates_with_nodes(self.recipe, self.planned.loaded.node)])

    def _say_what_changed(self) -> dict[str, str]:
        """Before anything happens: which stages are reused, go on, or train again, and why. And whether there is room."""
        found = standings(self.planned, self.store.folder, self.hashes)
        for stage, standing in found.items():
            self.events.tell("stage_standing", stage=stage, state=standing.state, text=str(standing))
        done = [stage for stage, standing in found.items() if standing.state == "done"]
        needed = disk.needs(self.planned, self.store.folder, self.options.bundles, done, self.hashes)
        disk.require(needed, lambda **f: self.events.tell("disk", **f))
        inputs_of(self.planned, self.hashes).write(self.store.folder)
        return {stage: str(standing) or standing.state for stage, standing in found.items()}

    def _write_lock(self, lock: Lock, path: Path) -> bool:
        try:
            changed = differences(read_lock(path), lock)
        except UserError:  # none yet, or one that was edited: it is written anew
            changed = []
        if changed:
            self.events.tell("lock_changed", path=str(path), differences=changed)
        return write_lock(lock, path)

    def _start_languages(self) -> None:
        """New rows at their init, and the languages in the config in memory, as the bundle's config will have them."""
        listed = self.base.languages
        chosen = {}
        for key, language in self.recipe.languages.items():
            row = self.planned.rows[key]
            node = self.planned.loaded.node.at("languages", key)
            require_free(check_free(self.opened.net, row, listed, (node.key_place or node.place), language.token_id == "auto"))
            chosen[key] = (row, language)
        self.working.add_languages({k: row for k, (row, _) in chosen.items()})
        self.start = initial_rows(self.opened.net, chosen, listed)
        self.kept: list[Delta] = [self.start]
        self.state = (self.planned.start,)
        self.working.set(self.start)
        self.store.save_stage(self.state[0], self.start, {"stage": None})
        self.events.emit("languages", rows={k: row for k, (row, _) in chosen.items()})

    def _self_check(self) -> None:
        """A misaligned engine must not train."""
        trained = [n for n in self.data.speech if n in self.recipe.trained_datasets()]
        if not trained:
            self.events.emit("self_check", verdict="skipped", reason="the recipe trains on text alone", losses=[])
            return
        known = [n for n in trained if self.data.speech[n].language in self.base.languages] or trained
        data = self.data.speech[known[0]]
        row = self.opened.language_row(data.language)
        examples = [data.example(r, row, "streaming", None, self.opened.tokenizer) for r in data.rows[: selfcheck.ROWS]]
        found = selfcheck.measure(self.opened, Tables(self.opened.talker), examples)
        verdict = next((v for v in ("failed", "skipped") if any(a.verdict == v for a in found)), "passed")
        reason = None
        if verdict == "skipped":
            reason = "the base predicts these recordings too poorly to tell"
        self.events.emit("self_check", verdict=verdict, reason=reason, losses=[str(a) for a in found])
        selfcheck.require(found)

    def _stages(self, until: str | None) -> Literal["stopped", "until"] | None:
        """Trains and judges the stages; returns why the run ends before `accept`, or None."""
        self.base_values = self.judge.baseline(self.recipe.gates(), "base", self.state[-1])
        self.judge.demonstrate(self.recipe.gates(), self.state[-1])
        finished = False
        for i, stage in enumerate(self.recipe.stages):
            if finished:
                self.outcomes.append(StageOutcome(id=stage.id, status="skipped"))
                self.events.emit("stage_skipped", stage=stage.id)
                continue
            outcome = self._stage(i, stage)
            self.outcomes.append(outcome)
            self._save(None)
            if outcome.status == "failed":
                return "stopped"
            passed = all(v.counts_as_pass for v in outcome.verdicts)
            finished = passed and stage.on_pass == "finish"
            if until == stage.id:
                return "until"
        return None

    def _stage(self, index: int, stage: Stage) -> StageOutcome:
        planned = self.plan.stages[index]
        fingerprint = self.planned.fingerprint(index, self.state[-1])
        before = _merged(self.kept)
        previous = self.judge.baseline(stage.gates, "previous", self.state[-1])
        stored = self.store.load_stage(fingerprint)
        if stored is None:
            self.events.emit(
                "stage_started", stage=stage.id, objective=stage.objective, parameters=planned.parameters, fingerprint=fingerprint
            )
            self._save(None, fingerprint)
            delta, result = self.trainer.train(stage, before, self.state[-1], fingerprint)
        else:
            delta, result = stored.delta, stored.result
            self.working.set(before.then(delta))
            self.events.emit("stage_reused", stage=stage.id, fingerprint=fingerprint)
        self.kept.append(delta)
        self.state = (*self.state, fingerprint)
        verdicts = self.judge.judge(stage.gates, fingerprint, stage.id, {"base": self.base_values, "previous": previous})
        status: Status = "kept"
        if not all(v.counts_as_pass for v in verdicts) and stage.on_fail != "continue":
            status = "reverted" if stage.on_fail == "revert" else "failed"
        if status == "reverted":
            self.kept.pop()
            self.state = self.state[:-1]
            self.working.set(before)
        self.events.emit("stage_finished", stage=stage.id, status=status, survives_rounding=result["survives_rounding"])
        return StageOutcome(
            id=stage.id,
            status=status,
            fingerprint=fingerprint,
            parameters=planned.parameters,
            verdicts=verdicts,
            survives=result["survives_rounding"],
        )

    def _bundle(self, lock: Lock, accept: list[Verdict]) -> Path:
        content = Content(
            plan=self.plan,
            base=self.base,
            delta=_merged(self.kept),
            lock=lock,
            recipe=self.planned.loaded.resolved(),
            stages=[o.for_bundle() for o in self.outcomes],
            verdicts={o.id: o.verdicts for o in self.outcomes} | {"accept": accept},
            survival={o.id: o.survives for o in self.outcomes if o.survives is not None and o.status == "kept"},
            accepted=True,
        )
        target = build(content, self.options.bundles)
        self.events.emit("bundle", path=str(target))
        return target

    def _page(self, accept: list[Verdict]) -> None:
        """What the base and every stage said, side by side."""
        trained = [(o.id, o.fingerprint) for o in self.outcomes if o.fingerprint is not None]
        verdicts = {o.id: o.verdicts for o in self.outcomes if o.verdicts} | ({"accept": accept} if accept else {})
        self.judge.page(f"{self.recipe.name} {self.recipe.version}", [("base", self.state[0]), *trained], verdicts)

    def _save(self, outcome: Outcome | None, training: str | None = None) -> None:
        """Keeps how far the run has come; `outcome` once it is over, `training` is the fingerprint of a stage that begins."""
        base = self.recipe.base
        record = RunRecord(
            recipe=self.recipe.name,
            status=outcome.status if outcome else "running",
            file=str(self.planned.loaded.file),
            sets=list(self.planned.loaded.sets),
            start=self.state[0],
            training=training,
            plan=self.plan.hash,
            base=RecordedBase(model=base.model, revision=base.revision, folder=str(self.base.folder)),
            languages=self.planned.rows,
            stages=self.outcomes,
            accept=outcome.accept if outcome else [],
        )
        record.write(self.store.folder)


def _merged(deltas: Sequence[Delta]) -> Delta:
    merged = Delta()
    for delta in deltas:
        merged = merged.then(delta)
    return merged
