"""A recipe reads its own repository, and what the person who runs it allows; links are followed first."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qrecipe.errors import BaseModelError
from qrecipe.inputs.manifest import Table, read_manifest
from qrecipe.plan import make_plan
from qrecipe.recipe import load
from qrecipe.source.bounds import ALLOW, inside
from tests.support import recipes
from tests.support.bases import base_folder


@pytest.fixture(autouse=True)
def nothing_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW, raising=False)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    return recipes.write(tmp_path / "mine")


def codes(recipe: Path, *sets: str) -> list[str]:
    return [p.code for p in make_plan(load(recipe, sets)).problems if p.code == "QR048"]


def with_dataset(recipe: Path, **fields: Any) -> Path:
    content = recipes.recipe()
    content["datasets"]["replay"].update(fields)
    return recipes.write(recipe.parent, content)


def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "english.jsonl").write_text((tmp_path / "mine" / "data" / "english.jsonl").read_text())
    for file in (tmp_path / "mine" / "data").glob("english*.wav"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_the_recipe_s_own_folder(recipe: Path) -> None:
    assert codes(recipe) == []


@pytest.mark.parametrize("path", ["../elsewhere/english.jsonl", "ABSOLUTE", "data/../../elsewhere/english.jsonl", "data/link.jsonl"])
def test_a_dataset_elsewhere(recipe: Path, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read, unless its folder is allowed."""
    folder = elsewhere(tmp_path)
    (recipe.parent / "data" / "link.jsonl").symlink_to(folder / "english.jsonl")
    if path == "data/link.jsonl":
        for file in folder.glob("*.wav"):
            (recipe.parent / "data" / file.name).unlink()
    path = str(folder / "english.jsonl") if path == "ABSOLUTE" else path
    planned = make_plan(load(with_dataset(recipe, path=path)))
    (problem,) = [p for p in planned.problems if p.code == "QR048"]
    assert (problem.severity, problem.place.line > 0) == ("error", True)
    assert "--allow" in (problem.help or "")
    assert "replay" not in planned.manifests
    monkeypatch.setenv(ALLOW, str(folder))
    assert codes(recipe) == []


def test_what_is_typed_is_meant(recipe: Path, tmp_path: Path) -> None:
    folder = elsewhere(tmp_path)
    assert codes(recipe, f"datasets.replay.path={folder}/english.jsonl") == []


def test_a_reference_elsewhere(recipe: Path) -> None:
    assert codes(with_dataset(recipe, reference="/etc/hostname")) == ["QR048"]


def test_a_base_elsewhere(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base_folder(tmp_path / "bases" / "one")
    content = recipes.recipe(base={"model": "../bases/one"})
    recipes.write(recipe.parent, content)
    with pytest.raises(BaseModelError, match="leads out of the recipe's repository"):
        make_plan(load(recipe))
    monkeypatch.setenv(ALLOW, str(tmp_path / "bases"))
    assert make_plan(load(recipe)).base.folder == tmp_path / "bases" / "one"


@pytest.mark.parametrize("audio", ["/etc/hostname", "../../secret.wav", "../data2/one.wav", "link.wav", "folder/secret.wav"])
def test_a_row_elsewhere(recipe: Path, tmp_path: Path, audio: str) -> None:
    (tmp_path / "secret.wav").write_bytes(b"")
    data = recipe.parent / "data"
    (data / "link.wav").symlink_to(tmp_path / "secret.wav")
    (data / "folder").symlink_to(tmp_path)
    recipes.write_rows(data / "english.jsonl", [{"audio": audio, "text": "One."}])
    (problem,) = read_manifest(data / "english.jsonl", "speech", None).problems
    assert problem.code == "QR048"


def test_a_row_in_the_recipe_s_folder_beside_the_manifest_s(recipe: Path) -> None:
    data = recipe.parent / "data"
    (data / "sub").mkdir()
    recipes.write_rows(data / "sub" / "m.jsonl", [{"audio": "../english0.wav", "text": "One."}])
    assert read_manifest(data / "sub" / "m.jsonl", "speech", None).problems
    assert not read_manifest(data / "sub" / "m.jsonl", "speech", None, table=Table(root=recipe.parent)).problems


def test_data_of_the_recipe_s_repository(recipe: Path, tmp_path: Path) -> None:
    """The same rule as for templates: beside `recipes/` there may be `data/`."""
    elsewhere(tmp_path)
    moved = with_dataset(recipe, path="../elsewhere/english.jsonl")
    assert codes(moved) == ["QR048"]
    (tmp_path / ".git").mkdir()
    assert codes(moved) == []


def test_a_home_folder_is_no_repository(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever keeps it under git, or stands in it, has not given it to every recipe that was downloaded."""
    elsewhere(tmp_path)
    moved = with_dataset(recipe, path="../elsewhere/english.jsonl")
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert codes(moved) == ["QR048"]
    assert codes(recipes.write(recipe.parent)) == []


def test_names_that_only_look_alike(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "ab").mkdir()
    assert inside(tmp_path / "a" / "x", tmp_path / "a")
    assert inside(tmp_path / "a", tmp_path / "a")
    assert not inside(tmp_path / "ab" / "x", tmp_path / "a")
    assert not inside(Path("/"), tmp_path)
    assert inside(tmp_path / "x", Path("/"))


def test_a_long_line_is_not_kept(tmp_path: Path) -> None:
    """Of any length: what comes after it is still read."""
    path = tmp_path / "m.jsonl"
    with open(path, "wb") as f:
        f.write(b'{"text": "')
        for _ in range(40):
            f.write(b"x" * (1 << 20))
        f.write(b'"}\n' + json.dumps({"text": "Satu."}).encode() + b"\n")
    manifest = read_manifest(path, "text", None)
    assert [r.line for r in manifest.rows] == [2]
    assert "more than 1,048,576 bytes" in manifest.problems[0].message
    os.truncate(path, 1 << 20)
    assert list(read_manifest(path, "text", None).rows) == []


@pytest.mark.slow
def test_a_million_bad_rows_are_counted(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text("{\n" * 5000)
    manifest = read_manifest(tmp_path / "m.jsonl", "text", None)
    assert manifest.bad_rows == 5000
    assert [p.place.line for p in manifest.problems] == [1, 2, 3]
    assert manifest.problems[-1].note == "4,997 more rows are alike"
