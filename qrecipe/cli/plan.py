"""`qrecipe plan`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from qrecipe.cli.completion import complete_recipes
from qrecipe.cli.options import FILE, allow_option, format_option, set_option
from qrecipe.errors import RecipeError


@click.command("plan")
@click.argument("file", type=FILE, shell_complete=complete_recipes)
@click.option("--runs", type=FILE, default=Path("runs"), show_default=True, help="Folder of run folders, to say what is done already.")
@click.option("--gpu", type=click.Choice(["h100", "h200", "a100", "4090", "t4"]), help="Estimate times on it; default: this machine's.")
@click.option("--gpus", type=click.IntRange(1), default=1, show_default=True, help="Of them.")
@click.option("--price", type=click.FloatRange(min=0), help="Of one of them for an hour, for the estimate of what a run costs.")
@click.option("--memory", type=click.FloatRange(min=1), metavar="GB", help="Say which stages fit into a GPU of so much memory, and how.")
@click.option("--strict", is_flag=True, help="A missing base or data is an error, not a warning.")
@allow_option
@set_option
@format_option()
def command(
    file: Path,
    runs: Path,
    strict: bool,
    sets: tuple[str, ...],
    format_: str,
    gpu: str | None,
    gpus: int,
    price: float | None,
    memory: float | None,
) -> int:
    """Show what a recipe will do: which parameters train in which stage, on which data, under which gates."""
    from qrecipe.cli.app import print_json
    from qrecipe.hashes import FileHashes
    from qrecipe.plan import make_plan
    from qrecipe.plan.estimates import estimates
    from qrecipe.plan.gpus import GPUS, durations, fit, here
    from qrecipe.recipe import load
    from qrecipe.report.problems import tell
    from qrecipe.run.reasons import standings

    hashes = FileHashes()
    planned = make_plan(load(file, sets), hashes, strict=strict)
    if planned.errors:
        raise RecipeError(planned.problems)
    stages = standings(planned, runs / planned.plan.recipe, hashes)
    # estimates for people: none of them is part of the plan's hash
    computes = estimates(planned, hashes)
    hardware = GPUS[gpu] if gpu is not None else here() or GPUS["h100"]
    times = durations(planned, computes, hashes, hardware, gpus)
    hashes.save()
    if format_ == "json":
        done = {k: v.state == "done" for k, v in stages.items()}
        warnings = [p.as_json() for p in planned.warnings]
        beside = {
            "done": done,
            "standings": {k: asdict(v) for k, v in stages.items()},
            "compute": {k: v.as_json() for k, v in computes.items()},
            "seconds": {"gpu": hardware.name, "gpus": gpus, "measured": hardware.measured, **times.parts},
            "warnings": warnings,
        }
        print_json({**planned.plan.as_json(), **beside})
        return 0
    from qrecipe.report.tables import Printer, plan_table, size, time_line
    from qrecipe.run import disk

    if planned.warnings:
        tell(planned.warnings)
    Printer().print(plan_table(planned.plan, {k: str(v) for k, v in stages.items()}, computes))
    finished = [k for k, v in stages.items() if v.state == "done"]
    needed = disk.needs(planned, runs / planned.plan.recipe, Path("bundles"), finished, hashes)
    click.echo(time_line(times, price))
    if memory is not None:
        for stage, cost in computes.items():
            click.echo(f"{stage} in {memory:g} GB: {fit(cost, memory * 1e9)}")
    click.echo("disk, at most: " + ", ".join(f"{n.what} {size(n.bytes)}" for n in needed))
    state = "complete" if planned.plan.complete else "incomplete: `run` needs what the warnings name"
    click.echo(f"plan {planned.plan.hash[:16]} ({state})")
    return 0
