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
    """Say what is installed, which device trains, and the folder that a base resolves to. Exit code 2 if something is missing."""
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
        for problem in findings["missing"]:
            click.echo(f"missing: {problem}")
        if not findings["missing"]:
            click.echo("nothing is missing")
    return 2 if findings["missing"] else 0
