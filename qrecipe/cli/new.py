"""`qrecipe new`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from qrecipe.cli.completion import complete_templates
from qrecipe.cli.options import FILE, format_option

BASE = "Qwen/Qwen3-TTS-12Hz-1.7B-Base"
REVISION = "fd4b254389122332181a7c3db7f27e918eec64e3"


@click.command("new")
@click.option("--language", required=True, help="Name of the language in lower case, such as hausa.")
@click.option("--bcp47", required=True, help="Its BCP 47 tag, such as ha.")
@click.option("--template", default="ladder", show_default=True, shell_complete=complete_templates, help="Which stages.")
@click.option("--out", type=FILE, help="Folder of the recipe; default: `recipes` if there is one, else the working folder.")
@click.option("--base", default=BASE, show_default=True, help="A hub id, a folder, or builtin:mini.")
@click.option("--like", default="english", show_default=True, help="Languages of the base that sound most alike, with commas between.")
@click.option("--replay", default="english", show_default=True, help="Language of the base that it must not forget.")
@format_option()
def command(language: str, bcp47: str, template: str, out: Path | None, base: str, like: str, replay: str, format_: str) -> int:
    """Write a recipe for a new language over a template, with folders for its data."""
    from qrecipe.cli.app import print_json
    from qrecipe.verbs.new import NewRecipe, new_recipe

    folder = out if out is not None else Path("recipes") if Path("recipes").is_dir() else Path()
    alike = [name.strip() for name in like.split(",") if name.strip()] or ["english"]
    request = NewRecipe(language, bcp47, template, base, REVISION if base == BASE else None, alike, replay)
    written = new_recipe(request, folder)
    if format_ == "json":
        print_json({"recipe": str(written.recipe), "files": [str(f) for f in written.files]})
        return 0
    for file in written.files:
        click.echo(f"wrote {file}")
    data, recipe = folder / "data" / language, shlex.quote(str(written.recipe))
    click.echo(f"\nPut the data into {data} (its README says what), then:\n  qrecipe validate {recipe}\n  qrecipe plan {recipe}")
    return 0
