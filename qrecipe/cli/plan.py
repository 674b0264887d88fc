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
@click.option("--strict", is_flag=True, help="A missing base or data is an error, not a warning.")
@allow_option
@set_option
@format_option()
def command(file: Path, runs: Path, strict: bool, sets: tuple[str, ...], format_: str) -> int:
    """Show what a recipe will do: which parameters train in which stage, on which data, under which gates."""
    from qrecipe.cli.app import print_json
    from qrecipe.files import FileHashes
    from qrecipe.plan import make_plan
    from qrecipe.plan.estimates import estimates
    from qrecipe.recipe import load
    from qrecipe.report.problems import tell
    from qrecipe.run.reasons import standings

    hashes = FileHashes()
    planned = make_plan(load(file, sets), hashes, strict=strict)
    if planned.errors:
        raise RecipeError(planned.problems)
    stages = standings(planned, runs / planned.plan.recipe, hashes)
    computes = estimates(planned, hashes)
    hashes.save()
    if format_ == "json":
        done = {k: v.state == "done" for k, v in stages.items()}
        warnings = [p.as_json() for p in planned.warnings]
        beside = {
            "done": done,
            "standings": {k: asdict(v) for k, v in stages.items()},
            "compute": {k: v.as_json() for k, v in computes.items()},
            "warnings": warnings,
        }
        print_json({**planned.plan.as_json(), **beside})
        return 0
    from qrecipe.report.tables import Printer, plan_table, size
    from qrecipe.run import disk

    if planned.warnings:
        tell(planned.warnings)
    Printer().print(plan_table(planned.plan, {k: str(v) for k, v in stages.items()}, computes))
    finished = [k for k, v in stages.items() if v.state == "done"]
    needed = disk.needs(planned, runs / planned.plan.recipe, Path("bundles"), finished, hashes)
    click.echo("disk, at most: " + ", ".join(f"{n.what} {size(n.bytes)}" for n in needed))
    state = "complete" if planned.plan.complete else "incomplete: `run` needs what the warnings name"
    click.echo(f"plan {planned.plan.hash[:16]} ({state})")
    return 0
