"""What `qrecipe validate` prints for a broken recipe: each file of `broken/` beside the text that people read.

`QRECIPE_REWRITE_GOLDEN=1 pytest tests/recipe/test_validate.py` writes the texts anew; read every changed line.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from qrecipe.cli.validate import check
from qrecipe.errors import CODES, Problem
from qrecipe.hashes import FileHashes
from qrecipe.recipe import inspect, load
from qrecipe.report.problems import as_text

BROKEN = Path(__file__).parent / "broken"
RECIPES = Path(__file__).parents[2] / "recipes"
SOUND = "sound.yaml"
NAMES = sorted(p.name for p in BROKEN.glob("*.yaml") if p.name != SOUND)


@pytest.fixture(autouse=True)
def _beside_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are shown as they are given, so the tests give them from the folder of the recipes."""
    monkeypatch.chdir(BROKEN)


@cache
def hashes() -> FileHashes:
    """One for all, as one command for many files has: they share their data."""
    return FileHashes()


def problems(name: str, *sets: str) -> list[Problem]:
    return check(Path(name), sets, False, hashes())


@cache
def problems_of_broken(name: str) -> list[Problem]:
    """Of a file that no test changes."""
    return problems(name)


@pytest.mark.parametrize("name", NAMES)
def test_broken(name: str) -> None:
    golden = (BROKEN / name).with_suffix(".txt")
    text = as_text(problems_of_broken(name))
    if os.environ.get("QRECIPE_REWRITE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_what_the_broken_ones_extend_is_sound() -> None:
    assert problems(SOUND) == []


def test_every_broken_recipe_has_its_text_and_every_text_its_recipe() -> None:
    assert {p.stem for p in BROKEN.glob("*.txt")} == {Path(n).stem for n in NAMES}


def test_the_broken_ones_show_every_code_that_a_recipe_can_cause() -> None:
    shown = {code for code in CODES if any(f"[{code}]" in p.read_text(encoding="utf-8") for p in BROKEN.glob("*.txt"))}
    of_recipes = {code for code in CODES if "QR001" < code < "QR040"} - {"QR015"}  # QR015 is of the command line
    assert of_recipes <= shown, sorted(of_recipes - shown)


@pytest.mark.parametrize("name", NAMES)
def test_carets_stand_inside_their_line(name: str) -> None:
    for problem in problems_of_broken(name):
        if not problem.place.line or not problem.place.file.endswith(".yaml"):
            continue
        line = Path(problem.place.file).read_text(encoding="utf-8").split("\n")[problem.place.line - 1]
        pointed = line[problem.place.column - 1 :][: problem.place.length]
        assert pointed, problem
        assert len(pointed) == problem.place.length, problem
        if "\t" not in line:
            assert pointed == pointed.strip() or problem.code == "QR002", problem


def test_a_quoted_word_of_a_message_stands_under_its_caret() -> None:
    """Messages about one misspelled word point at that word, not at the mapping around it."""
    for name in ("dataset-unknown", "gate-unknown-metric", "pattern-matches-nothing", "unknown-field-stage", "language-capital"):
        for problem in problems(f"{name}.yaml"):
            line = Path(problem.place.file).read_text(encoding="utf-8").splitlines()[problem.place.line - 1]
            pointed = line[problem.place.column - 1 :][: problem.place.length]
            assert f"`{pointed}`" in problem.message, problem


def test_all_problems_at_once() -> None:
    found = problems("missing-fields.yaml")
    assert [p.message.split("`")[1] for p in found] == ["version", "base", "init", "language", "data", "lr"]


def test_a_problem_of_a_template_is_shown_in_the_template(tmp_path: Path) -> None:
    (tmp_path / "template.yaml").write_text("qrecipe: 1\ntemplate: true\nstages:\n  - id: a\n    objective: speech\n    epochz: 1\n")
    (tmp_path / "own.yaml").write_text("qrecipe: 1\nextends: template.yaml\n")
    found = [p for p in inspect(tmp_path / "own.yaml")[1] if p.code == "QR010"]
    assert [(p.place.file, p.place.line, p.place.column) for p in found] == [(str(tmp_path / "template.yaml"), 6, 5)]


def test_a_manifest_is_named_from_where_the_recipe_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BROKEN.parent)
    files = {p.place.file for p in check(Path("broken/dataset-bad-rows.yaml"), (), False, hashes())}
    assert files == {"broken/data/broken.jsonl", "broken/dataset-bad-rows.yaml"}


