"""`qrecipe doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from qrecipe.cli.options import format_option


@click.command("doctor")
@click.option("--base", "model", help="Also say where this base is: builtin:mini, a hub id, or a folder.")
@click.option("--revision", help="Of a hub id.")
@format_option()
def command(model: str | None, revision: str | None, format_: str) -> int:
    """Say what is installed and what is not, which device trains, which gates cannot be judged here, and where a base is.

    Exit code 2 if something is missing without which nothing runs.
    """
    from qrecipe.cli.app import print_json
    from qrecipe.verbs.doctor import examine

    findings = examine(model, revision, Path.cwd())
    if format_ == "json":
        print_json(findings)
    else:
        for key, value in findings["environment"].items():
            click.echo(f"{key}: {value}")
        if model:
            click.echo(f"base {model}: {findings['path'] or 'not on this machine'}")
        click.echo(f"recognisers: {', '.join(findings['recognisers']) or 'none'}")
        for problem in findings["optional"]:
            click.echo(f"optional: {problem}")
        for problem in findings["missing"]:
            click.echo(f"missing: {problem}")
        if not findings["missing"]:
            click.echo("nothing is missing" + (" but what is optional" if findings["optional"] else ""))
    return 2 if findings["missing"] else 0
