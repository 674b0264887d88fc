"""A run carries out the plan that was shown: nothing below it plans again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qrecipe.run
from qrecipe.cli import main
from qrecipe.plan import complete_plan
from qrecipe.plan import plan as planning
from qrecipe.recipe import load
from qrecipe.run.record import require_record
from tests.support.shared import Finished

PLANNING = re.compile(r"\b(make_plan|complete_plan|with_identity)\b")


def test_nothing_of_the_run_package_names_a_function_that_plans() -> None:
    folder = Path(qrecipe.run.__file__).parent
    assert [f.name for f in sorted(folder.rglob("*.py")) if PLANNING.search(f.read_text())] == []


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every plan that is made, whoever makes it: all begin with looking for the base."""
    made: list[str] = []
    locate = planning.locate

    def counted(*arguments: Any) -> Any:
        made.append("a plan")
        return locate(*arguments)

    monkeypatch.setattr(planning, "locate", counted)
    return made


def test_a_run_never_plans(tiny: Callable[..., Path], tmp_path: Path, plans: list[str]) -> None:
    from qrecipe.run.engine import RunOptions, run

    plan = complete_plan(load(tiny()))
    plans.clear()
    outcome = run(plan, RunOptions(tmp_path / "runs", tmp_path / "bundles"))
    assert outcome.status == "accepted"
    assert plans == []
    assert require_record(tmp_path / "runs" / "tiny").plan == plan.plan.hash


@pytest.mark.parametrize("words", [["run", "--until", "language"], ["prepare"]])
def test_a_verb_plans_once(words: list[str], tiny: Callable[..., Path], plans: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny()
    monkeypatch.chdir(recipe.parent)
    with pytest.raises(SystemExit) as ended:
        main([*words, recipe.name])
    assert (ended.value.code, plans) == (0, ["a plan"])


def test_a_bundle_is_built_from_one_plan(finished: Finished, tmp_path: Path, plans: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bundle", "build", str(finished.runs / "tiny"), "--bundles", str(tmp_path)])
    assert (ended.value.code, plans) == (0, ["a plan"])
