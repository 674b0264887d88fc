"""Respelling tables: which rule counts, contexts, capitals, what is checked when a table is read. The tables that ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qrecipe.errors import Problem, RecipeError
from qrecipe.recipe.respelling import RespellingTable, parse, read

ROOT = Path(__file__).resolve().parents[2]
TABLES = sorted((ROOT / "recipes" / "respellings").glob("*.yaml"))


def table(*rules: str, **changes: Any) -> RespellingTable:
    """A table of these rules; tests are made of what it says, so that they hold."""
    fields = {"respelling": 1, "from": "ms", "into": "es", "alphabet": "abcdefghijklmnopqrstuvwxyzñ", "rules": list(rules), **changes}
    fields.setdefault("tests", {})
    text = json.dumps(fields, ensure_ascii=False)
    return parse(text, "t.yaml")


def problems(*rules: str, **changes: Any) -> list[Problem]:
    with pytest.raises(RecipeError) as e:
        table(*rules, **changes)
    return e.value.problems


def test_the_longest_left_side_counts() -> None:
    found = table("n -> m", "ng -> x", "ngg -> y", tests={"n": "m", "ng": "x", "ngg": "y"})
    assert found.spell("anggang an nggng") == "ayax am yx"


@pytest.mark.parametrize(
    ("rule", "word", "wanted"),
    [
        ("k -> / a _ |", "kakak", "kaka"),
        ("k -> / _ |", "anak-anak, anak", "ana-ana, ana"),
        ("g -> gu / _ [ei]", "pagi gagah", "pagui gagah"),
        ("h -> / _ [^aeiou]", "mahkota hari rumah", "makota hari rumah"),
        ("h -> / | _", "hari tahu", "ari tahu"),
        ("e -> ei / {soft} _ r", "ber ker", "beir ker"),
        ("s -> z / a b _ c d", "abscd bscd", "abzcd bscd"),
    ],
)
def test_contexts(rule: str, word: str, wanted: str) -> None:
    assert table(rule, sets={"soft": "bdg"}, tests={word: wanted}).spell(word) == wanted


def test_contexts_see_the_text_and_not_what_rules_made_of_it() -> None:
    assert table("a -> e", "k -> qu / _ e", tests={"ka": "ke", "ke": "que"}).spell("kake") == "keque"


def test_the_first_of_two_rules_with_the_same_letters_counts() -> None:
    assert table("k -> q / _ i", "k -> c", tests={"ki": "qi", "ka": "ca"}).spell("Kika kaki") == "Qica caqi"


def test_capitals_stay_and_a_language_may_have_its_own() -> None:
    assert table("c -> ch", tests={"c": "ch"}).spell("CUCI Cuci") == "ChUChI Chuchi"
    turkish = table("ı -> i", "i -> y", lower={"I": "ı", "İ": "i"}, tests={"ı": "i", "i": "y"})
    assert turkish.spell("Irmak İstanbul") == "Irmak Ystanbul"


def test_letters_that_the_reader_does_not_know_are_found() -> None:
    assert table("a -> b", alphabet="bc", tests={"a": "b"}).foreign("Bc, zzq!") == ["z", "q"]


def test_decomposed_letters_are_the_same_letters() -> None:
    assert table("ñ -> ny", tests={"n\u0303": "ny"}).spell("ñ") == "ny"


@pytest.mark.parametrize(
    ("rules", "changes", "message"),
    [
        (["c -> ch"], {"tests": {}}, "a table is tested"),
        (["c -> ch"], {"tests": {"ka": "ka"}}, "no test uses this rule"),
        (["c -> ch"], {"tests": {"ca": "ka"}}, "the rules make `cha` of `ca`, not `ka`"),
        (["c -> ch", "c -> k / _ a"], {}, "never used"),
        (["c -> ch / _ {vowel}"], {}, "no set is called `vowel`"),
        (["c -> ch / _ [ae"], {}, "without its end"),
        (["c -> ch / _ | a"], {}, "outer end"),
        (["c -> ch / _"], {}, "without anything before or after"),
        (["c d -> ch"], {}, "letters of one word"),
        (["-> ch"], {}, "before `->`"),
        (["c"], {}, "the form"),
        ([], {}, "`rules` is a list"),
        (["c -> ch"], {"from": "Malay"}, "not a BCP 47 tag"),
        (["c -> ch"], {"respelling": 2}, "should be 1"),
        (["c -> ch"], {"lower": {"CH": "c"}}, "for one letter"),
        (["c -> ch"], {"alphabets": "a"}, "unknown field `alphabets`"),
    ],
)
def test_what_is_wrong_is_said(rules: list[str], changes: dict[str, Any], message: str) -> None:
    found = problems(*rules, **{"tests": {"c": "ch"}, **changes})
    assert any(message in p.message for p in found), [p.message for p in found]
    assert {p.code for p in found} == {"QR049"}


def test_a_mistake_within_a_rule_has_its_column() -> None:
    text = "respelling: 1\nfrom: ms\ninto: es\nalphabet: abc\nrules:\n  - c -> ch / _ {soft}\n  - 'k -> / {hard} _'\ntests: {c: ch}\n"
    with pytest.raises(RecipeError) as e:
        parse(text, "t.yaml")
    lines = text.splitlines()
    assert [lines[p.place.line - 1][p.place.column - 1 :][:4] for p in e.value.problems] == ["soft", "hard"]


def test_what_is_no_table_is_refused() -> None:
    for text in ("[]", "1", "", "rules: {a: b}", "respelling: 1\nfrom: [a]\ninto: {}\nalphabet: 3\nrules: [1]\ntests: [x]"):
        with pytest.raises(RecipeError):
            parse(text, "t.yaml")


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_tables_that_ship_pass_their_own_tests(path: Path) -> None:
    read(path)


def test_the_malay_table_spells_every_sentence_of_the_demo() -> None:
    malay = read(ROOT / "recipes" / "respellings" / "malay-spanish.yaml")
    texts = [json.loads(line)["text"] for line in (ROOT / "recipes/data/malay/text.jsonl").read_text("utf-8").splitlines()]
    assert [t for t in texts if malay.foreign(malay.spell(t))] == []


def test_words_that_are_remembered_are_spelled_as_in_their_sentence() -> None:
    malay = read(ROOT / "recipes" / "respellings" / "malay-spanish.yaml")
    for line in (ROOT / "recipes/data/malay/text.jsonl").read_text("utf-8").splitlines():
        text = json.loads(line)["text"]
        assert malay.spell(text) == "".join(part for part, _ in malay._spelled(text))
