"""Carrying out a plan: languages, data, self-check, stages with their gates, `accept`, bundle."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from qrecipe import phases
from qrecipe.bundle.build import BundleContent, build, refuse_other
from qrecipe.errors import EngineError, UserError
from qrecipe.files import cache_dir
from qrecipe.inputs.documents.lock import Lock
from qrecipe.inputs.documents.verdicts import Verdict
from qrecipe.model.weights import Delta
from qrecipe.phases import phase
from qrecipe.plan.complete import RunPlan
from qrecipe.recipe.checks import gates_with_nodes
from qrecipe.report.history import EventReader
from qrecipe.run import disk
from qrecipe.run.compile_ahead import CompileAhead
from qrecipe.run.events import EVENTS, Events, Listener
from qrecipe.run.judging import Baselines, Judge
from qrecipe.run.locking import differences, lock_path, make_lock, read_lock, require_lock, write_lock
from qrecipe.run.ranks import require_same, require_shared
from qrecipe.run.reasons import Standing, inputs_of, standings
from qrecipe.run.record import Outcome
from qrecipe.run.session import RunSession, open_session
from qrecipe.run.stages import RunProgress, StageRunner, State
from qrecipe.run.start import check_alignment, start_run
from qrecipe.run.store import RunStore
from qrecipe.run.synthetic import SyntheticSpeech
from qrecipe.run.training import Trainer
from qrecipe.train.checkpoints import Every
from qrecipe.world import World


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


def run(plan: RunPlan, options: RunOptions, listener: Listener | None = None, world: World | None = None) -> Outcome:
    """Carries out a plan, which is the one that was shown: nothing is planned here.

    `listener` gets every event, and progress that is not recorded. Every rank of `world` calls this; the first one alone
    has a listener and writes.

    Raises `UserError` for what a person can mend, `EngineError` for a promise that did not hold.
    """
    if options.locked:
        require_lock(plan)
    world = world or World()
    store = RunStore(options.runs / plan.plan.recipe, world)
    aside = store.put_aside() if options.fresh and world.first else None
    with store.held() as is_locked:
        events = Events(store.folder / EVENTS if world.first else None, listener)
        try:
            if not is_locked:
                events.tell("not_locked", path=str(store.folder))
            if aside is not None:
                events.tell("put_aside", path=str(aside))
            require_same(world, plan, {"until": options.until, "locked": options.locked})
            require_shared(world, [store.folder, cache_dir()])
            with phases.measured() as clock:
                return _carry_out(plan, options, store, events, world, clock)
        except BaseException as e:
            with suppress(OSError):  # on a full disk the reason itself has no room
                events.emit("run_failed", error=type(e).__name__, message=str(e)[:2000])
            raise
        finally:
            events.close()


def _carry_out(plan: RunPlan, options: RunOptions, store: RunStore, events: Events, world: World, clock: phases.Clock) -> Outcome:
    """One run from its announcement to its bundle, in the order in which it happens."""
    if plan.plan.base.identity != plan.base.identity:
        raise EngineError(f"the plan was made for {plan.plan.base.identity} and the base is {plan.base.identity}")
    # nothing has been computed yet: refuse what could not end well, and say which stages train and why
    stages = _announce(plan, options, store, events) if world.first else {}
    lock = make_lock(plan)
    lock_file = _write_lock(lock, lock_path(plan.loaded.file), options.locked, events) if world.first else None
    base = open_session(plan.base, plan.hashes, events, world)
    texts = {stage: str(standing) or standing.state for stage, standing in stages.items()}
    names = {"recipe": plan.plan.recipe, "version": plan.loaded.recipe.version, "plan": plan.plan.hash, "start": plan.start}
    events.emit("run_started", **names, device=base.device, lock=lock_file, stages=texts)
    unfinished = world.from_first(lambda: [stage for stage, standing in stages.items() if standing.state != "done"], "starting")
    with CompileAhead.start(plan, base.opened.device, unfinished if world.first else []) as ahead:
        session = start_run(base, plan, store)
        outcome = _train_and_judge(session, options, lock, unfinished, ahead)
    if world.first:
        _write_page(Judge(session), session, replace(outcome, seconds=clock.table()))
    outcome = replace(outcome, seconds=clock.table())
    events.emit("run_finished", **outcome.as_json())
    session.opened.close()
    return outcome


def _train_and_judge(session: RunSession, options: RunOptions, lock: Lock, unfinished: list[str], ahead: CompileAhead) -> Outcome:
    """From a session whose data is encoded to the bundle."""
    plan, world = session.plan, session.world
    # what must hold before hours are spent: aligned losses, gates that can fail, speech of the base that can be used
    judge = Judge(session)
    check_alignment(session)
    if session.recipe.evaluation.probe_gates:
        judge.require_sound([(g, n.place) for g, n in gates_with_nodes(session.recipe, plan.loaded.node)])
    synthetic = SyntheticSpeech(session)
    synthetic.prepare(unfinished, session.start)
    # the base is measured and heard first, while the modules hold it
    gates = session.recipe.gates()
    baselines = Baselines(judge.baseline(gates, "base", plan.start), judge.best_languages(gates, plan.start))
    judge.demonstrate(gates, plan.start)
    runner = StageRunner(session, judge, Trainer(session, synthetic, options.every, ahead))
    progress = RunProgress(State(plan.start, Delta().then(session.start)))
    runner.run(progress, options.until, baselines)
    # accepted only with every gate of `accept` passed, on the weights that the bundle gets
    accept: list[Verdict] = []
    if progress.ended is None:
        accept = judge.judge(session.recipe.accept, progress.state.fingerprint, "accept", baselines)
    accepted = progress.ended is None and all(v.counts_as_pass for v in accept)
    bundle = _bundle(session, progress, lock, accept, options.bundles) if accepted and world.first else None
    outcome = Outcome(progress.ended or ("accepted" if accepted else "rejected"), bundle, progress.outcomes, accept)
    runner.save(progress, status=outcome.status, accept=accept)
    return outcome


def _announce(plan: RunPlan, options: RunOptions, store: RunStore, events: Events) -> dict[str, Standing]:
    """Says which stages are reused, resume, or train again, and why. Raises `UserError` if the disk is too small."""
    refuse_other(plan.plan, options.bundles)
    stages = standings(plan, store.folder, plan.hashes)
    for stage, standing in stages.items():
        events.tell("stage_standing", stage=stage, state=standing.state, text=str(standing))
    done = [stage for stage, standing in stages.items() if standing.state == "done"]
    needed = disk.needs(plan, store.folder, options.bundles, done, plan.hashes)
    disk.require(needed, lambda **f: events.tell("disk", **f))
    inputs_of(plan, plan.hashes).write(store.folder)
    return stages


def _write_lock(lock: Lock, path: Path, locked: bool, events: Events) -> str | None:
    """Writes the lock beside the recipe and says what changed; returns its path, or None if it could not be written."""
    if locked:
        return str(path)
    try:
        changed = differences(read_lock(path), lock)
    except UserError:  # none yet, or one that was edited: it is written anew
        changed = []
    if changed:
        events.tell("lock_changed", path=str(path), differences=changed)
    return str(path) if write_lock(lock, path) else None


@phase("bundle")
def _bundle(session: RunSession, progress: RunProgress, lock: Lock, accept: list[Verdict], bundles: Path) -> Path:
    outcomes = progress.outcomes
    content = BundleContent(
        plan=session.plan.plan,
        base=session.base,
        delta=progress.state.delta,
        lock=lock,
        recipe=session.plan.loaded.resolved(),
        stages=[o.for_bundle() for o in outcomes],
        verdicts={o.id: o.verdicts for o in outcomes} | {"accept": accept},
        survival={o.id: o.survives for o in outcomes if o.survives is not None and o.status == "kept"},
        accepted=True,
        replacements=session.plan.replacements,
    )
    target = build(content, bundles)
    session.events.emit("bundle", path=str(target))
    return target


@phase("page")
def _write_page(judge: Judge, session: RunSession, outcome: Outcome) -> None:
    """How the run went, with speech of the base and of every stage side by side."""
    trained = [(o.id, o.fingerprint) for o in outcome.stages if o.fingerprint is not None]
    history = EventReader(session.store.folder / EVENTS).read()
    history.feed({"event": "run_finished", **outcome.as_json()})  # which is on record once the page is written
    judge.page(history.title, [("base", session.plan.start), *trained], history)
