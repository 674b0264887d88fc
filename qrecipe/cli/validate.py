"""`qrecipe validate`."""

from __future__ import annotations

from pathlib import Path

import click

from qrecipe.cli.completion import complete_recipes
from qrecipe.cli.options import FILE, allow_option, format_option, set_option
from qrecipe.errors import Problem, UserError
from qrecipe.files import FileHashes


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
    from qrecipe.report.problems import as_github, as_text, summary

    hashes = FileHashes()
    problems = [p for file in files for p in check(file, sets, strict, hashes, locked)]
    if format_ == "json":
        print_json({"problems": [p.as_json() for p in problems]})
    elif format_ == "github":
        click.echo(as_github(problems))
    else:
        if problems:
            click.echo(as_text(problems), err=True)
        click.echo(f"{len(files)} file{'s' if len(files) != 1 else ''}: {summary(problems)}")
    return 2 if any(p.severity == "error" for p in problems) else 0


def check(file: Path, sets: tuple[str, ...], strict: bool, hashes: FileHashes, locked: bool = False) -> list[Problem]:
    """Every problem of a recipe: what its text shows, what the plan shows, and what differs from the lock."""
    from qrecipe.plan import make_plan
    from qrecipe.recipe import inspect
    from qrecipe.recipe.validate import with_more

    loaded, problems = inspect(file, sets)
    if loaded is None:
        return problems
    faulty = any(p.severity == "error" for p in problems)
    try:
        planned = make_plan(loaded, hashes, strict)
        if locked and not planned.errors and not faulty:
            from qrecipe.plan.complete import with_identity
            from qrecipe.run.locking import drift

            planned = with_identity(planned, hashes, strict)
            return [*planned.problems, *drift(planned)]
        found = planned.problems
    except UserError as e:
        return with_more(problems, e.problems)
    return with_more(problems, found) if faulty else sorted(found, key=lambda p: (p.place, p.code))
