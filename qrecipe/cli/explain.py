"""`qrecipe explain`."""

from __future__ import annotations

import click

from qrecipe.cli.completion import complete_codes
from qrecipe.cli.options import format_option


@click.command("explain")
@click.argument("code", required=False, shell_complete=complete_codes)
@format_option()
def command(code: str | None, format_: str) -> int:
    """Say what a problem's CODE, such as QR012, means and what to do about it; without one, list all codes."""
    from dataclasses import asdict

    from qrecipe.cli.app import print_json
    from qrecipe.errors import CODES, suggest
    from qrecipe.report.explain import explanations

    explained = explanations()
    if code is None:
        if format_ == "json":
            print_json([asdict(e) for e in explained.values()])
        else:
            click.echo("".join(f"{c}  {kind.meaning}\n" for c, kind in CODES.items()), nl=False)
        return 0
    explanation = explained.get(code.upper())
    if explanation is None:
        raise click.UsageError(f"no problem has the code `{code}`; {suggest(code.upper(), explained)}")
    if format_ == "json":
        print_json(asdict(explanation))
    else:
        click.echo(explanation.as_text(), nl=False)
    return 0
