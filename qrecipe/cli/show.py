"""`qrecipe show`."""

from __future__ import annotations

from pathlib import Path

import click

from qrecipe.cli.completion import complete_recipes
from qrecipe.cli.options import FILE, format_option, set_option


@click.command("show")
@click.argument("file", type=FILE, shell_complete=complete_recipes)
@click.option("--resolved/--stated", default=True, help="With every default filled in (as a rule), or only what the files state.")
@click.option("--origins", is_flag=True, help="Say for each value which file and line it comes from.")
@set_option
@format_option()
def command(file: Path, resolved: bool, origins: bool, sets: tuple[str, ...], format_: str) -> int:
    """Print the one recipe that results from `extends`, `remove`, `vars` and `--set`."""
    from qrecipe.cli.app import print_json
    from qrecipe.recipe import load
    from qrecipe.report.recipes import as_yaml, origins_of

    loaded = load(file, sets)
    recipe = loaded.recipe.model_dump(mode="json", by_alias=True, exclude_none=True) if resolved else loaded.node.plain()
    where = origins_of(recipe, loaded.node) if origins else None
    if format_ == "json":
        print_json({"recipe": recipe, "origins": where} if where is not None else recipe)
    else:
        click.echo(as_yaml(recipe, where), nl=False)
    return 0
