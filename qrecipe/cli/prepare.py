"""`qrecipe prepare`."""

from __future__ import annotations

from pathlib import Path

import click

from qrecipe.cli.completion import complete_recipes
from qrecipe.cli.options import FILE, allow_option, format_option, locked_option, set_option


@click.command("prepare")
@click.argument("file", type=FILE, shell_complete=complete_recipes)
@click.option("--runs", type=FILE, default=Path("runs"), show_default=True, help="Folder of runs; the page goes into the recipe's.")
@locked_option
@allow_option
@set_option
@format_option()
def command(file: Path, runs: Path, locked: bool, sets: tuple[str, ...], format_: str) -> int:
    """Check, encode and listen to a recipe's data without training, and say what the data is like."""
    from qrecipe.cli.app import print_json
    from qrecipe.plan import complete_plan
    from qrecipe.recipe import load
    from qrecipe.recipe.dataset import SpeechDataset
    from qrecipe.report.console import RunConsole
    from qrecipe.report.tables import Printer, data_table, heard_lines
    from qrecipe.run.locking import require_lock
    from qrecipe.world import join

    loaded, world = load(file, sets), join()
    plan = world.first_before_others(lambda: complete_plan(loaded), "planning")
    if locked:
        require_lock(plan)
    from qrecipe.verbs.prepare import prepare

    with RunConsole(silent=not world.first) as console:
        prepared = prepare(plan, runs, console, world)
    if not world.first:
        return 0
    recipe, reports = plan.loaded.recipe, prepared.reports
    heard = {n: x.as_json(d.filter) for n, x in prepared.listened.items() if isinstance(d := recipe.datasets[n], SpeechDataset)}
    if format_ == "json":
        print_json({"datasets": [{**r.as_json(), "heard": heard.get(r.dataset)} for r in reports], "page": str(prepared.page)})
        return 0
    Printer().print(data_table(reports))
    for report in reports:
        for warning in report.warnings:
            click.echo(f"warning: {report.dataset}: {warning}")
    for name, about in heard.items():
        for line in heard_lines(name, about):
            click.echo(line)
    click.echo(f"listen: {prepared.page}")
    return 0
