"""`qrecipe bundle`."""

from __future__ import annotations

from pathlib import Path

import click

from qrecipe.cli.completion import complete_stages
from qrecipe.cli.options import FILE, format_option


@click.group("bundle")
def command() -> None:
    """Build or verify a bundle."""


@command.command("verify")
@click.argument("folder", type=FILE)
@format_option()
def verify_command(folder: Path, format_: str) -> int:
    """Find every changed, missing or extra file of a bundle. Exit code 0 or 2."""
    from qrecipe.bundle.verify import read_manifest, verify
    from qrecipe.cli.app import print_json
    from qrecipe.errors import BundleError
    from qrecipe.report.problems import tell

    problems = verify(folder)
    wrong = bool(problems.errors)
    if format_ == "json":
        print_json({"bundle": str(folder), "verified": not wrong, "problems": [p.as_json() for p in problems]})
        return 2 if wrong else 0
    if wrong:
        raise BundleError(problems)
    if problems:
        tell(problems)
    manifest = read_manifest(folder)
    which = "all but the card" if problems else "all"
    click.echo(f"{folder}: {manifest.name} {manifest.version}, {len(manifest.files)} files, {which} as they were written")
    return 0


@command.command("build")
@click.argument("run_folder", metavar="RUNS/NAME", type=FILE)
@click.option("--stages", shell_complete=complete_stages, help="Stages to keep, separated by commas; default: those that the run kept.")
@click.option("--bundles", type=FILE, default=Path("bundles"), show_default=True, help="Folder of bundles.")
@format_option()
def build_command(run_folder: Path, stages: str | None, bundles: Path, format_: str) -> int:
    """Build a bundle from a run's stages, without training. Its gates are not judged again, and its manifest says so."""
    from qrecipe.cli.app import print_json
    from qrecipe.plan import complete_plan
    from qrecipe.recipe import load
    from qrecipe.run.record import require_record
    from qrecipe.verbs.bundle import rebuild

    record = require_record(run_folder)
    plan = complete_plan(load(Path(record.file), record.sets))
    target = rebuild(plan, run_folder, record, stages.split(",") if stages else None, bundles)
    if format_ == "json":
        print_json({"bundle": str(target)}, indent=None)
    else:
        click.echo(str(target))
    return 0
