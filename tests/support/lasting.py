"""A small recipe that passes through everything that a crash can hit, and what an undisturbed run makes of it."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import recipes
from tests.support.crash import Ended, Nursery

PASSES = {"metric": "talker_nll", "data": "dev", "max": 100.0}
SPOKEN = {"metric": "duration_ratio", "data": "dev", "min": 0.0, "severity": "warn"}
TEXT = {
    "id": "text",
    "objective": "text_lm",
    "data": ["text"],
    "train": [{"match": "talker.model.text_embedding", "rows": "seen", "lr": 1.0e-3}],
    "steps": 3,
    "fit_steps": 3,
}


def content() -> dict[str, Any]:
    """Text, then speech with selection, then gates: one that speaks and one that does not."""
    select = {"metric": "talker_nll", "data": "dev", "every": 2}
    stages = [TEXT, recipes.stage(steps=6, batch={"frames": 30}, prompt="mixed", select=select, gates=[PASSES, SPOKEN])]
    return recipes.recipe(stages=stages, accept=[PASSES])


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder."""
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


@dataclass(frozen=True)
class Lasting:
    """The recipe, and the bundle of a run that nothing disturbed."""

    folder: Path
    nursery: Nursery
    expected: dict[str, str]
    seconds: float
    """Of the undisturbed run, with nothing in the cache."""

    def place(self, name: str) -> Path:
        """Another folder with the same recipe and data."""
        place = self.folder.parent / name
        place.mkdir()
        shutil.copy(self.folder / "recipe.yaml", place)
        shutil.copytree(self.folder / "data", place / "data")
        return place

    def run(self, place: Path, **how: Any) -> Ended:
        """`qrecipe run` there, a checkpoint after every step, with a cache of its own for codes."""
        return self.nursery.run("run", "recipe.yaml", "--checkpoint-steps", 1, cwd=place, QRECIPE_CACHE=str(place / "cache"), **how)

    def finish(self, place: Path) -> Ended:
        """Runs again, undisturbed, and asserts that the bundle is the expected one byte for byte."""
        ended = self.run(place)
        assert ended.code == 0, ended.err
        assert hashes(place / "bundles" / "tiny-0.1.0") == self.expected
        return ended


def undisturbed(folder: Path, nursery: Nursery) -> Lasting:
    """Makes the recipe in `folder` and runs it once."""
    recipes.write(folder, content())
    whole = nursery.run("run", "recipe.yaml", cwd=folder, QRECIPE_CACHE=str(folder / "cache"))
    assert whole.code == 0, whole.err
    return Lasting(folder, nursery, hashes(folder / "bundles" / "tiny-0.1.0"), whole.seconds)
