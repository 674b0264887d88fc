"""`prepare`: checks and encodes a recipe's data, has the base speak what stages learn from it, and describes it."""

from __future__ import annotations

from qrecipe.data.codes import Encoder
from qrecipe.data.report import Report
from qrecipe.model.opened import open_model
from qrecipe.plan.complete import RunPlan
from qrecipe.run.datasets import prepare_all, reports
from qrecipe.run.events import Events, Listener
from qrecipe.run.synthetic import prepare_synthetic, spoken_for


def prepare(plan: RunPlan, listener: Listener | None = None) -> list[Report]:
    """Prepares every dataset of a plan, what the base says among them. Raises `DataError` with all problems of all datasets."""
    recipe = plan.loaded.recipe
    encoder = Encoder(open_model(plan.base), plan.base, plan.hashes)
    events = Events(None, listener)
    prepared = prepare_all(plan, encoder, recipe.datasets, events)
    prepare_synthetic(plan, encoder, events, spoken_for(plan, (s.id for s in recipe.stages)))
    found = reports(plan, prepared, encoder)
    plan.hashes.save()
    return found
