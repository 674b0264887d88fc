"""`qrecipe listen`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qrecipe.cli.options import FILE, serving_options


@click.command("listen")
@click.argument("target", metavar="RUNS/NAME[@STAGE] | BUNDLE")
@click.option("--against", default="base", show_default=True, help="What it is compared with: base, or a stage of the run.")
@click.option("--data", help="Sentences of this dataset alone.")
@click.option("--pairs", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many sentences.")
@click.option("--scale", type=click.Choice(["ab", "five"]), default="ab", show_default=True, help="A, B, neither; or five steps between.")
@click.option("--votes", type=FILE, default=Path("votes"), show_default=True, help="Folder of the ballots.")
@click.option("--runs", type=FILE, default=Path("runs"), show_default=True, help="Where the run of a bundle is.")
@click.option("--export", type=FILE, help="Write one HTML file for listeners elsewhere and end; they send their ballots back as files.")
@serving_options
def command(votes: Path, scale: Any, export: Path | None, host: str, port: int, **request: Any) -> int:
    """Let people compare what a model and the base said, blindly and in random order, in a browser.

    Each listener's answers become a ballot, which a gate on `preference` counts. Ctrl-C ends it.
    """
    from qrecipe.cli.serving import serve
    from qrecipe.files import write_text
    from qrecipe.report.listening import listening_page
    from qrecipe.report.serve import served
    from qrecipe.verbs.listen import ListenRequest, listening_site, pairs_of

    title, pairs = pairs_of(ListenRequest(**request))
    if export is not None:
        write_text(export, listening_page(title, pairs, scale))
        click.echo(f"{export}: {len(pairs)} pairs; put the ballots that come back into {votes}/")
        return 0
    return serve(served(listening_site(title, pairs, scale, votes), host, port), f"{len(pairs)} pairs")
