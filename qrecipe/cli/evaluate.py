"""`qrecipe evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from qrecipe.cli.options import FILE, allow_option, format_option


@click.command("evaluate")
@click.argument("model")
@click.option("--data", required=True, type=FILE, help="A speech manifest.")
@click.option("--metrics", default="nll", show_default=True, help="Metrics, separated by commas; nll is talker_nll and predictor_nll.")
@click.option(
    "--layout", type=click.Choice(["streaming", "non_streaming"]), default="streaming", show_default=True, help="How text meets frames."
)
@click.option("--language", default="auto", show_default=True, help="Language of the data, as the model lists it, or auto.")
@click.option("--reference", type=FILE, help="A recording of the voice, for every row.")
@click.option("--reference-text", help="What is said in it; makes the prompt in-context.")
@click.option("--seeds", default="0,1", show_default=True, help="Seeds of generated speech.")
@click.option("--asr", metavar="MODEL", help="Recogniser for cer and wer, as `evaluators.asr.model` of a recipe: wheel:whisper-base.")
@click.option("--bcp47", metavar="TAG", help="BCP 47 tag of the language, where the base does not know it by name.")
@allow_option
@format_option()
def command(
    model: str,
    data: Path,
    metrics: str,
    layout: str,
    language: str,
    reference: Path | None,
    reference_text: str | None,
    seeds: str,
    asr: str | None,
    bcp47: str | None,
    format_: str,
) -> int:
    """Measure MODEL (a base, a bundle, or runs/NAME@STAGE) on recordings."""
    from qrecipe.cli.app import print_json
    from qrecipe.report.console import RunConsole
    from qrecipe.run.evaluation import Request, evaluate

    try:
        numbers = [int(s) for s in seeds.split(",")]
    except ValueError:
        raise click.BadParameter("seeds are whole numbers separated by commas", param_hint="--seeds") from None
    request = Request(model, data, metrics.split(","), layout, language.lower(), reference, reference_text, numbers, asr, bcp47)
    with RunConsole() as console:
        result = evaluate(request, console)
    if format_ == "json":
        print_json(result)
        return 0
    from rich.console import Console
    from rich.table import Table

    names = [k for k in result["summary"] if k not in ("items", "frames")]
    table = Table(title=f"{model} on {data.name}, {language}, {layout}", title_justify="left")
    for column in ("text", "frames", *names):
        table.add_column(column, overflow="fold")
    for item in result["items"]:
        table.add_row(item["text"], str(item["frames"]), *(f"{item[n]:.4f}" for n in names))
    table.add_row("mean", "", *(f"{result['summary'][n]:.4f}" for n in names))
    Console(highlight=False).print(table)
    return 0
