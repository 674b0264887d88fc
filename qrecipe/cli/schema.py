"""`qrecipe schema`."""

from __future__ import annotations

from pathlib import Path

import click

from qrecipe.cli.options import FILE
from qrecipe.errors import suggest


@click.command("schema")
@click.argument("name", required=False)
@click.option("--write", type=FILE, help="Write every schema into this folder.")
def command(name: str | None, write: Path | None) -> int:
    """Print the JSON Schema of NAME (recipe, text-row, speech-row, bundle, lock), or `metrics` and `objectives` as lists."""
    from dataclasses import asdict

    from qrecipe.cli.app import print_json
    from qrecipe.files import write_json
    from qrecipe.plan.schemas import schemas
    from qrecipe.recipe import metrics
    from qrecipe.recipe.objectives import OBJECTIVES

    by_name = schemas()
    if write is not None:
        for key, value in by_name.items():
            write_json(write / f"{key}.schema.json", value)
        click.echo(f"{len(by_name)} schemas in {write}")
        return 0
    if name == "metrics":
        print_json([asdict(s) for n in metrics.names() if (s := metrics.find(n)) is not None])
    elif name == "objectives":
        print_json([asdict(o) for o in OBJECTIVES.values()])
    elif name in by_name:
        print_json(by_name[name])
    else:
        what = f"no schema is called `{name}`" if name else "which schema?"
        raise click.UsageError(f"{what}; {suggest(name or '', [*by_name, 'metrics', 'objectives'])}")
    return 0
