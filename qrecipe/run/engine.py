"""Carrying out a plan: languages, data, self-check, stages with their gates, `accept`, bundle."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from qrecipe.bundle.build import Content, build, refuse_other
from qrecipe.data.batches import Sampler
from qrecipe.data.codes import Encoder
from qrecipe.errors import EngineError, UserError
from qrecipe.evaluate.listeners import Listeners
from qrecipe.evaluate.measure import teacher_forced
from qrecipe.evaluate.memory import Memory
from qrecipe.files import FileHashes, digest
from qrecipe.model.forward import Tables
from qrecipe.model.languages import check_free, initial_rows, require_free
from qrecipe.model.opened import open_model
from qrecipe.model.weights import Delta, Guard, Learner, survival
from qrecipe.model.working import WorkingWeights
from qrecipe.plan.bases import BaseInfo
from qrecipe.plan.documents import Lock, Verdict
from qrecipe.plan.fingerprints import stage_fingerprint, start_fingerprint
from qrecipe.plan.plan import Planned
from qrecipe.recipe import LoadedRecipe
from qrecipe.recipe.checks import at, gates_with_nodes
from qrecipe.recipe.stage import SpeechStage, Stage, TextLmStage
from qrecipe.run import disk, reasons
from qrecipe.run.datasets import needed, prepare_all, ready
from qrecipe.run.events import Events, Listener
from qrecipe.run.judging import Judge
from qrecipe.run.locking import differences, drift, lock_path, lock_stage, make_lock, read_lock, write_lock
from qrecipe.run.reasons import standings
from qrecipe.run.store import RunStore
from qrecipe.train import selfcheck
from qrecipe.train.checkpoints import Checkpoints, Every
from qrecipe.train.loop import StageResult, train_stage
from qrecipe.train.objective import Objective
from qrecipe.train.speech import SpeechObjective
from qrecipe.train.text_lm import TextLmObjective

Status = Literal["kept", "reverted", "failed", "skipped"]
RunStatus = Literal["accepted", "rejected", "stopped", "until"]


@dataclass
class StageOutcome:
    """How a stage went."""

    id: str
    status: Status
    verdicts: list[Verdict] = field(default_factory=list)
    fingerprint: str | None = None
    parameters: int | None = None
    survives: float | None = None

    def as_json(self) -> dict[str, Any]:
        """For the last line of the command line's output."""
        return {"id": self.id, "status": self.status, "verdicts": [v.as_json() for v in self.verdicts]}

    def for_bundle(self) -> dict[str, Any]:
        """For the bundle's manifest."""
        return {"id": self.id, "status": self.status, "fingerprint": self.fingerprint, "parameters": self.parameters}


@dataclass
class Outcome:
    """How a run went."""

    status: RunStatus
    """`until`: the run ended after the stage that `--until` names, before `accept`."""
    bundle: Path | None
    stages: list[StageOutcome]
    accept: list[Verdict]

    @property
    def exit_code(self) -> int:
        """0 for an accepted bundle or a run that ended where it was told to, 3 where a gate did not pass."""
        return 0 if self.status in ("accepted", "until") else 3

    def as_json(self) -> dict[str, Any]:
        """The last line of the command line's output."""
        return {
            "status": self.status,
            "bundle": str(self.bundle) if self.bundle else None,
            "stages": [s.as_json() for s in self.stages],
            "accept": [v.as_json() for v in self.accept],
        }


def run(
    loaded: LoadedRecipe,
    *,
    runs: Path,
    bundles: Path,
    until: str | None = None,
    every: Every | None = None,
    locked: bool = False,
    fresh: bool = False,
    listener: Listener | None = None,
) -> Outcome:
    """Runs a recipe.

    Args:
        runs: folder of run folders.
        bundles: folder of bundles.
        until: stop after this stage.
        every: how often the state of a stage is kept, beside every interruption.
        locked: refuse whatever differs from the lock beside the recipe.
        fresh: put the run's folder aside and start over.
        listener: told every event, and progress that is not recorded.

    Raises `UserError` for what a person can mend, `EngineError` for a promise that did not hold.
    """
    hashes = FileHashes()
    planned, base = ready(loaded, hashes)
    if locked and (problems := drift(planned, base)):
        raise UserError(problems)
    store = RunStore(runs / loaded.recipe.name)
    aside = store.put_aside() if fresh else None
    with store.held():
        events = Events(store.folder / "events.jsonl", listener)
        try:
            if aside is not None:
                events.tell("put_aside", path=str(aside))
            return _Run(planned, base, hashes, store, bundles, events, every or Every()).carry_out(until, locked)
        except BaseException as e:
            with suppress(OSError):  # on a full disk the reason itself has no room
                events.emit("run_failed", error=type(e).__name__, message=str(e)[:2000])
            raise
        finally:
            events.close()


