"""`qrecipe evaluate`."""

from __future__ import annotations

from typing import Any

import click

from qrecipe.cli.measuring import MeasuringOptions, measuring_options
from qrecipe.cli.options import allow_option, format_option


@click.command("evaluate")
@click.argument("model")
@measuring_options
@click.option("--probe-gates", is_flag=True, help="Try the gates that the recipe has on this dataset on good and on spoilt recordings.")
@allow_option
@format_option()
def command(model: str, format_: str, probe_gates: bool, **options: Any) -> int:
    """Measure MODEL (a base, a bundle, or runs/NAME@STAGE) on recordings.

    Every value comes with its interval over prompts and with that of the recordings themselves. With --probe-gates the
    exit code is 3 if a gate cannot tell good recordings from spoilt ones.
    """
    from qrecipe.cli.app import print_json
    from qrecipe.report.console import RunConsole
    from qrecipe.verbs.evaluate import evaluate
    from qrecipe.world import join

    if probe_gates and options["recipe"] is None:
        raise click.UsageError("--probe-gates tries the gates of a recipe: give --recipe")
    world = join()
    request = MeasuringOptions(**options).request(probe_gates)
    with RunConsole(silent=not world.first) as console:
        result = evaluate(model, request, console, world)
    unsound = any(not g["sound"] for g in result.gates)
    if not world.first:
        return 3 if unsound else 0
    if format_ == "json":
        print_json(result.model_dump(mode="json"))
        return 3 if unsound else 0
    from qrecipe.report.page import PAGE
    from qrecipe.report.tables import Printer, probe_table, statistics_table

    shown = Printer()
    shown.print(statistics_table(f"{model} on {request.data.name}, {result.language}", result.metrics))
    if result.gates:
        shown.print(probe_table(result.gates))
    if request.out is not None:
        click.echo(f"hear it: {request.out / PAGE}")
    return 3 if unsound else 0
