"""The JSON Schema that editors read and the engine mean the same by the same recipe, or the difference has a reason here."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from qrecipe.errors import RecipeError
from qrecipe.plan.schemas import schemas
from qrecipe.recipe.recipe import Recipe
from qrecipe.source.compose import compose

ROOT = Path(__file__).parents[2]
BROKEN = Path(__file__).parent / "broken"
RECIPES = sorted([*(ROOT / "recipes").glob("*.yaml"), *BROKEN.glob("*.yaml")])
VALIDATOR = jsonschema.Draft202012Validator(schemas()["recipe"])


def engine(value: Any) -> bool:
    """Whether the settings models take a recipe."""
    try:
        Recipe.model_validate(value)
    except ValidationError:
        return False
    return True


def reason_for_a_difference(value: Any) -> str | None:
    """Why the two may differ over this recipe. All that JSON Schema, or an editor, cannot say."""
    found = list(_parts(value))
    if any(isinstance(v, float) and not math.isfinite(v) for v in found):
        return "JSON has no infinity: a schema cannot refuse it"
    if any(isinstance(v, float) and v.is_integer() for v in found):
        return "to JSON Schema 2.0 is a whole number, here it is not"
    if isinstance(value, dict) and ("extends" in value or value.get("template") is True):
        return "fields that only a file may have, taken away before the models see a recipe"
    if isinstance(value, dict) and (value.get("evaluators") or {}).get("speaker", {}).get("backend", "base") != "base":
        return "which recogniser of speakers needs a model is said by its own check"
    if isinstance(value, dict) and ((value.get("evaluators") or {}).get("asr") or {}).get("backend") == "transformers":
        return "that only faster-whisper has a window is said by its own check"
    return None


def _parts(value: Any) -> Any:
    yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _parts(child)


def agree(value: Any) -> bool:
    return VALIDATOR.is_valid(value) == engine(value) or reason_for_a_difference(value) is not None


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_on_every_recipe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    try:
        composed = compose(Path(path.name), [])
    except RecipeError:
        return  # what cannot be read has no meaning to agree on
    value = composed.node.plain()
    if composed.problems or (isinstance(value, dict) and "template" in value):
        return
    assert agree(value), [e.message for e in VALIDATOR.iter_errors(value)]


SOUND = compose(BROKEN / "sound.yaml", []).node.plain()
VALUES = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        -1,
        5,
        2.5,
        -0.5,
        "",
        "a",
        "malay",
        "builtin:mini",
        "0.1.0",
        "speech",
        "text",
        "previous",
        "seen",
        "$x",
        [],
        [1],
        ["a"],
        {},
        {"a": 1},
        [{}],
        {"rank": 8, "alpha": 16},
        {"use": "replay", "share": 0.5},
        {"mean_of": ["english"]},
        {"copy": "english"},
        [2072],
        "auto",
        2072,
        5000,
        "Malay",
    ]
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at] if at else []
    for key, child in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += paths(child, (*at, key))
    return found


FIELDS = sorted({p for m in schemas()["recipe"]["$defs"].values() for p in m.get("properties", {})})


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(paths(SOUND)), st.sampled_from(["set", "drop", "add"]), VALUES, st.sampled_from(FIELDS)),
        min_size=1,
        max_size=2,
    )
)
@pytest.mark.slow
def test_on_changed_recipes(changes: list[tuple[tuple[Any, ...], str, Any, str]]) -> None:
    recipe: Any = copy.deepcopy(SOUND)
    for path, what, value, field in changes:
        parent = recipe
        try:
            for key in path[:-1]:
                parent = parent[key]
            if what == "drop":
                del parent[path[-1]]
            elif what == "set":
                parent[path[-1]] = value
            elif isinstance(parent, dict):
                parent[field] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it away
    assert agree(recipe), (changes, [e.message for e in VALIDATOR.iter_errors(recipe)][:3])
