"""`qrecipe run`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from qrecipe.cli.completion import complete_recipes, complete_stages
from qrecipe.cli.options import FILE, allow_option, format_option, locked_option, set_option


@click.command("run")
@click.argument("file", type=FILE, shell_complete=complete_recipes)
@click.option("--runs", type=FILE, default=Path("runs"), show_default=True, help="Folder of run folders.")
@click.option("--bundles", type=FILE, default=Path("bundles"), show_default=True, help="Folder of bundles.")
@click.option("--until", metavar="STAGE", shell_complete=complete_stages, help="Stop after this stage.")
@click.option("--checkpoint-minutes", type=click.FloatRange(min=0), default=10.0, show_default=True, help="Keep a stage's state so often.")
@click.option("--checkpoint-steps", type=click.IntRange(min=1), help="Also keep it after so many steps.")
@locked_option
@click.option("--fresh", is_flag=True, help="Start over; what was there is put aside as RUNS/NAME.1, not deleted.")
@click.option(
    "--track", metavar="NAMES", help="Also send losses, verdicts and sounds to tensorboard, trackio or wandb; separated by commas."
)
@allow_option
@set_option
@format_option()
def command(
    file: Path,
    sets: tuple[str, ...],
    format_: str,
    checkpoint_minutes: float,
    checkpoint_steps: int | None,
    track: str | None,
    **options: Any,
) -> int:
    """Run a recipe: train its stages, judge its gates, write its bundle.

    Finished stages are reused, and one that was stopped goes on where it stopped. With --format json, and where standard
    output is no terminal, its only line is one JSON object. Exit code 0: an accepted bundle was written; 3: a gate did not
    pass; 130: interrupted.
    """
    from qrecipe.cli.app import print_json
    from qrecipe.errors import Place, Problem, RecipeError, suggest
    from qrecipe.plan import complete_plan
    from qrecipe.recipe import load
    from qrecipe.report.console import RunConsole
    from qrecipe.report.problems import tell
    from qrecipe.report.tables import plan_table
    from qrecipe.world import join

    loaded = load(file, sets)
    ids = [s.id for s in loaded.recipe.stages]
    until = options["until"]
    if until is not None and until not in ids:
        raise RecipeError(Problem("QR020", f"no stage is called `{until}`", Place("--until"), suggest(until, ids)))
    # of several processes the first plans before the others, and it alone shows anything
    world = join()
    with RunConsole(silent=not world.first) as console:
        plan = world.first_before_others(lambda: complete_plan(loaded, tell=console.say), "planning")
        if plan.warnings and world.first:
            tell(plan.warnings)
        console.show(plan_table(plan.plan))
        console.say("loading torch and the base")
        from qrecipe.report.page import PAGE
        from qrecipe.run.engine import RunOptions, run
        from qrecipe.train.checkpoints import Every

        every = Every(checkpoint_minutes, checkpoint_steps)
        with _tracked(track if world.first else None, options["runs"] / plan.plan.recipe, plan.plan.recipe, console) as listener:
            outcome = run(plan, RunOptions(**options, every=every), listener, world)
        _closing(console, outcome, loaded)
        console.say(f"report: {options['runs'] / plan.plan.recipe / PAGE}")
    if world.first and (format_ == "json" or not sys.stdout.isatty()):
        print_json(outcome.as_json(), indent=None)
    return outcome.exit_code


@contextmanager
def _tracked(names: str | None, folder: Path, name: str, console: Any) -> Iterator[Any]:
    """The console, and the trackers that are asked for beside it."""
    if names is None:
        yield console
        return
    from qrecipe.run.tracking import Tracking, open_trackers

    tracking = Tracking(open_trackers(names.split(","), folder / "tensorboard", name), folder / "stages", console, console.say)
    try:
        yield tracking
    finally:
        tracking.close()


def _closing(console: Any, outcome: Any, loaded: Any) -> None:
    """Where the bundle is and how to hear it, or why there is none."""
    if outcome.bundle is not None:
        language = next(iter(loaded.recipe.languages))
        reference = next((d.reference for d in loaded.recipe.datasets.values() if getattr(d, "reference", None)), None)
        voice = str(loaded.path(reference)) if reference else "VOICE.wav"
        console.say(f"accepted: {outcome.bundle}")
        words = shlex.join(["--language", language, "--reference", voice, "--out", "hello.wav"])
        console.command("hear it", f'qrecipe say {shlex.quote(str(outcome.bundle))} "TEXT" {words}')
        return
    failed = [v for s in outcome.stages for v in s.verdicts if not v.counts_as_pass] + [v for v in outcome.accept if not v.counts_as_pass]
    if outcome.status == "until":
        console.say(f"stopped after {outcome.stages[-1].id}, as asked; the same command without --until goes on from there")
    else:
        console.say(f"{outcome.status}: no bundle, because " + "; ".join(f"{v.gate} is {v.outcome}" for v in failed[-3:]))
