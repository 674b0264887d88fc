"""A language's table of replacements: applied in one place, to training, gates, `say`, and kept in the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qrecipe.inputs.replacements import Replacements
from qrecipe.inputs.texts import unspelled
from qrecipe.plan import make_plan
from qrecipe.recipe import load
from tests.support import recipes

TABLE = {"dr.": "doktor", "km": "kilometer", "km/j": "kilometer sejam", "5": "lima", "&": "dan", "caf\u00e9": "kedai"}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (" dr. Ali ", "doktor Ali"),
        ("90 km/j, 5 km", "90 kilometer sejam, lima kilometer"),
        ("kmer 55 15", "kmer 55 15"),
        ("A&B", "AdanB"),
        ("cafe\u0301", "kedai"),
        ("DR. Ali", "DR. Ali"),
    ],
)
def test_whole_words_the_longest_first(text: str, read: str) -> None:
    assert Replacements.of(TABLE).apply(text) == read
    assert Replacements().apply(text) == text.strip().replace("e\u0301", "\u00e9")


def test_nothing_that_was_put_in_is_replaced_again() -> None:
    assert Replacements.of({"a": "b", "b": "a"}).apply("a b") == "b a"


def plan(folder: Path, replace: Any) -> Any:
    languages = {"malay": {**recipes.RECIPE["languages"]["malay"], "replace": replace}}
    return make_plan(load(recipes.write(folder, recipes.recipe(languages=languages))))


def test_manifests_of_the_language_are_read_through_it(tmp_path: Path) -> None:
    plain, replaced = plan(tmp_path, {}), plan(tmp_path, {"nasi": "beras", "good": "bad"})
    assert [r.text for r in replaced.manifests["speech"].rows][1] == "Saya suka makan beras."
    assert [r.text for r in replaced.manifests["replay"].rows][1] == "She reads a good book.", "a language of the base has none"
    assert plain.plan.datasets["speech"].sha256 != replaced.plan.datasets["speech"].sha256
    assert plain.plan.datasets["replay"].sha256 == replaced.plan.datasets["replay"].sha256


def test_a_file_of_it_is_the_same_table(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text('"nasi": "beras"\n', encoding="utf-8")
    assert plan(tmp_path, "r.yaml").plan.datasets == plan(tmp_path, {"nasi": "beras"}).plan.datasets
    (tmp_path / "r.yaml").write_text("nasi: 5\n", encoding="utf-8")
    (problem,) = plan(tmp_path, "r.yaml").errors
    assert (problem.code, "is no table" in problem.message) == ("QR012", True)
    assert [p.code for p in plan(tmp_path, "none.yaml").warnings if "none.yaml" in p.message] == ["QR040"]
    assert [p.code for p in plan(tmp_path, "../../none.yaml").errors] == ["QR048"]


def test_digits_and_abbreviations_are_counted_with_examples() -> None:
    digits, short = unspelled(["Pukul 10.30 pagi.", "Jl. besar itu", "PBB dan A.S. bersidang", "Saya pulang. Esok hujan."])
    assert digits.startswith("1 of 4 texts hold digits")
    assert "`10.30`" in digits
    assert short.startswith("2 of 4 texts hold abbreviations")
    assert "`Jl.`" in short
