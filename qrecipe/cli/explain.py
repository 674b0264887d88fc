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
    from qrecipe.cli.app import print_json
    from qrecipe.errors import CODES, suggest
    from qrecipe.report.explain import explanations

    known = explanations()
    if code is None:
        if format_ == "json":
            print_json([e.as_json() for e in known.values()])
        else:
            click.echo("".join(f"{c}  {kind.meaning}\n" for c, kind in CODES.items()), nl=False)
        return 0
    found = known.get(code.upper())
    if found is None:
        raise click.UsageError(f"no problem has the code `{code}`; {suggest(code.upper(), known)}")
    if format_ == "json":
        print_json(found.as_json())
    else:
        click.echo(found.as_text(), nl=False)
    return 0
