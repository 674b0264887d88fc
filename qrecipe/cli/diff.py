"""`qrecipe diff`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from qrecipe.cli.completion import complete_recipes
from qrecipe.cli.options import FILE, allow_option, format_option


@click.command("diff")
@click.argument("old", metavar="A", type=FILE, shell_complete=complete_recipes)
@click.argument("new", metavar="[B]", required=False, type=FILE, shell_complete=complete_recipes)
@click.option("--against", metavar="REVISION", help="Compare A with what it was in this git revision.")
@allow_option
@format_option("markdown")
def command(old: Path, new: Path | None, against: str | None, format_: str) -> int:
    """Say what changes in meaning from recipe A to recipe B, or to A from a git revision; formatting is ignored."""
    from qrecipe.cli.app import print_json
    from qrecipe.hashes import FileHashes
    from qrecipe.plan import make_plan
    from qrecipe.plan.diff import compare
    from qrecipe.recipe import load
    from qrecipe.recipe.revisions import at_revision
    from qrecipe.report import diff as report

    if (new is None) == (against is None):
        raise click.UsageError("give two recipes, or one and `--against REVISION`")
    hashes = FileHashes()
    with ExitStack() as stack:
        if against is not None:
            before = stack.enter_context(at_revision(old, against))
            difference = compare(make_plan(load(before), FileHashes(before.parent / ".hashes.sqlite")), make_plan(load(old), hashes))
            title = f"{old} since {against}"
        else:
            assert new is not None
            difference = compare(make_plan(load(old), hashes), make_plan(load(new), hashes))
            title = f"{old} -> {new}"
    if format_ == "json":
        print_json(difference.as_json())
    else:
        click.echo(report.as_markdown(difference, title) if format_ == "markdown" else report.as_text(difference, title), nl=False)
    return 0
