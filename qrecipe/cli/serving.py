"""Common part of the verbs that serve a page: where it is, until Ctrl-C."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from qrecipe.report.serve import Site


def serve(site: Site, host: str, port: int, what: str) -> int:
    """Serves until a signal comes, which is how it is meant to end. Raises `UserError` where the address is taken."""
    from qrecipe.errors import Place, Problem, UserError
    from qrecipe.report.serve import served

    try:
        with served(site, host, port) as address:
            click.echo(f"{what} at {address}   (Ctrl-C ends it)")
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        return 0
    except OSError as e:
        raise UserError(
            Problem("QR070", f"cannot listen on {host}:{port}: {e.strerror or e}", Place("--port"), "take another port")
        ) from None
