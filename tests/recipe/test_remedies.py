"""Remedies that say what to write, followed to the letter: the mistake is gone, and no other stands in its place."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from qrecipe.cli.validate import check
from qrecipe.errors import Problem, RecipeError
from qrecipe.hashes import FileHashes
from qrecipe.recipe import inspect
from qrecipe.recipe.diagnose import ascii_name
from qrecipe.verbs.new import NewRecipe, new_recipe, usable

BROKEN = Path(__file__).parent / "broken"
NAMES = sorted(p.name for p in BROKEN.glob("*.yaml"))
ADVICE = re.compile(r'(?:did you mean|write) `([^`]+)`(?!, here)|quote it: (".*")$')
SMALL = """\
qrecipe: 1
name: small
version: 0.1.0
base: {model: "builtin:mini"}
languages:
  malay: {bcp47: ms, init: {copy: spanish}}
datasets:
  speech: {kind: text, language: malay, path: t.jsonl}
stages:
  - id: text
    objective: text_lm
    data: [speech]
    train: [{match: talker.model.text_embedding, rows: seen, lr: 1.0e-3}]
    steps: 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remedies") / "broken"
    shutil.copytree(BROKEN, folder)
    return folder


@pytest.fixture(scope="module")
def hashes() -> FileHashes:
    """One for all: no test changes the data."""
    return FileHashes()


def advised(problem: Problem) -> str | None:
    """What a problem's help says to write, in place of what stands under its caret."""
    advice = ADVICE.search(problem.help or "")
    return None if advice is None else advice[1] or advice[2]


def follow(path: Path, problem: Problem) -> None:
    """Writes what a help says where its caret stands."""
    lines = path.read_text(encoding="utf-8").split("\n")
    line, start = lines[problem.place.line - 1], problem.place.column - 1
    lines[problem.place.line - 1] = line[:start] + str(advised(problem)) + line[start + problem.place.length :]
    path.write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_what_a_help_says_to_write_is_right(name: str, folder: Path, hashes: FileHashes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    path = folder / name
    before = path.read_text(encoding="utf-8")
    for problem in check(Path(name), (), False, hashes):
        if advised(problem) is None or problem.place.file != name or not problem.place.line:
            continue
        follow(path, problem)
        later = check(Path(name), (), False, hashes)
        assert (problem.code, problem.place.start) not in {(p.code, p.place.start) for p in later}, (problem.message, problem.help)
        path.write_text(before, encoding="utf-8")


@pytest.mark.parametrize(
    ("before", "after", "written"),
    [
        ("version: 0.1.0", "version: 1.10", "1.10.0"),
        ("version: 0.1.0", "version: 2", "2.0.0"),
        ("version: 0.1.0", "version: v1.0.0", None),
        ("lr: 1.0e-3", "lr: 1,0e-3", "1.0e-3"),
        ("lr: 1.0e-3", "lr: '1,0e-3'", "1.0e-3"),
        ("steps: 2", "steps: 1,000", "1000"),
        ("steps: 2", "steps: '2'", "2"),
        ("name: small", "name: My Recipe", "my-recipe"),
        ("name: small", "name: “small”", "small"),
        ("name: small", "name: Türkçe ışık", "turkce-isik"),
        ("bcp47: ms", "bcp47: MS", "ms"),
        ("bcp47: ms", "bcp47: ms_MY", "ms-MY"),
        ("id: text", "id: Stage One", "stage-one"),
        ("qrecipe: 1", "qrecipe: '1'", "1"),
        ("objective: text_lm", "objective: 'text_lm '", "text_lm"),
    ],
)
def test_a_value_that_is_nearly_right(before: str, after: str, written: str | None, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(SMALL.replace(before, after, 1), encoding="utf-8")
    (problem,) = inspect(path)[1].errors
    assert advised(problem) == written
    if written is not None:
        follow(path, problem)
        assert not inspect(path)[1].errors


@pytest.mark.parametrize("blank", ["\u00a0", "\u3000", "\u200b", "\u2003"])
def test_a_blank_of_typesetting_is_found_in_its_own_line(blank: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(SMALL.replace("    objective", f"  {blank} objective"), encoding="utf-8")
    (problem,) = inspect(tmp_path / "r.yaml")[1]
    assert problem.message == f"not YAML: U+{ord(blank):04X} in the indentation"
    assert SMALL.split("\n")[problem.place.line - 1].strip().startswith("objective")


@pytest.mark.parametrize(
    ("language", "near"),
    [
        ("türkçe", "turkce"),
        ("Ɓaɓa", "baba"),
        ("kɨmɨ", "hausa"),
        ("Hausa", "hausa"),
        ("Kreyòl ayisyen", "kreyol_ayisyen"),
        ("हिन्दी", "hausa"),
        ("English", "hausa"),
    ],
)
def test_a_language_s_name_that_new_advises_is_one_that_it_takes(language: str, near: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        new_recipe(NewRecipe(language, "tr", "ladder", "builtin:mini", None, ["english"]), tmp_path)
    (problem,) = refused.value.problems
    assert (problem.help or "").endswith(f"`--language {near}`")
    assert usable(near)


def test_letters_that_are_no_letters_with_marks() -> None:
    assert ascii_name("Łódź Ø Straße") == "lodz_o_strasse"
