"""`prepare`: checks and encodes a recipe's data, and describes it."""

from __future__ import annotations

from qrecipe.data.codes import Encoder
from qrecipe.data.report import Report
from qrecipe.files import FileHashes
from qrecipe.model.opened import open_model
from qrecipe.recipe import LoadedRecipe
from qrecipe.run.datasets import prepare_all, ready, reports
from qrecipe.run.events import Events, Listener


def prepare(loaded: LoadedRecipe, listener: Listener | None = None) -> list[Report]:
    """Prepares every dataset of a recipe. Raises `DataError` with all problems of all datasets."""
    hashes = FileHashes()
    planned, base = ready(loaded, hashes)
    encoder = Encoder(open_model(base), base, hashes)
    prepared = prepare_all(planned, encoder, loaded.recipe.datasets, Events(None, listener))
    found = reports(planned, prepared, encoder)
    hashes.save()
    return found
