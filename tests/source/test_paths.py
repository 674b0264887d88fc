"""Paths of other systems: what a person is told who brings them, and which file is read whatever its name is composed of."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from qrecipe.inputs.manifest import read_manifest
from qrecipe.recipe import inspect
from qrecipe.source.paths import find, hint
from tests.support import recipes

NAME = "clips/Kopi é.wav"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    for name in ("1.wav", "Ana.WAV", "a b.wav"):
        (tmp_path / "clips" / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "help_"),
    [
        ("clips\\1.wav", "a backslash separates no folders here: write `clips/1.wav`"),
        (".\\clips\\1.wav", "a backslash separates no folders here: write `./clips/1.wav`"),
        ("clips\\2.wav", "a backslash separates no folders here: write `clips/2.wav`"),
        ("C:\\data\\clips\\1.wav", "drives and backslashes are of another system: write `clips/1.wav`"),
        ("D:/x/1.wav", "drives and backslashes are of another system: write a path relative to the file that states it"),
        ("file://{}/clips/1.wav", "`file://` begins an address: write `clips/1.wav`"),
        ("file:///C:/clips/a%20b.wav", "`file://` begins an address: write `clips/a b.wav`"),
        ("https://host/clips/1.wav", "`https://` begins an address, and nothing is downloaded: fetch the file and write its path"),
        ("s3://bucket/1.wav", "`s3://` begins an address, and nothing is downloaded: fetch the file and write its path"),
        ("~/corpus/clips/1.wav", "`~` does not stand for the home folder here: write `clips/1.wav`"),
        ("~ana/1.wav", "`~` does not stand for the home folder here: write a path relative to the file that states it"),
        ("$HOME/clips/1.wav", "`$HOME` is not replaced: write `clips/1.wav`"),
        ("%USERPROFILE%\\clips\\1.wav", "a backslash separates no folders here: write `clips/1.wav`"),
        ("clips\t1.wav", "a backslash separates no folders here, and `\\t` is one character: write `clips/t1.wav`"),
        (" clips/1.wav", "there are blanks or quotation marks around the path: write `clips/1.wav`"),
        ('"clips/1.wav"', "there are blanks or quotation marks around the path: write `clips/1.wav`"),
        ("clips/a%20b.wav", "`%` and two digits stand for a character in addresses alone: write `clips/a b.wav`"),
        ("clips/ana.wav", "did you mean `clips/Ana.WAV`?"),
        ("clips/1.flac", "did you mean `clips/1.wav`?"),
        ("clips/other.wav", None),
        ("elsewhere/1.wav", None),
    ],
)
def test_what_is_said_of_a_path_that_names_no_file(text: str, help_: str | None, folder: Path) -> None:
    assert hint(text.format(folder), folder, {}) == help_


def test_what_a_hint_says_to_write_names_a_file(folder: Path) -> None:
    for text in ("clips\\1.wav", ".\\clips\\1.wav", "C:\\x\\clips\\1.wav", "file:///x/clips/a%20b.wav", "~/clips/1.wav", "clips/ana.wav"):
        advice = (hint(text, folder, {}) or "").split("`")[-2]
        assert find(folder, advice)[1], text


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_letters_may_be_composed_otherwise_on_the_disk(on_disk: str, written: str, folder: Path) -> None:
    file = folder / unicodedata.normalize(on_disk, NAME)  # type: ignore[arg-type]  # one of its forms
    file.write_bytes(b"")
    assert find(folder, unicodedata.normalize(written, NAME)) == (file, True)  # type: ignore[arg-type]  # one of its forms


def test_a_manifest_of_another_system_is_one_warning_with_a_way_on(folder: Path) -> None:
    rows = [{"audio": f"clips\\{name}", "text": "Ada buku."} for name in ("1.wav", "Ana.WAV", "a b.wav")]
    (problem,) = read_manifest(recipes.write_rows(folder / "m.jsonl", rows), "speech", None).summed()
    assert problem.message == "there is no file clips\\1.wav; 3 recordings are missing in all"
    assert problem.help == "a backslash separates no folders here: write `clips/1.wav`"


@pytest.mark.parametrize("line", ['{"audio": "clips\\1.wav", "text": "Ada."}', '{"audio": "C:\\Users\\1.wav", "text": "Ada."}'])
def test_a_backslash_that_json_does_not_know(line: str, folder: Path) -> None:
    (folder / "m.jsonl").write_text(line + "\n")
    (problem,) = read_manifest(folder / "m.jsonl", "speech", None).problems
    assert problem.help == "JSON wants a backslash twice; folders are separated by `/` here"


def test_absolute_paths_of_another_machine_are_written_relative_to_the_manifest(folder: Path) -> None:
    rows = [{"audio": "/home/ana/corpus/clips/1.wav", "text": "Ada buku."}]
    (problem,) = read_manifest(recipes.write_rows(folder / "m.jsonl", rows), "speech", None).problems
    assert (problem.code, problem.help) == ("QR048", "write `clips/1.wav`")


@pytest.mark.parametrize(
    ("at", "text", "write"),
    [
        ("path", "data\\dev.jsonl", "`data/dev.jsonl`"),
        ("reference", "~/data/ref.wav", "`data/ref.wav`"),
        ("reference", "data/REF.wav", "`data/ref.wav`"),
    ],
)
def test_a_recipe_s_own_paths(at: str, text: str, write: str, tmp_path: Path) -> None:
    content = recipes.recipe()
    content["datasets"]["dev"][at] = text
    _, problems = inspect(recipes.write(tmp_path, content))
    (problem,) = [p for p in problems if p.code == "QR040"]
    assert write in (problem.help or "")
    assert json.dumps(problem.as_json())
