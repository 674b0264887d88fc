"""Every code is explained, and the examples of `qrecipe explain` show the problem that they stand for and its remedy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qrecipe.cli.validate import check
from qrecipe.errors import CODES
from qrecipe.hashes import FileHashes
from qrecipe.report.explain import explanations

BROKEN = Path(__file__).parent / "broken"
TESTS = Path(__file__).parents[1]
EXPLAINED = explanations()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(BROKEN / "sound.yaml", tmp_path)
    shutil.copytree(BROKEN / "data", tmp_path / "data")
    (tmp_path / "data" / "ref.ogg").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QRECIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path


def codes(folder: Path, example: str) -> set[str]:
    """Codes that a sound recipe has with these lines added."""
    head = "qrecipe: 1\n" if "extends:" in example or "template:" in example else "qrecipe: 1\nextends: sound.yaml\n"
    (folder / "r.yaml").write_text(head + example, encoding="utf-8")
    return {p.code for p in check(Path("r.yaml"), (), False, FileHashes())}


@pytest.mark.parametrize("code", [c for c, e in EXPLAINED.items() if e.wrong])
def test_examples(folder: Path, code: str) -> None:
    explained = EXPLAINED[code]
    assert explained.wrong is not None
    assert code in codes(folder, explained.wrong)
    if explained.right is not None:
        assert code not in codes(folder, explained.right)


def test_mistakes_of_a_recipe_have_examples() -> None:
    of_recipes = {c for c in CODES if "QR001" < c < "QR040"} - {"QR015"}  # QR015 is of the command line
    assert of_recipes <= {c for c, e in EXPLAINED.items() if e.wrong}


def test_every_code_is_explained() -> None:
    assert list(EXPLAINED) == list(CODES)
    for code, explained in EXPLAINED.items():
        text = explained.as_text()
        assert text.startswith(f"{code}: {CODES[code].meaning}\n")
        assert "](" not in text, "links are for the page"


def test_every_code_is_tested() -> None:
    """Each stands in a golden text or in a test that expects it."""
    texts = [p.read_text(encoding="utf-8") for pattern in ("**/*.py", "recipe/broken/*.txt") for p in TESTS.glob(pattern)]
    assert [c for c in CODES if not any(c in t for t in texts if "test_every_code_is_tested" not in t)] == []
