"""`qrecipe pack`."""

from __future__ import annotations

from pathlib import Path

import click

from qrecipe.cli.completion import complete_recipes
from qrecipe.cli.options import FILE, allow_option, format_option


@click.command("pack")
@click.argument("bundle", type=FILE)
@click.option("--recipe", type=FILE, shell_complete=complete_recipes, help="The bundle's recipe; default: NAME.yaml here or in recipes/.")
@click.option("--out", type=FILE, help="The file to write; default: NAME-VERSION.qpack.")
@allow_option
@format_option()
def command(bundle: Path, recipe: Path | None, out: Path | None, format_: str) -> int:
    """Write what a language adds to its base as one small file, with its gates and the data that they read."""
    from qrecipe.cli.app import print_json
    from qrecipe.report.console import RunConsole
    from qrecipe.report.tables import size
    from qrecipe.verbs.pack import pack

    with RunConsole() as console:
        target, manifest = pack(bundle, recipe, out, console)
    if format_ == "json":
        print_json({"pack": str(target), "bytes": target.stat().st_size, "languages": list(manifest.languages)}, indent=None)
    else:
        click.echo(f"{target}: {', '.join(manifest.languages)}, {size(target.stat().st_size)}")
    return 0
