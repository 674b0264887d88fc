"""Serving a page until Ctrl-C, for the verbs that do."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

import click


def serve(page: AbstractContextManager[str], what: str) -> int:
    """Serves until a signal comes, which is how it is meant to end. `page` gives its address, and serves while it is entered."""
    try:
        with page as address:
            click.echo(f"{what} at {address}   (Ctrl-C ends it)")
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        return 0
