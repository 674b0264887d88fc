"""`qrecipe push`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from qrecipe.cli.options import FILE, format_option


@click.command("push")
@click.argument("bundle", type=FILE)
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--public", is_flag=True, help="Everybody may see it. Without this, a repository that is made is private.")
@format_option()
def command(bundle: Path, repository: str, public: bool, format_: str) -> int:
    """Push a bundle that verifies to the Hugging Face hub, with a tag of its version.

    The access token is HF_TOKEN or that of `hf auth login`. A second push of the same bytes does nothing.
    """
    from qrecipe.bundle.push import push
    from qrecipe.cli.app import print_json

    pushed = push(bundle, repository, public)
    if format_ == "json":
        print_json(asdict(pushed), indent=None)
    elif pushed.sent or pushed.removed:
        click.echo(f"{pushed.url}: {pushed.tag}, {pushed.files} files, {len(pushed.sent)} of them sent, all compared")
    else:
        click.echo(f"{pushed.url}: {pushed.tag} is there, {pushed.files} files, byte for byte")
    return 0
