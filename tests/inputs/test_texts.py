"""Texts that nobody could say as they are written are refused, or named with examples."""

from __future__ import annotations

import pytest

from qrecipe.inputs.texts import near_hashes, near_key, oddities, unsayable


@pytest.mark.parametrize("text", ["", "\u200b" * 9, "." * 11, "\U0001f642" * 9, "- - -", "\u200f" * 9, "…", "\u00ad", "?!"])
def test_signs_alone_are_no_text(text: str) -> None:
    assert unsayable(text) is not None


@pytest.mark.parametrize("text", ["Ya.", "水", "12", "שלום", "নমস্কার", "می‌روم", "o‘zbek"])
def test_texts_of_any_script_can_be_said(text: str) -> None:
    assert unsayable(text) is None
    assert oddities([text]) == []


@pytest.mark.parametrize(
    "text",
    ["<p>Ya</p>", "[muzik] ya", "&quot;ya&quot;", "{noise} ya", "ya <unk>", "SPEAKER_01: ya", "(laughs) ya", "ya &#39;tu", "<br/>ya"],
)
def test_markup_is_named(text: str) -> None:
    (sentence,) = oddities([text, "Saya suka."])
    assert sentence.startswith("1 of 2 texts hold markup")


def test_prose_is_no_markup() -> None:
    assert oddities(["Dia kata (perlahan): 5 < 7 & 8 > 3.", "UMNO: parti.", "Tom & Jerry"]) == []


def test_letters_of_two_scripts_are_named_and_two_languages_are_not() -> None:
    (sentence,) = oddities(["s\u0430y\u0430 suka", "Россия dan Malaysia"])
    assert "1 of 2 texts" in sentence
    assert "Cyrillic \u0430" in sentence


def test_invisible_characters_are_named_and_joiners_are_not() -> None:
    (sentence,) = oddities(["se\u00adkolah", "ke\u200bdai", "می\u200cروم"])
    assert sentence.startswith("2 of 3 texts hold invisible characters")
    assert "U+00AD" in sentence


def test_many_near_keys_at_once_are_those_of_one_by_one() -> None:
    texts = [
        "Ada  buku, «itu»!",
        "ÉCOLE ﬁn",
        "e\u0301cole fin",
        "שָׁלוֹם עולם",
        "ـسلامـ",
        "",
        "a_b-c",
        "½ x²",
        "नमस्ते",
        "ß Straße\u2028x",
        "a\nb",
    ]
    for chosen in (texts, texts[:-2], ["Ada buku."] * 2):
        assert list(near_hashes(chosen)) == [near_hashes([text])[0] for text in chosen]
    keys = [near_key(text) for text in texts]
    hashes = near_hashes(texts)
    assert all((hashes[i] == hashes[j]) == (keys[i] == keys[j]) for i in range(len(texts)) for j in range(i))
