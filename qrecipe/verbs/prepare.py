"""`prepare`: checks and encodes a recipe's data, has the base speak what stages learn from it, and describes it."""

from __future__ import annotations

from qrecipe.data.report import Report
from qrecipe.files import cache_dir
from qrecipe.plan.complete import RunPlan
from qrecipe.run.datasets import prepare_all, reports
from qrecipe.run.events import Events, Listener
from qrecipe.run.ranks import require_same, require_shared
from qrecipe.run.session import open_session
from qrecipe.run.synthetic import prepare_synthetic, spoken_for, spoken_judges
from qrecipe.world import World


def prepare(plan: RunPlan, listener: Listener | None = None, world: World | None = None) -> list[Report]:
    """Prepares every dataset of a plan, synthetic ones too. Raises `DataError` with all problems of all datasets.

    Every rank of `world` calls this; the first one alone describes the data.
    """
    recipe, world = plan.loaded.recipe, world or World()
    require_same(world, plan, {})
    require_shared(world, [cache_dir()])
    session = open_session(plan.base, plan.hashes, Events(None, listener), world)
    prepared = prepare_all(plan, session, recipe.datasets)
    spoken = dict.fromkeys([*spoken_judges(plan), *spoken_for(plan, (s.id for s in recipe.stages))])
    prepare_synthetic(plan, session, spoken)
    descriptions = reports(plan, prepared, session.encoder) if world.first else []
    session.hashes.save()
    return descriptions
