"""`qrecipe new`: what it writes is a recipe that lacks nothing but its data, inside a checkout and outside of one."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import jsonschema
import pytest

from qrecipe import sentences
from qrecipe.cli import main
from qrecipe.cli.validate import check
from qrecipe.errors import RecipeError
from qrecipe.hashes import FileHashes
from qrecipe.recipe import load
from qrecipe.recipe.metrics import spec_of
from qrecipe.report.imported import as_text
from qrecipe.shipped import templates
from qrecipe.source.reader import read_file
from qrecipe.verbs.new import NewRecipe, Written, new_recipe

ROOT = Path(__file__).parents[2]


def new(folder: Path, language: str = "hausa", template: str = "two-stage", bcp47: str = "ha") -> Written:
    return new_recipe(NewRecipe(language, bcp47, template, "Qwen/Qwen3-TTS-12Hz-1.7B-Base", None, ["english", "spanish"]), folder)


@pytest.mark.parametrize("template", sorted(templates()))
def test_it_validates_but_for_the_missing_data(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    written = new(Path(), template=template)
    found = check(written.recipe, (), False, FileHashes())
    assert {p.severity for p in found} == {"warning"}
    assert {p.code for p in found} - {"QR028"} == {"QR040", "QR052", "QR082"}
    assert ("QR028" in {p.code for p in found}) == (template == "two-stage")
    assert (tmp_path / "respellings" / "hausa-english.yaml").is_file() == (template == "respell")
    schema = json.loads((tmp_path / "schemas" / "recipe.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(read_file(written.recipe).plain())


def test_gates_on_sound_stop_no_run_whose_recordings_are_few(tmp_path: Path) -> None:
    gates = load(new(tmp_path).recipe).recipe.accept
    sound = [g for g in gates if spec_of(g.metric).source == "generated"]
    assert {g.metric for g in sound} >= {"cer", "runaway_rate", "duration_ratio", "speaker_similarity"}
    assert all(g.optional for g in sound)


def test_a_language_that_whisper_does_not_know(tmp_path: Path) -> None:
    written = new(tmp_path, language="zarma", bcp47="dje", template="projection-only")
    assert [p for p in check(written.recipe, (), False, FileHashes()) if p.severity == "error"] == []
    assert "languages: {zarma: dje}" in written.recipe.read_text()


def test_the_schema_line_leads_to_the_schema(tmp_path: Path) -> None:
    for file in (new(tmp_path).recipe, tmp_path / "templates" / "two-stage.yaml", tmp_path / "templates" / "gates.yaml"):
        line = file.read_text().splitlines()[0]
        assert (file.parent / line.split("$schema=")[1]).resolve() == tmp_path / "schemas" / "recipe.schema.json"


def test_data_folders_say_what_goes_in(tmp_path: Path) -> None:
    written = new(tmp_path, template="full")
    names = {str(f.relative_to(tmp_path)) for f in written.files}
    assert {"hausa.yaml", "templates/full.yaml", "data/hausa/README.md", "data/english/README.md"} <= names
    text = (tmp_path / "data" / "hausa" / "README.md").read_text()
    assert "text.jsonl" in text
    assert "30 minutes" in text
    assert "text.jsonl" not in (tmp_path / "data" / "english" / "README.md").read_text()


def test_data_folders_name_what_the_recipe_names_and_nothing_else(tmp_path: Path) -> None:
    for template in ("full", "respell", "two-stage"):
        written = new(tmp_path / template, template=template)
        recipe = written.recipe.read_text()
        for folder in ("hausa", "english"):
            said = (tmp_path / template / "data" / folder / "README.md").read_text()
            for file in ("text.jsonl", "train.jsonl", "dev.jsonl", "ref.wav"):
                assert (f"data/{folder}/{file}" in recipe) == (f"| `{file}` |" in said), (template, folder, file)


def test_the_old_language_needs_no_recordings(tmp_path: Path) -> None:
    """Its sentences ship, some to learn from and others to judge by, and the base speaks them."""
    written = new_recipe(NewRecipe("hausa", "ha", "ladder", "builtin:mini", None, ["english"], replay="korean"), tmp_path)
    texts = [
        [json.loads(line)["text"] for line in (tmp_path / "data" / "korean" / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("replay", "keep")
    ]
    assert texts == [sentences.replay("korean"), sentences.keep("korean")]
    stages = load(written.recipe).recipe.stages
    replayed = [u for s in stages for u in s.uses if u.is_self]
    assert [(u.name, u.dataset, u.share) for u in replayed] == [("self-korean", "replay", 0.2)] * 2
    assert load(written.recipe).recipe.spoken_judges() == ["keep"]
    with pytest.raises(RecipeError, match="no sentences of `klingon` ship"):
        new_recipe(NewRecipe("zarma", "dje", "ladder", "builtin:mini", None, ["english"], replay="klingon"), tmp_path)


def test_nothing_that_is_there_is_changed(tmp_path: Path) -> None:
    new(tmp_path)
    (tmp_path / "templates" / "two-stage.yaml").write_text("qrecipe: 1\ntemplate: true\n")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(RecipeError, match="is there already"):
        new(tmp_path)
    new(tmp_path, language="zarma", bcp47="dje")
    assert all(p.read_bytes() == content for p, content in before.items())


def test_commands_to_go_on_with_can_be_pasted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["new", "--language", "hausa", "--bcp47", "ha", "--out", str(tmp_path / "my folder")])
    *_, validate, plan = capfd.readouterr().out.splitlines()
    recipe = str(tmp_path / "my folder" / "hausa.yaml")
    assert [shlex.split(line) for line in (validate, plan)] == [["qrecipe", "validate", recipe], ["qrecipe", "plan", recipe]]
    part = {"rows": 1, "seconds": 60.0, "speakers": 1}
    imported = {
        "recognised": "",
        "ignored_columns": [],
        "notes": [],
        "train": part,
        "dev": part,
        "split": "",
        "folder": "",
        "recipe": recipe,
    }
    lines = as_text(imported, {}).splitlines()
    assert [shlex.split(line) for line in lines[-2:]] == [["qrecipe", "plan", recipe], ["qrecipe", "run", recipe]]


@pytest.mark.parametrize(
    ("language", "bcp47", "template", "code"),
    [
        ("Hausa", "ha", "ladder", "QR021"),
        ("../hausa", "ha", "ladder", "QR021"),
        ("auto", "ha", "ladder", "QR021"),
        ("english", "en", "ladder", "QR021"),
        ("hausa", "Hausa!", "ladder", "QR070"),
        ("hausa", "ha", "lader", "QR070"),
    ],
)
def test_what_cannot_be_written_writes_nothing(language: str, bcp47: str, template: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as e:
        new(tmp_path, language, template, bcp47)
    assert [p.code for p in e.value.problems] == [code]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_wheel_carries_templates_and_the_page_of_problems(tmp_path: Path) -> None:
    build = "import shutil; shutil.copytree({!r}, {!r}, ignore=shutil.ignore_patterns('.git', '.venv', 'tests', 'data', 'runs', 'bundles'))"
    exec(build.format(str(ROOT), str(tmp_path / "source")))
    pytest.importorskip("setuptools")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
        str(tmp_path / "source"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"qrecipe/shipped/templates/{t}.yaml" for t in (*templates(), "gates")} | {"qrecipe/shipped/docs/problems.md"} <= names
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    (tmp_path / "work").mkdir()
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import qrecipe; assert 'installed' in qrecipe.__file__; "
        "from qrecipe.cli import main; main(sys.argv[1:])"
    )
    for arguments in (["new", "--language", "hausa", "--bcp47", "ha"], ["validate", "hausa.yaml"], ["explain", "QR010"]):
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "installed"), *arguments], cwd=tmp_path / "work", check=True, capture_output=True
        )
