"""`qrecipe validate`."""

from __future__ import annotations

from pathlib import Path

import click

from qrecipe.cli.completion import complete_recipes
from qrecipe.cli.options import FILE, allow_option, format_option, set_option
from qrecipe.errors import Problems, UserError
from qrecipe.hashes import FileHashes


@click.command("validate")
@click.argument("files", nargs=-1, required=True, type=FILE, shell_complete=complete_recipes)
@click.option("--strict", is_flag=True, help="A missing base or data is an error, not a warning.")
@click.option("--locked", is_flag=True, help="Also compare with the lock beside each recipe.")
@allow_option
@set_option
@format_option("github")
def command(files: tuple[Path, ...], strict: bool, locked: bool, sets: tuple[str, ...], format_: str) -> int:
    """Check recipes: their form, their names, their patterns against the base, their texts. Exit code 0 or 2."""
    from qrecipe.cli.app import print_json
    from qrecipe.report.problems import as_github, summary, tell

    hashes = FileHashes()
    problems = Problems(p for file in files for p in check(file, sets, strict, hashes, locked))
    if format_ == "json":
        print_json({"problems": [p.as_json() for p in problems]})
    elif format_ == "github":
        click.echo(as_github(problems))
    else:
        if problems:
            tell(problems)
        click.echo(f"{len(files)} file{'s' if len(files) != 1 else ''}: {summary(problems)}")
    return 2 if problems.errors else 0


def check(file: Path, sets: tuple[str, ...], strict: bool, hashes: FileHashes, locked: bool = False) -> Problems:
    """Every problem of a recipe: of its text, of its plan, and differences from its lock."""
    from qrecipe.plan import make_plan
    from qrecipe.recipe import inspect
    from qrecipe.recipe.validate import with_more

    loaded, problems = inspect(file, sets)
    if loaded is None:
        return problems
    try:
        planned = make_plan(loaded, hashes, strict)
        if locked and not planned.errors and not problems.errors:
            from qrecipe.plan.complete import with_identity
            from qrecipe.run.locking import drift

            planned = with_identity(planned, hashes, strict)
            return Problems([*planned.problems, *drift(planned)])
    except UserError as e:
        return with_more(problems, e.problems)
    return with_more(problems, planned.problems) if problems.errors else planned.problems.in_order()
