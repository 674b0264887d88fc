"""`qrecipe try`."""

from __future__ import annotations

from pathlib import Path

import click

from qrecipe.cli.completion import complete_recipes
from qrecipe.cli.options import FILE, allow_option, serving_options


@click.command("try")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option("--recipe", type=FILE, shell_complete=complete_recipes, help="Offer its voices, and let its recogniser listen.")
@click.option("--asr", metavar="MODEL", help="Recogniser in place of the recipe's, such as wheel:whisper-base.")
@allow_option
@serving_options
def command(models: tuple[str, ...], recipe: Path | None, asr: str | None, host: str, port: int) -> int:
    """Type a sentence in a browser and hear what MODELs (bases, bundles, runs/NAME@STAGE) make of it, side by side.

    The page is served to this machine alone, unless --host names another address. Ctrl-C ends it.
    """
    from qrecipe.cli.serving import serve
    from qrecipe.report.problems import tell
    from qrecipe.verbs.trying import open_trial, served

    trial = open_trial(models, recipe, asr)
    tell(trial.warnings)
    return serve(served(trial, host, port), ", ".join(trial.sessions))
