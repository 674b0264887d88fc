"""`qrecipe search`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from qrecipe.cli.completion import complete_recipes
from qrecipe.cli.options import FILE, allow_option, format_option


@click.command("search")
@click.argument("file", type=FILE, shell_complete=complete_recipes)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), required=True, help="Time to search; a second call goes on.")
@click.option("--runs", type=FILE, default=Path("runs"), show_default=True, help="Folder of run folders.")
@allow_option
@format_option()
def command(file: Path, minutes: float, runs: Path, format_: str) -> int:
    """Try variants of a recipe, judged by ear on sentences that neither train nor judge, and write the best as a recipe.

    All variants begin with a small share of the training; the better ones go on. One process a GPU. What was tried is kept, and the
    same command goes on where it was stopped. The best variant is written beside FILE, as NAME.found.yaml.
    """
    from qrecipe.cli.app import print_json
    from qrecipe.hashes import FileHashes
    from qrecipe.plan import make_plan
    from qrecipe.plan.diff import compare
    from qrecipe.recipe import load
    from qrecipe.report import diff
    from qrecipe.report.console import RunConsole
    from qrecipe.report.search import table

    with RunConsole() as console:
        loaded = load(file)
        console.say("loading torch")
        from qrecipe.verbs.search import search

        outcome = search(loaded, runs, minutes, console.say)
        assert loaded.recipe.search is not None
        console.show(table(loaded.recipe.search.metric, outcome.ranked))
        if outcome.winner is not None:
            hashes = FileHashes()
            change = compare(make_plan(load(file), hashes), make_plan(load(outcome.winner), hashes))
            console.say(diff.as_text(change, f"{file} -> {outcome.winner}").rstrip())
        if not outcome.finished:
            console.say("no variant has had all of its training yet: the same command goes on from here")
        console.say(f"listen: {outcome.page}")
    if format_ == "json" or not sys.stdout.isatty():
        winner = None if outcome.winner is None else str(outcome.winner)
        print_json({"ranked": [r.as_json() for r in outcome.ranked], "found": winner, "finished": outcome.finished}, indent=None)
    return 0
