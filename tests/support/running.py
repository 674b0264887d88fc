"""Running a recipe in one call, as the command line does: plan it, then carry the plan out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrecipe.plan import complete_plan
from qrecipe.recipe import load

if TYPE_CHECKING:
    from qrecipe.run.record import Outcome


def run_recipe(
    recipe: Path, folder: Path, *, bundles: Path | None = None, sets: Sequence[str] = (), listener: Any = None, **options: Any
) -> Outcome:
    """Runs a recipe with its run below `folder/runs` and its bundle below `folder/bundles`."""
    from qrecipe.run.engine import RunOptions, run

    plan = complete_plan(load(recipe, sets))
    return run(plan, RunOptions(folder / "runs", bundles or folder / "bundles", **options), listener)
