"""Mutated files of every kind that comes from elsewhere: an error with a code or a good reading, and nothing else.

`make fuzz` does the same with thousands of files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import fuzz
from tests.support.shared import Finished

QUICK: dict[str, tuple[Callable[[Path], fuzz.Target], int]] = {
    "audio": (fuzz.audio_files, 120),
    "manifests": (fuzz.manifests, 200),
    "safetensors headers": (fuzz.headers, 120),
    "recipes": (fuzz.recipe_files, 60),
    "packs": (fuzz.packs, 200),
    "ballots": (fuzz.ballots, 200),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", QUICK)
def test_mutated(kind: str, tmp_path: Path) -> None:
    make, count = QUICK[kind]
    tally = make(tmp_path).run(count, seed=1)
    assert tally.ends.total() == count
    assert len(tally.ends) > 1, "some are refused"


def test_mutated_requests(tmp_path: Path) -> None:
    with fuzz.requests(tmp_path) as target:
        ends = target.run(200, seed=1).ends
    assert {"200", "403"} <= ends.keys()


def test_mutated_configs(mini: object, tmp_path: Path) -> None:
    folder = mini.folder  # type: ignore[attr-defined]
    tally = fuzz.configs(tmp_path, folder).run(60, seed=1)
    assert tally.ends["QR051"] > 10


def test_mutated_bundles_and_locks(finished: Finished, tmp_path: Path) -> None:
    assert finished.outcome.bundle is not None
    assert fuzz.bundles(tmp_path, finished.outcome.bundle).run(25, seed=1).ends["QR060"] > 0
    assert fuzz.locks(tmp_path, finished.recipe.with_suffix(".lock")).run(60, seed=1).ends["QR062"] > 0
