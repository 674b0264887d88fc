"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from qrecipe.cli.completion import complete_sets

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)


def format_option(*more: str) -> Callable[[F], F]:
    """`--format text|json` and what a verb adds."""
    return click.option("--format", "format_", type=click.Choice(["text", "json", *more]), default="text", help="How to print.")


def set_option(function: F) -> F:
    """`--set path=value`, as often as needed."""
    option = click.option(
        "--set",
        "sets",
        shell_complete=complete_sets,
        multiple=True,
        metavar="PATH=VALUE",
        help="Change a value of the recipe, such as stages.text.epochs=3.",
    )
    return option(function)


def locked_option(function: F) -> F:
    """`--locked`."""
    return click.option("--locked", is_flag=True, help="Refuse whatever differs from the lock beside the recipe.")(function)


def serving_options(function: F) -> F:
    """`--host` and `--port` of a verb that serves a page."""
    host = click.option(
        "--host", default="127.0.0.1", show_default=True, help="Address to serve; others than loopback let other machines in."
    )
    return host(click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port; default: a free one.")(function))


def allow_option(function: F) -> F:
    """`--allow DIR`, as often as needed: acts at once and is no argument of the verb."""

    def act(context: click.Context, parameter: click.Parameter, folders: tuple[Path, ...]) -> None:
        from qrecipe.source.bounds import allow

        for folder in folders:
            allow(folder)

    help_ = "Let the recipe read this folder beside its own; also QRECIPE_ALLOW in the environment."
    return click.option("--allow", type=FILE, multiple=True, metavar="DIR", expose_value=False, callback=act, help=help_)(function)
