"""`prepare`: checks and encodes a recipe's data, listens to it, has the base speak what stages learn from it, and describes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qrecipe.data.report import Report
from qrecipe.files import cache_dir, write_text
from qrecipe.plan.complete import RunPlan
from qrecipe.recipe.dataset import SpeechDataset
from qrecipe.report.data_page import write_data_page
from qrecipe.run.datasets import prepare_all, reports
from qrecipe.run.events import Events, Listener
from qrecipe.run.listening import Listened, Listening
from qrecipe.run.ranks import require_same, require_shared
from qrecipe.run.session import open_session
from qrecipe.run.synthetic import prepare_synthetic, spoken_for, spoken_judges
from qrecipe.world import World


@dataclass(frozen=True)
class PreparedData:
    """Description of a recipe's data."""

    reports: list[Report]
    listened: dict[str, Listened]
    """Datasets of recordings as they sound, before their filters."""
    page: Path
    """The page with players."""


def prepare(plan: RunPlan, runs: Path, listener: Listener | None = None, world: World | None = None) -> PreparedData:
    """Prepares every dataset of a plan, synthetic ones too, and writes a page about them into the recipe's run folder.

    Raises `DataError` with all problems of all datasets. Every rank of `world` calls this; the first one alone listens and
    describes the data.
    """
    recipe, world = plan.loaded.recipe, world or World()
    require_same(world, plan, {})
    require_shared(world, [cache_dir()])
    session = open_session(plan.base, plan.hashes, Events(None, listener), world)
    prepared = prepare_all(plan, session, recipe.datasets, filtered=False)
    listening = Listening(plan, session)
    listened = {
        name: listening.listen(name, dataset, prepared.speech[name])
        for name, dataset in recipe.datasets.items()
        if isinstance(dataset, SpeechDataset) and world.first
    }
    spoken = dict.fromkeys([*spoken_judges(plan), *spoken_for(plan, (s.id for s in recipe.stages))])
    prepare_synthetic(plan, session, spoken)
    descriptions = reports(plan, prepared, session.encoder) if world.first else []
    session.hashes.save()
    pages = [item.page(d.filter) for name, item in listened.items() if isinstance(d := recipe.datasets[name], SpeechDataset)]
    page = runs / recipe.name / "data.html"
    if world.first:
        write_text(page, write_data_page(f"Data of {recipe.name}", pages))
    return PreparedData(descriptions, listened, page)
