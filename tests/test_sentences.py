"""The sentences that ship: of every language of the bases, in its own letters, none twice, none that judges anywhere."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest

from qrecipe import sentences
from qrecipe.inputs.texts import near_key, oddities
from qrecipe.recipe.language import TAGS

ROOT = Path(__file__).parents[1]
LATIN = "a-zA-Z"
LETTERS = {
    "chinese": "一-鿿",
    "english": LATIN,
    "french": LATIN + "àâäçéèêëîïôöœùûüÀÉÊ",
    "german": LATIN + "äöüßÄÖÜ",
    "italian": LATIN + "àèéìòùÈ",
    "japanese": "ぁ-んァ-ヶー一-鿿々",
    "korean": "가-힣",
    "portuguese": LATIN + "áâãàçéêíóôõúÁÉÓ",
    "russian": "А-Яа-яЁё",
    "spanish": LATIN + "áéíñóúüÁÉÍÓÚ",
}
SIGNS = " ,.?!'¿¡-，。？！、"
LENGTHS = {"chinese": (5, 40), "japanese": (7, 50), "korean": (8, 60)}
"""Characters at least and at most; elsewhere 15 and 100."""


def test_they_are_of_every_language_of_the_bases() -> None:
    assert set(sentences.languages()) == {name for name in TAGS if "dialect" not in name} == set(LETTERS)


@pytest.mark.parametrize("language", sorted(LETTERS))
def test_they_can_be_read_as_they_are_written(language: str) -> None:
    texts = sentences.sentences(language)
    assert len(texts) >= 200
    assert sentences.replay(language) + sentences.keep(language) == texts
    assert [t for t in texts if re.fullmatch(rf"[{LETTERS[language]}{re.escape(SIGNS)}]+", t) is None] == []
    shortest, longest = LENGTHS.get(language, (15, 100))
    assert [t for t in texts if not shortest <= len(t) <= longest or t != unicodedata.normalize("NFC", t).strip()] == []
    assert oddities(texts) == []
    assert [t for t in texts if t[-1] not in ".?!。？！"] == []


@pytest.mark.parametrize("language", sorted(LETTERS))
def test_none_stands_twice_or_judges_elsewhere(language: str) -> None:
    keys = [near_key(t) for t in sentences.sentences(language)]
    assert len(set(keys)) == len(keys)
    judging = [json.loads(line)["text"] for f in ROOT.glob("recipes/data/*/dev.jsonl") for line in f.read_text("utf-8").splitlines()]
    assert len(judging) > 30
    assert not set(keys) & {near_key(t) for t in judging}


def test_their_licence_is_stated() -> None:
    assert "CC0" in (sentences.__doc__ or "")
    assert "CC0" in (ROOT / "qrecipe" / "verbs" / "new" / "sentences.md").read_text(encoding="utf-8")
