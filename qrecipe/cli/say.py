"""`qrecipe say`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qrecipe.cli.options import FILE, format_option


@click.command("say")
@click.argument("model")
@click.argument("text")
@click.option("--language", default="auto", show_default=True, help="Language: its name or BCP 47 tag, or auto.")
@click.option("--reference", required=True, type=FILE, help="A recording of the voice.")
@click.option("--reference-text", help="What is said in it; makes the prompt in-context.")
@click.option(
    "--layout", type=click.Choice(["streaming", "non_streaming"]), default="streaming", show_default=True, help="How text meets frames."
)
@click.option("--seed", default=0, show_default=True, help="Seed of sampling.")
@click.option(
    "--engine",
    type=click.Choice(["own", "stock"]),
    default="own",
    show_default=True,
    help="own: qrecipe's engine, as everywhere else. stock: generate_voice_clone of qwen_tts.",
)
@click.option("--out", required=True, type=FILE, help="The file to write: .wav, .flac, .mp3, .ogg or .opus.")
@format_option()
def command(model: str, out: Path, format_: str, **options: Any) -> int:
    """Speak TEXT with MODEL (a base, a bundle, or runs/NAME@STAGE)."""
    from qrecipe.cli.app import print_json
    from qrecipe.verbs.say import Speech, say

    result = say(model, Speech(**{**options, "language": options["language"].lower()}), out)
    if format_ == "json":
        print_json(result, indent=None)
    else:
        click.echo(f"{result['out']}: {result['seconds']:.1f} s")
    return 0
