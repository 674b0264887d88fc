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
    ],
)
def test_rules(tag: str, text: str, expected: str) -> None:
    assert normalise(text, tag) == expected
    assert normalise(expected, tag) == expected


def test_words_of_languages_without_spaces_are_characters() -> None:
    assert words("你好世界", "zh") == ["你", "好", "世", "界"]
    assert words("apa khabar", "ms-MY") == ["apa", "khabar"]
