"""`qrecipe import`."""

from __future__ import annotations

from pathlib import Path

import click

from qrecipe.cli.completion import complete_templates
from qrecipe.cli.new import BASE, REVISION
from qrecipe.cli.options import FILE, format_option


@click.command("import")
@click.argument("source", type=FILE)
@click.option("--language", required=True, help="Name of the language in lower case, such as slovak.")
@click.option("--bcp47", required=True, help="Its BCP 47 tag, such as sk.")
@click.option("--recipe", "write_recipe", is_flag=True, help="Write the recipe, too.")
@click.option("--columns", metavar="AUDIO=NAME,...", help="Columns of other names, such as audio=path,text=sentence,speaker=who.")
@click.option("--as", "kind", metavar="FORMAT", help="Read it as this format instead of recognising it.")
@click.option("--audio", type=FILE, help="The long recording that labels or subtitles belong to.")
@click.option("--asr", metavar="MODEL", help="Recogniser for recordings without labels: wheel:whisper-base, a size, a hub id, a folder.")
@click.option("--transcript", type=FILE, help="What is said in the recording, where it has no labels.")
@click.option("--copy/--no-copy", default=True, help="Copy recordings that are outside the recipe's repository.")
@click.option("--out", type=FILE, help="Folder of the recipe; default: `recipes` if there is one, else the working folder.")
@click.option("--template", default="ladder", show_default=True, shell_complete=complete_templates, help="Stages of the recipe.")
@click.option("--base", default=BASE, show_default=True, help="A hub id, a folder, or builtin:mini.")
@click.option("--like", default="english", show_default=True, help="Languages of the base that sound most alike, with commas between.")
@click.option("--replay", default="english", show_default=True, help="Language of the base that it must not forget.")
@format_option()
def command(
    source: Path,
    language: str,
    bcp47: str,
    write_recipe: bool,
    columns: str | None,
    kind: str | None,
    audio: Path | None,
    asr: str | None,
    transcript: Path | None,
    copy: bool,
    out: Path | None,
    template: str,
    base: str,
    like: str,
    replay: str,
    format_: str,
) -> int:
    """Turn recordings as you have them into manifests, a data card and a recipe.

    SOURCE is a folder of recordings with texts, LJSpeech, a CSV or TSV table, Common Voice, a NeMo, Kaldi, ESPnet or Lhotse
    manifest, a Hugging Face dataset (a folder, Parquet, or OWNER/NAME@REVISION), WebDataset or Shar tars, or SRT, WebVTT or
    Audacity labels beside one long recording.
    """
    from qrecipe.cli.app import print_json
    from qrecipe.inputs.sources import Options
    from qrecipe.recipe.evaluator import Asr
    from qrecipe.report.console import RunConsole
    from qrecipe.verbs.import_ import ImportRequest, import_source
    from qrecipe.verbs.new import NewRecipe

    # without --out the recipe goes where a project keeps its recipes
    folder = out if out is not None else Path("recipes") if Path("recipes").is_dir() else Path()
    alike = [name.strip() for name in like.split(",") if name.strip()] or ["english"]
    recipe = NewRecipe(language, bcp47, template, base, REVISION if base == BASE else None, alike, replay)
    recogniser = Asr(model=asr) if asr is not None else None
    request = ImportRequest(source, Options(_columns(columns), audio), kind, recipe, folder, write_recipe, copy, recogniser, transcript)
    with RunConsole() as console:
        imported = import_source(request, console.counting)
    if format_ == "json":
        print_json(imported.as_json())
        return 0
    from qrecipe.report.imported import as_text

    click.echo(as_text(imported.as_json(), imported.dropped))
    return 0


def _columns(text: str | None) -> dict[str, str]:
    """`audio=path,text=sentence` as a mapping. Raises `RecipeError`."""
    from qrecipe.errors import Place, Problem, RecipeError, suggest
    from qrecipe.inputs.columns import NAMES

    columns: dict[str, str] = {}
    for part in (text or "").split(","):
        here, equals, there = part.partition("=")
        if not part.strip():
            continue
        if not equals or here.strip() not in NAMES:
            message = f"`{part.strip()}` says no column" if not equals else f"a row holds no `{here.strip()}`"
            raise RecipeError(Problem("QR070", message, Place("--columns"), suggest(here.strip(), NAMES)))
        columns[here.strip()] = there.strip()
    return columns
