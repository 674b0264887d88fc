"""`qrecipe compare`."""

from __future__ import annotations

from typing import Any

import click

from qrecipe.cli.measuring import MeasuringOptions, measuring_options
from qrecipe.cli.options import allow_option, format_option


@click.command("compare")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@measuring_options
@allow_option
@format_option()
def command(first: str, second: str, format_: str, **options: Any) -> int:
    """Measure models A and B on the same recordings: differences of B to A, paired by prompt and seed, with intervals."""
    from qrecipe.cli.app import print_json
    from qrecipe.report.console import RunConsole
    from qrecipe.verbs.evaluate import compare

    request = MeasuringOptions(**options).request()
    with RunConsole() as console:
        result = compare(first, second, request, console)
    if format_ == "json":
        print_json(result.model_dump(mode="json"))
        return 0
    from qrecipe.report.page import PAGE
    from qrecipe.report.tables import Printer, comparison_table

    shown = Printer()
    shown.print(comparison_table(f"{second} (B) against {first} (A) on {request.data.name}", result))
    if request.out is not None:
        click.echo(f"hear it: {request.out / PAGE}")
    return 0