class _Run:
    """One run, from the opened base to the bundle. Methods are in the order in which they happen."""

    def __init__(
        self, planned: Planned, base: BaseInfo, hashes: FileHashes, store: RunStore, bundles: Path, events: Events, every: Every
    ) -> None:
        if planned.plan.base.identity != base.identity:
            raise EngineError(f"the plan was made for {planned.plan.base.identity} and the base is {base.identity}")
        self.planned = planned
        self.plan = planned.plan
        self.recipe = planned.loaded.recipe
        self.base = base
        self.hashes = hashes
        self.store = store
        self.bundles = bundles
        self.events = events
        self.every = every
        self.outcomes: list[StageOutcome] = []
        self.state: tuple[str, ...] = ()
        """Fingerprints of the kept stages, the start first; each holds the ones before it."""

    def carry_out(self, until: str | None, locked: bool) -> Outcome:
        refuse_other(self.plan, self.bundles)
        found = self._say_what_changed()
        lock = make_lock(self.planned, self.base)
        path = lock_path(self.planned.loaded.file)
        written = locked or self._write_lock(lock, path)
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
        self._self_check()
        self._try_gates()
        ended = self._stages(until)
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
        places = {need: at(loaded.node, "evaluators", need).place for need in ("asr", "speaker", "mos")}
        memory = Memory(self.store.folder / "heard.jsonl")
        return Listeners(self.opened, self.base.identity, self.recipe.evaluators, loaded.root, tags, places, self.hashes, memory)

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
        needed = disk.needs(self.planned, self.base, self.store.folder, self.bundles, done)
        disk.require(needed, lambda **f: self.events.tell("disk", **f))
        reasons.write(self.store.folder, reasons.inputs(self.planned, self.hashes))
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
            row = self.plan.languages[key].token_id
            assert row is not None
            node = at(self.planned.loaded.node, "languages", key)
            require_free(check_free(self.opened.net, row, listed, (node.key_place or node.place), language.token_id == "auto"))
            chosen[key] = (row, language)
        self.working.add_languages({k: row for k, (row, _) in chosen.items()})
        self.start = initial_rows(self.opened.net, chosen, listed)
        self.kept: list[Delta] = [self.start]
        start = start_fingerprint(self.base.identity, self.plan.languages, self.plan.seed)
        assert start is not None, "the base is known"
        self.state = (start,)
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
                self.outcomes.append(StageOutcome(stage.id, "skipped"))
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
        trainable = self.planned.trainables[stage.id]
        fingerprint = stage_fingerprint(stage, self.recipe.evaluation, self.plan.datasets, trainable, self.state[-1])
        assert fingerprint is not None, "the plan is complete"
        before = _merged(self.kept)
        previous = self.judge.baseline(stage.gates, "previous", self.state[-1])
        stored = self.store.load_stage(fingerprint)
        if stored is None:
            self.events.emit(
                "stage_started", stage=stage.id, objective=stage.objective, parameters=planned.parameters, fingerprint=fingerprint
            )
            self._save(None, fingerprint)
            checkpoints = self._checkpoints(stage, fingerprint)
            delta, result = self._train(stage, before, checkpoints)
            self.store.save_stage(fingerprint, delta, result)
            checkpoints.clear()
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
        return StageOutcome(stage.id, status, verdicts, fingerprint, planned.parameters, result["survives_rounding"])

    def _checkpoints(self, stage: Stage, fingerprint: str) -> Checkpoints:
        assert self.base.tensors is not None
        trainable = lock_stage(stage.id, self.planned.trainables[stage.id], self.base.tensors).model_dump(mode="json")
        return Checkpoints(
            self.store.checkpoint_folder(fingerprint),
            trainable,
            self.every,
            lambda event, **fields: self.events.emit(event, stage=stage.id, **fields),
        )

    def _train(self, stage: Stage, before: Delta, checkpoints: Checkpoints) -> tuple[Delta, dict[str, Any]]:
        """Trains a stage on the weights before it; afterwards the modules hold its rounded result, proven to be no more."""
        trainable = self.planned.trainables[stage.id]
        torch.manual_seed(self.recipe.seed)
        guard = Guard(self.opened.net, trainable)
        learner = Learner(self.opened.net, trainable, before)
        try:
            result = self._learn(stage, learner, checkpoints)
        finally:
            learner.close()
            self.opened.reset()
        survives = survival(self.opened.net, result.delta, self.opened.export_dtype)
        self.working.set(before.then(result.delta))
        guard.check(self.opened.net)
        return result.delta, {
            "stage": stage.id,
            "steps": result.steps,
            "chosen_step": result.chosen_step,
            "history": result.history,
            "losses": result.losses,
            "survives_rounding": survives.share,
        }

    def _learn(self, stage: Stage, learner: Learner, checkpoints: Checkpoints) -> StageResult:
        seed = int(digest([self.recipe.seed, stage.id])[:8], 16)
        objective: Objective
        if isinstance(stage, SpeechStage):
            objective = SpeechObjective(stage, self.opened, learner.tables, {u.use: self.data.speech[u.use] for u in stage.uses}, seed)
        else:
            objective = self._text_objective(stage, learner, seed)
        lengths = objective.lengths()
        shares = {u.use: u.share for u in stage.uses if u.share is not None}
        sampler = Sampler(lengths, shares, stage.batch, seed)
        begin = None
        if isinstance(objective, TextLmObjective):
            fitted = objective

            def begin() -> None:
                batches = sampler.batches()
                last = fitted.fit(
                    lambda: next(batches)[0],
                    lambda step, loss: self.events.tell("fitting", stage=stage.id, step=step, of=fitted.stage.fit_steps, loss=loss),
                )
                self.events.emit("fitted", stage=stage.id, loss=last)

        evaluate = None
        if stage.select is not None:
            held_out = self.data.speech[stage.select.data]
            metric = stage.select.metric

            def evaluate() -> float:
                found = [
                    getattr(item, metric)
                    for layout in self.recipe.evaluation.layouts
                    for kind in self.recipe.evaluation.kinds
                    for _, item in teacher_forced(self.opened, learner.tables, held_out, layout, kind)
                ]
                return float(sum(found) / len(found))

        return train_stage(
            stage,
            self.opened,
            learner,
            objective,
            sampler,
            begin=begin,
            evaluate=evaluate,
            checkpoints=checkpoints,
            tell=lambda event, **fields: self.events.emit(event, stage=stage.id, **fields),
            on_step=lambda r: self.events.emit(
                "step",
                stage=stage.id,
                step=r.step,
                of=r.of,
                losses=_rounded(r.losses),
                gradient_norm=round(r.gradient_norm, 5),
                rate=round(r.rate, 5),
            ),
            on_select=lambda step, value, best: self.events.emit("select", stage=stage.id, step=step, value=round(value, 6), best=best),
        )

    def _text_objective(self, stage: TextLmStage, learner: Learner, seed: int) -> TextLmObjective:
        data = {u.use: self.data.text[u.use] for u in stage.uses}
        own = [d for d in data.values() if d.language in self.recipe.languages]
        special = set(self.opened.tokenizer.special.values())
        seen = sorted({t for d in own for body in d.bodies for t in body} - special)
        return TextLmObjective(stage, self.opened, learner.tables, data, seen, seed)

    def _bundle(self, lock: Lock, accept: list[Verdict]) -> Path:
        content = Content(
            plan=self.plan,
            base=self.base,
            delta=_merged(self.kept),
            lock=lock,
            recipe=resolved_recipe(self.planned.loaded),
            stages=[o.for_bundle() for o in self.outcomes],
            verdicts={o.id: o.verdicts for o in self.outcomes} | {"accept": accept},
            survival={o.id: o.survives for o in self.outcomes if o.survives is not None and o.status == "kept"},
            accepted=True,
        )
        target = build(content, self.bundles)
        self.events.emit("bundle", path=str(target))
        return target

    def _page(self, accept: list[Verdict]) -> None:
        """What the base and every stage said, side by side."""
        trained = [(o.id, o.fingerprint) for o in self.outcomes if o.fingerprint is not None]
        verdicts = {o.id: o.verdicts for o in self.outcomes if o.verdicts} | ({"accept": accept} if accept else {})
        self.judge.page(f"{self.recipe.name} {self.recipe.version}", [("base", self.state[0]), *trained], verdicts)

    def _save(self, outcome: Outcome | None, training: str | None = None) -> None:
        """Keeps how far the run has come; `outcome` once it is over, `training` is the fingerprint of a stage that begins."""
        self.store.save_latest(
            {
                "recipe": self.recipe.name,
                "status": outcome.status if outcome else "running",
                "file": str(self.planned.loaded.file),
                "sets": list(self.planned.loaded.sets),
                "start": self.state[0],
                "training": training,
                "plan": self.plan.hash,
                "base": {"model": self.recipe.base.model, "revision": self.recipe.base.revision, "folder": str(self.base.folder)},
                "languages": {k: v.token_id for k, v in self.plan.languages.items()},
                "stages": [
                    {**o.for_bundle(), "verdicts": [v.as_json() for v in o.verdicts], "survives": o.survives} for o in self.outcomes
                ],
                "accept": [v.as_json() for v in outcome.accept] if outcome else [],
            }
        )


def resolved_recipe(loaded: LoadedRecipe) -> dict[str, Any]:
    """The recipe after `extends`, `vars` and `--set`, as plain data."""
    plain = loaded.node.plain()
    assert isinstance(plain, dict)
    return plain


def _merged(deltas: Sequence[Delta]) -> Delta:
    merged = Delta()
    for delta in deltas:
        merged = merged.then(delta)
    return merged


def _rounded(losses: dict[str, float]) -> dict[str, float]:
    return {k: round(v, 6) for k, v in losses.items()}
