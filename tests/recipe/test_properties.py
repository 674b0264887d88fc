"""Whatever a file holds, reading it gives a tree or a `RecipeError`, and what was written is what is read."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from qrecipe.errors import RecipeError
from qrecipe.recipe import inspect
from qrecipe.report.problems import as_text
from qrecipe.source.reader import read_text
from qrecipe.source.writer import write_yaml

quick = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
BROKEN = Path(__file__).parent / "broken"
SOUND = (BROKEN / "sound.yaml").read_text(encoding="utf-8")

printable = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\ufeff\ufffe\uffff"), max_size=30)
yaml_ish = st.lists(
    st.sampled_from(
        [
            ": ",
            "- ",
            "\n",
            "\n  ",
            "{",
            "}",
            "[",
            "]",
            ",",
            "?",
            "|",
            ">",
            "&a",
            "*a",
            "!!x ",
            "'",
            '"',
            "\\",
            "\t",
            "#",
            "<<",
            "---\n",
            "%",
            "~",
        ]
    )
    | st.sampled_from(
        ["qrecipe: 1\n", "extends: a.yaml\n", "stages:\n", "vars: ", "$x", "${", "null", "1e-5", "9" * 500, '"\\ud800"', '"\\UFFFFFFFF"']
    )
    | st.text(max_size=4),
    max_size=30,
).map("".join)
scalars = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | printable
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(printable, inner, max_size=4), max_leaves=12)


@contextmanager
def only_recipe_errors() -> Iterator[None]:
    """Lets a `RecipeError` with well-formed problems pass."""
    try:
        yield
    except RecipeError as e:
        for problem in e.problems:
            assert problem.code.startswith("QR0")
            json.dumps(problem.as_json()).encode()
            assert problem.place.file == "r.yaml"


@pytest.mark.slow
@quick
@given(st.text())
def test_any_text(text: str) -> None:
    with only_recipe_errors():
        read_text(text, "r.yaml")


@pytest.mark.slow
@quick
@given(yaml_ish)
def test_text_that_looks_like_yaml(text: str) -> None:
    with only_recipe_errors():
        read_text(text, "r.yaml")


@quick
@given(values)
def test_what_is_written_as_json_is_read_as_it_was(value: Any) -> None:
    """JSON is YAML: quoted strings keep their text, numbers, truth values and null their type."""
    text = json.dumps({"key": value}, ensure_ascii=False)
    assume('"<<"' not in text)
    assert read_text(text, "r.yaml").plain() == {"key": value}


@quick
@given(scalars)
def test_a_scalar_keeps_its_value_and_type(value: Any) -> None:
    found = read_text(f"key: {json.dumps(value, ensure_ascii=False)}\n", "r.yaml").plain()
    assert isinstance(found, dict)
    assert found["key"] == value
    assert type(found["key"]) is type(value)


@quick
@given(st.floats(min_value=1e-300, max_value=1e300))
def test_rates_in_every_spelling(rate: float) -> None:
    for text in (repr(rate), f"{rate:e}", f"{rate:.17E}"):
        found = read_text(f"lr: {text}", "r.yaml").plain()
        assert isinstance(found, dict)
        assert math.isclose(float(found["lr"]), rate, rel_tol=1e-5)


def inspected(folder: Path, text: str, sets: tuple[str, ...] = ()) -> None:
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    _, problems = inspect(path, sets)
    as_text(problems).encode()
    for problem in problems:
        json.dumps(problem.as_json(), ensure_ascii=False).encode()


@pytest.mark.slow
@quick
@given(yaml_ish)
def test_inspect_takes_any_text(tmp_path: Path, text: str) -> None:
    inspected(tmp_path, text.encode(errors="replace").decode())


LINES = SOUND.splitlines(keepends=True)


@pytest.mark.slow
@quick
@given(st.integers(0, len(LINES) - 1), st.sampled_from(["drop", "twice", "indent", "cut", "swap"]), printable)
def test_inspect_takes_a_recipe_with_one_damaged_line(tmp_path: Path, line: int, damage: str, extra: str) -> None:
    lines = list(LINES)
    lines[line] = {
        "drop": "",
        "twice": lines[line] * 2,
        "indent": "  " + lines[line],
        "cut": lines[line][: len(lines[line]) // 2] + "\n",
        "swap": lines[line].split(":")[0] + ": " + extra + "\n",
    }[damage]
    inspected(tmp_path, "".join(lines))


FIELDS = [
    "qrecipe",
    "name",
    "version",
    "vars",
    "seed",
    "base",
    "languages",
    "datasets",
    "evaluation",
    "stages",
    "accept",
    "extends",
    "template",
]
INSIDE = [
    "text",
    "speech",
    "malay",
    "0",
    "id",
    "objective",
    "data",
    "train",
    "gates",
    "init",
    "path",
    "kind",
    "token_id",
    "select",
    "match",
    "rows",
]


@pytest.mark.slow
@quick
@given(st.lists(st.sampled_from(FIELDS) | st.sampled_from(INSIDE), min_size=1, max_size=4), values)
def test_inspect_takes_any_value_in_any_place(tmp_path: Path, keys: list[str], value: Any) -> None:
    inspected(tmp_path, SOUND, (".".join(keys) + "=" + json.dumps(value),))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 20_000,
        "? " * 20_000,
        "- " * 50_000,
        "a: " + "'" * 100_001,
        "x" * 500_000,
        "&a " * 20_000,
        "\t" * 100_000,
        "9" * 500_000,
    ],
)
def test_texts_that_are_made_to_be_slow(text: str) -> None:
    with only_recipe_errors():
        read_text(text, "r.yaml")


# thousands of documents

DOCUMENTS = 3_000
WORDS = [
    "no",
    "1e5",
    "0o17",
    "012",
    "12:30",
    "~",
    "<<",
    "- a",
    "a: b",
    "#x",
    "$x",
    "",
    " ",
    "\t",
    "\x85",
    "\u2028",
    "null",
    ".inf",
    "0x1f",
    "=",
    "!",
    "&a",
    "*a",
    "|",
    ">",
]


def some_value(r: random.Random, depth: int = 0) -> Any:
    """A value as recipes hold them, of words that YAML is known to take for something else."""
    kind = r.randrange(8 if depth < 4 else 6)
    if kind == 6:
        return [some_value(r, depth + 1) for _ in range(r.randrange(4))]
    if kind == 7:
        return {f"k{i}" if r.random() < 0.5 else r.choice(WORDS[:5]) + str(i): some_value(r, depth + 1) for i in range(r.randrange(4))}
    if kind == 5:
        return "".join(chr(r.choice([r.randrange(32, 127), r.randrange(0xA0, 0x2FFF)])) for _ in range(r.randrange(12)))
    return [r.choice(WORDS), r.uniform(-1e6, 1e6) * 10 ** r.randrange(-12, 12), r.randrange(-(10**9), 10**9), None, r.random() < 0.5][kind]


@pytest.mark.slow
def test_thousands_of_values_are_read_as_they_were_written() -> None:
    r = random.Random(20)
    for _ in range(DOCUMENTS):
        value = {"key": some_value(r)}
        text = write_yaml(value)
        assert read_text(text, "r.yaml").plain() == value, text


def damaged(r: random.Random, texts: list[str]) -> str:
    """A recipe with lines dropped, doubled, moved, cut, indented or of another recipe, and with characters changed."""
    lines = r.choice(texts).splitlines(keepends=True) or ["\n"]
    for _ in range(r.randrange(1, 4)):
        i = r.randrange(len(lines))
        j = r.randrange(len(lines[i]) + 1)
        other = r.choice(texts).splitlines(keepends=True) or ["\n"]
        lines[i] = [
            "",
            lines[i] * 2,
            "  " + lines[i],
            lines[i][:j] + "\n",
            lines[i][:j] + r.choice(WORDS) + lines[i][j:],
            r.choice(other),
            lines[i].replace(":", r.choice(["", "::", ": [", ": {", ": &x"]), 1),
            lines[i][:j] + chr(r.randrange(0x250)) + lines[i][j + 1 :],
        ][r.randrange(8)]
    return "".join(lines)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_thousands_of_damaged_recipes(tmp_path: Path) -> None:
    """Every one is read to its end, with problems that can be shown, and nothing but problems."""
    for file in BROKEN.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    texts = [p.read_text(encoding="utf-8") for p in sorted(BROKEN.glob("*.yaml"))]
    r = random.Random(5)
    for _ in range(DOCUMENTS):
        inspected(tmp_path, damaged(r, texts))
