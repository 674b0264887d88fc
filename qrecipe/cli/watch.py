"""`qrecipe watch`."""

from __future__ import annotations

from pathlib import Path

import click

from qrecipe.cli.options import FILE, serving_options


@click.command("watch")
@click.argument("folder", metavar="RUNS/NAME", type=FILE)
@click.option("--export", type=FILE, help="Write the page as it is now as one HTML file, and end.")
@serving_options
def command(folder: Path, export: Path | None, host: str, port: int) -> int:
    """Show a run in a browser: stages, losses, gates, speed, and what it speaks. The page follows the run while it goes on.

    It also shows a run that has ended or was killed, and one that has not begun. Nothing of it slows the run down. Ctrl-C
    ends it, and not the run.
    """
    from qrecipe.cli.serving import serve
    from qrecipe.files import write_text
    from qrecipe.report.serve import served
    from qrecipe.verbs.watch import exported, require_run, watching_site

    run = require_run(folder)
    if export is not None:
        write_text(export, exported(run))
        click.echo(f"{export}: the run as it is now")
        return 0
    return serve(served(watching_site(run), host, port), str(folder))
