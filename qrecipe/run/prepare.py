"""`prepare`: checks and encodes a recipe's data, has the base speak what stages learn from it, and describes it."""

from __future__ import annotations

from qrecipe.data.codes import Encoder
from qrecipe.data.report import Report
from qrecipe.files import FileHashes
from qrecipe.model.opened import open_model
from qrecipe.recipe import LoadedRecipe
from qrecipe.run.datasets import prepare_all, ready, reports
from qrecipe.run.events import Events, Listener
from qrecipe.run.locking import require
from qrecipe.run.teaching import lessons_of, teach


def prepare(loaded: LoadedRecipe, listener: Listener | None = None, locked: bool = False) -> list[Report]:
    """Prepares every dataset of a recipe, what the base says among them. Raises `DataError` with all problems of all datasets.

    `locked` refuses whatever differs from the lock beside the recipe, before anything is encoded.
    """
    hashes = FileHashes()
    planned, base = ready(loaded, hashes)
    if locked:
        require(planned, base)
    encoder = Encoder(open_model(base), base, hashes)
    events = Events(None, listener)
    prepared = prepare_all(planned, encoder, loaded.recipe.datasets, events)
    teach(planned, base, encoder.opened, encoder, events, lessons_of(planned, (s.id for s in loaded.recipe.stages)))
    found = reports(planned, prepared, encoder)
    hashes.save()
    return found
