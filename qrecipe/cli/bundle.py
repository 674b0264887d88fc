"""`qrecipe bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qrecipe.cli.completion import complete_stages
from qrecipe.cli.options import FILE, format_option


@click.group("bundle")
def command() -> None:
    """Build, verify or check a bundle."""


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


@command.command("check")
@click.argument("folder", type=FILE)
@click.option("--for", "servers", default="all", show_default=True, help="Servers, separated by commas, or all.")
@format_option()
def check_command(folder: Path, servers: str, format_: str) -> int:
    """Say which servers would take a bundle and honour its languages, without running them.

    Exit code 2 if a server that --for names would not; `all` tells about each and ends with 0.
    """
    from qrecipe.bundle.servers import SERVERS, Served, check_servers
    from qrecipe.bundle.verify import read_manifest
    from qrecipe.cli.app import print_json
    from qrecipe.errors import suggest

    names = list(SERVERS) if servers == "all" else [n.strip() for n in servers.split(",")]
    unknown = [n for n in names if n not in SERVERS]
    if unknown:
        raise click.BadParameter(f"no server is called `{unknown[0]}`; {suggest(unknown[0], [*SERVERS, 'all'])}", param_hint="--for")
    rows = {k: v.token_id for k, v in read_manifest(folder).languages.items()}
    checks = check_servers(Served(folder.resolve(), rows), names)
    if format_ == "json":
        print_json({"bundle": str(folder), "servers": [c.as_json() for c in checks]})
    else:
        from qrecipe.report.tables import Printer, server_table

        Printer().print(server_table(folder.name, checks))
    return 2 if servers != "all" and any(c.answer == "no" for c in checks) else 0


@command.command("build")
@click.argument("sources", metavar="RUNS/NAME | PACK...", nargs=-1, required=True, type=FILE)
@click.option("--stages", shell_complete=complete_stages, help="Stages to keep, separated by commas; default: those that the run kept.")
@click.option("--packs", is_flag=True, help="The arguments are language packs, which are put onto one base.")
@click.option("--name", help="With --packs: name of the bundle.")
@click.option("--version", default="0.1.0", show_default=True, help="With --packs: version of the bundle.")
@click.option("--base", metavar="MODEL", help="With --packs: the base, where the packs were made from a folder.")
@click.option(
    "--merge",
    "rule",
    type=click.Choice(["sum", "refuse"]),
    default="sum",
    show_default=True,
    help="With --packs: what becomes of weights that several changed.",
)
@click.option("--runs", type=FILE, default=Path("runs"), show_default=True, help="With --packs: where judging resumes.")
@click.option("--bundles", type=FILE, default=Path("bundles"), show_default=True, help="Folder of bundles.")
@format_option()
def build_command(sources: tuple[Path, ...], stages: str | None, packs: bool, bundles: Path, format_: str, **options: Any) -> int:
    """Build a bundle from a run's stages, without training, or from language packs.

    The gates of a run are not judged again, and the manifest says so. Those of packs are judged again, all of them, on the
    bundle; exit code 3 if one does not pass.
    """
    if packs:
        if stages is not None:
            raise click.UsageError("--stages chooses stages of a run, and --packs has none")
        return _build_packs(sources, bundles, format_, options)
    if len(sources) > 1:
        raise click.UsageError("one run's folder; language packs need --packs")
    from qrecipe.cli.app import print_json
    from qrecipe.plan import complete_plan
    from qrecipe.recipe import load
    from qrecipe.run.record import require_record
    from qrecipe.verbs.bundle import rebuild

    (run_folder,) = sources
    record = require_record(run_folder)
    plan = complete_plan(load(Path(record.file), record.sets))
    target = rebuild(plan, run_folder, record, stages.split(",") if stages else None, bundles)
    if format_ == "json":
        print_json({"bundle": str(target)}, indent=None)
    else:
        click.echo(str(target))
    return 0


def _build_packs(packs: tuple[Path, ...], bundles: Path, format_: str, options: dict[str, Any]) -> int:
    """The languages of packs on one base, judged again."""
    from qrecipe.cli.app import print_json
    from qrecipe.report.console import RunConsole
    from qrecipe.report.tables import shared_table
    from qrecipe.verbs.pack import PackRequest, compose

    if options["name"] is None:
        raise click.UsageError("a bundle of packs needs a --name")
    with RunConsole() as console:
        composed = compose(PackRequest(packs=packs, bundles=bundles, **options), console)
        if composed.shared:
            console.console.print(shared_table(composed.shared, options["rule"]))
        failed = [v for verdicts in composed.verdicts.values() for v in verdicts if not v.counts_as_pass]
        if failed:
            console.say("no bundle, because " + "; ".join(f"{v.gate} is {v.outcome}" for v in failed[:3]))
    if format_ == "json":
        print_json(composed.as_json(), indent=None)
    elif composed.bundle is not None:
        click.echo(str(composed.bundle))
    return 0 if composed.bundle is not None else 3
