"""`qrecipe show`."""

from __future__ import annotations

from pathlib import Path

import click
import yaml

from qrecipe.cli.options import FILE, format_option, set_option


@click.command("show")
@click.argument("file", type=FILE)
@set_option
@format_option()
def command(file: Path, sets: tuple[str, ...], format_: str) -> int:
    """Print the one recipe that results from `extends`, `vars` and `--set`, every default filled in."""
    from qrecipe.cli.app import print_json
    from qrecipe.recipe import load

    recipe = load(file, sets).recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    if format_ == "json":
        print_json(recipe)
    else:
        click.echo(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=120), nl=False)
    return 0
