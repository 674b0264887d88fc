"""The study of learning by ear: nothing that judges is learned from, and its recipe and its intervals are right."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qrecipe.plan import make_plan
from qrecipe.recipe import load

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "studies"))  # the tools are scripts, not a package
try:
    import by_ear
finally:
    sys.path.pop(0)

WORDS = ["kucing", "merah", "berjalan", "rumah", "besar"]


@pytest.mark.parametrize("most", [by_ear.FEW, 2 * by_ear.FEW])
@pytest.mark.parametrize("language", by_ear.LETTERS)
def test_nothing_that_judges_is_learned_from(language: str, most: int) -> None:
    learned, tune = by_ear.texts_of(language, WORDS, most)
    judged = by_ear.judged(language)
    assert len(judged) == len(set(judged)) == 40
    assert not set(judged) & {*learned, *tune}
    assert not set(learned) & set(tune)
    assert len(tune) == 24


def test_its_recipe_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_ear, "usual_words", lambda language: WORDS)
    settings = {"takes": 2, "steps": 3, "rewarded": 4, "lead": 0.48, "seed": 1, "recogniser": "wheel:whisper-base"}
    by_ear.write("malay", tmp_path / "project", 100, settings)
    planned = make_plan(load(tmp_path / "project" / "recipe.yaml"))
    assert [(s.id, s.objective, s.steps) for s in planned.plan.stages] == [("read", "respell", 3), ("ear", "reward", 4)]
    assert (planned.plan.seed, planned.plan.languages["malay"].lead) == (1, 0.48)
    assert not planned.errors


def test_intervals_are_over_sentences() -> None:
    errors = {"a": (1, 10), "b": (3, 10)}
    assert by_ear.interval(errors) == pytest.approx((0.2, 0.1, 0.3))
    assert by_ear.interval(errors, {"a": (2, 10), "b": (4, 10)}) == pytest.approx((-0.1, -0.1, -0.1))
