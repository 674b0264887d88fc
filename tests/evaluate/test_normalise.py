"""What counts as the same text."""

from __future__ import annotations

import pytest

from qrecipe.evaluate.normalise import normalise, words


@pytest.mark.parametrize(
    ("tag", "text", "expected"),
    [
        ("en", "It's 5 o’clock — isn't it?", "its five oclock isnt it"),
        ("ms", "Hujan renyai-renyai, membasahi bumi!", "hujan renyai renyai membasahi bumi"),
        ("ms", "Ada 8 ekor kucing.", "ada lapan ekor kucing"),
        ("id", "Ada 8 ekor kucing.", "ada delapan ekor kucing"),
        ("de", "Das Cafe\u0301 kostet 1.500 Euro", "das café kostet eintausendfünfhundert euro"),
        ("tr", "Işık İstanbul'da", "ışık istanbulda"),
        ("en", "ＡＢＣ ﬁne", "abc fine"),
        ("zh", "你好，世界！", "你好世界"),
        ("hi", "नमस्ते, दुनिया!", "नमस्ते दुनिया"),
        ("xx", "7 \u00bfque?", "7 que"),
        ("ms-Arab", "", ""),
        ("ar", "كِتَابٌ", "كتاب"),
        ("ar", "كـتاب", "كتاب"),
        ("he", "שָׁלוֹם", "שלום"),
        ("fa", "علي كتاب", "علی کتاب"),
        ("fa", "می\u200cروم", "میروم"),
        ("ar", "علي", "علي"),
        ("yi", "אַ", "אַ"),
        ("de", "Schiff\u00adfahrt", "schifffahrt"),
        ("km", "ខ្ញុំ\u200bទៅ", "ខ្ញុំទៅ"),
        ("xx", "á:re: 7:30", "áre 7 30"),
    ],
)
def test_rules(tag: str, text: str, expected: str) -> None:
    assert normalise(text, tag) == expected
    assert normalise(expected, tag) == expected


@pytest.mark.parametrize(("tag", "word"), [("uz", "o{}zbek"), ("haw", "pa{}u"), ("ha", "{}yaya"), ("mi", "a{}a")])
def test_a_word_is_one_word_however_its_turned_comma_is_typed(tag: str, word: str) -> None:
    signs = ["\u02bb", "\u02bc", "'", "\u2018", "\u2019", "\u02bf", "\ua78c", "`", "\u00b4", "\uff07"]
    assert len({normalise(word.format(c), tag) for c in signs}) == 1


def test_words_of_languages_without_spaces_are_characters() -> None:
    assert words("你好世界", "zh") == ["你", "好", "世", "界"]
    assert words("apa khabar", "ms-MY") == ["apa", "khabar"]
