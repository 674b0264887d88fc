"""`qrecipe gc`."""

from __future__ import annotations

from pathlib import Path

import click

from qrecipe.cli.options import FILE, format_option


@click.command("gc")
@click.option("--runs", type=FILE, default=Path("runs"), show_default=True, help="Folder of run folders.")
@click.option("--bundles", type=FILE, default=Path("bundles"), show_default=True, help="Folder of bundles.")
@click.option("--unused-days", type=click.FloatRange(min=0), default=90.0, show_default=True, help="Codes that no run read for so long.")
@click.option("--delete", is_flag=True, help="Delete what is listed. Without it, nothing is.")
@format_option()
def command(runs: Path, bundles: Path, unused_days: float, delete: bool, format_: str) -> int:
    """List what nothing refers to: stages and values of earlier plans, old cache entries, leftovers of killed processes."""
    from qrecipe.files import cache_dir
    from qrecipe.report.tables import size
    from qrecipe.verbs.gc import as_json, find, remove

    listing = find(runs, bundles, cache_dir(), unused_days)
    if format_ == "json":
        click.echo(as_json(listing))
    else:
        for item in listing.garbage:
            click.echo(f"{size(item.bytes):>9}  {item.path}  ({item.why})")
        for folder in listing.busy:
            click.echo(f"{folder}: a run works here, left alone")
        total = size(sum(g.bytes for g in listing.garbage))
        what = "deleted" if delete else "would be deleted with --delete"
        click.echo(f"{len(listing.garbage)} items, {total}, {what}" if listing.garbage else "nothing to delete")
    if delete:
        remove(listing)
    return 0