def test_strict_makes_missing_data_an_error() -> None:
    assert [p.severity for p in problems("dataset-missing-file.yaml")] == ["warning"]
    assert [p.severity for p in check(Path("dataset-missing-file.yaml"), (), True, hashes())] == ["error"]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_recipes_have_no_errors(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = check(path, (), False, hashes())
    assert [p for p in found if p.severity == "error"] == []
    assert load(path).recipe.stages


@pytest.mark.parametrize("path", sorted((RECIPES / "templates").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_templates_say_that_they_are_templates(path: Path) -> None:
    loaded, found = inspect(path)
    assert loaded is None
    assert [(p.code, p.severity) for p in found] == [("QR016", "warning")]


@pytest.mark.parametrize("bad", ["a\\0b", "x" * 5000])
@pytest.mark.parametrize(
    "line", ['extends: "{}"', 'extends: sound.yaml\ndatasets: {{replay: {{path: "{}"}}}}', 'extends: sound.yaml\nbase: {{model: "./{}"}}']
)
def test_names_that_no_file_can_have(line: str, bad: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("qrecipe: 1\n" + line.format(bad).replace("sound.yaml", str(BROKEN / SOUND)))
    found = check(path, (), False, hashes())
    assert {p.code for p in found} & {"QR002", "QR014", "QR040", "QR052"}


def test_a_gate_whose_packages_are_missing_warns_and_is_an_error_where_it_must_be_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qrecipe.inputs.evaluators.installed", lambda module: False)
    sets = ("evaluators.asr={model: ./whisper}", "accept=[{metric: cer, data: dev, max: 0.2}]")
    (message,) = [p for p in problems(SOUND, *sets) if p.code == "QR080"]
    assert (message.message, message.help) == ("`faster_whisper` needs faster-whisper, not installed here", "pip install 'qrecipe[asr]'")
    assert message.severity == "warning"
    assert {p.severity for p in check(Path(SOUND), sets, True, hashes())} == {"error"}
    optional = (sets[0], "accept=[{metric: cer, data: dev, max: 0.2, optional: true}]")
    assert [(p.code, p.severity) for p in check(Path(SOUND), optional, True, hashes())] == [("QR082", "warning")]


def test_moments_of_8_bits_need_a_package_before_anything_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ("stages.language.moments=8bit",)
    assert problems(SOUND, *sets) == []
    monkeypatch.setattr("qrecipe.inputs.evaluators.installed", lambda module: module != "torchao")
    (message,) = problems(SOUND, *sets)
    assert message.message == "`moments: 8bit` needs torchao, not installed here"
    assert (message.code, message.severity, message.help) == ("QR080", "warning", "pip install 'qrecipe[8bit]'")
    assert [p.severity for p in check(Path(SOUND), sets, True, hashes())] == ["error"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        "".join(f"field{i}: 1\n" for i in range(9000)),
        "extends: sound.yaml\nstages:\n" + "".join(f"  - {{id: s{i}, objective: speech, epoch: 1}}\n" for i in range(2000)),
        "extends: sound.yaml\naccept:\n" + "".join(f"  - {{metric: m{i}, data: d{i}, max: 1}}\n" for i in range(150)),
        "extends: sound.yaml\nstages:\n  - id: text\n    train:\n"
        + "".join(f"      - {{match: talker.modle.layers.{i}, lr: 1}}\n" for i in range(90)),
    ],
    ids=["fields", "stages", "gates", "patterns"],
)
@pytest.mark.slow
def test_a_file_of_very_many_mistakes_ends_soon(text: str, tmp_path: Path) -> None:
    (tmp_path / "sound.yaml").write_text((BROKEN / SOUND).read_text().replace("path: data/", f"path: {BROKEN}/data/"))
    (tmp_path / "r.yaml").write_text("qrecipe: 1\n" + text)
    found = check(tmp_path / "r.yaml", (), False, hashes())
    assert 0 < len(found) < 400
    assert as_text(found)
