"""Proof that the ranks of a run belong together: the same plan on the same versions, in folders that all of them see."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from qrecipe.errors import Place, Problem, UserError
from qrecipe.files import write_text
from qrecipe.plan.complete import RunPlan
from qrecipe.run.locking import versions
from qrecipe.world import World


def require_same(world: World, plan: RunPlan, options: dict[str, object]) -> None:
    """Raises `UserError` on a rank that plans something else than the first. `options` are the command line's."""
    recipe, base = plan.loaded.resolved(), plan.plan.base
    facts: dict[str, object] = {f"version of {name}": version for name, version in versions().items()}
    facts |= {"recipe": recipe, "base": base.identity}
    facts |= {f"dataset `{name}`": dataset.sha256 for name, dataset in plan.plan.datasets.items()}
    facts |= {f"evaluator `{name}`": evaluator.identity for name, evaluator in plan.plan.evaluators.items()}
    facts |= {f"option `{name}`": str(value) for name, value in options.items()}
    world.agree({**facts, "plan": plan.plan.hash})


def require_shared(world: World, folders: Sequence[Path]) -> None:
    """Raises `UserError` on a rank that does not see what the first writes into a folder."""
    for folder in () if world.alone else folders:
        name = world.from_first(lambda: f".shared-{secrets.token_hex(8)}.tmp", "looking for shared folders")
        if world.first:
            write_text(folder / name, "all ranks look for this file\n")
        world.wait("looking for shared folders")
        seen = (folder / name).is_file()
        world.wait("looking for shared folders")
        (folder / name).unlink(missing_ok=True)
        if not seen:
            message = f"rank {world.rank} does not see what rank 0 writes into {folder}"
            help_ = "put it on a file system that all hosts share: --runs, --bundles, and QRECIPE_CACHE for the cache"
            raise UserError(Problem("QR090", message, Place(str(folder)), help_))
