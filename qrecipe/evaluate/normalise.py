"""What counts as the same text: both the prompt and the transcript are normalised before they are compared.

The rules, in order (`VERSION` is raised with every change, and is part of what a value is stored under):

1. NFKC, then lower case (in Turkish and Azerbaijani I becomes ı and İ becomes i).
2. Numbers in digits become words where num2words knows the language (Malay: Indonesian's words with Malay's eight);
   others stay digits. Recognisers write digits where a prompt has words.
3. Apostrophes go, so that "it's" is one word; every other mark of punctuation, symbol or control is a space.
   Marks that combine with letters stay: vowel signs and tones are spelling.
4. White space is one space. In languages that are written without it there is none, and each character is a word.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

VERSION = 1
UNSPACED = {"zh", "ja", "th", "lo", "km", "my", "yue", "bo"}
"""Languages that do not separate words by spaces."""
APOSTROPHES = "'’‘ʼ`´"
_DIGITS = re.compile(r"\d+(?:[.,]\d{3})*")


def normalise(text: str, tag: str) -> str:
    """A text of the language with this BCP 47 tag as it is compared."""
    language = tag.split("-")[0]
    text = unicodedata.normalize("NFKC", text)
    if language in ("tr", "az"):
        text = text.replace("İ", "i").replace("I", "ı")
    text = unicodedata.normalize("NFC", text.lower())
    text = _DIGITS.sub(lambda m: f" {_number(m.group(), language)} ", text)
    text = "".join("" if c in APOSTROPHES else c if unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return ("" if language in UNSPACED else " ").join(text.split())


def words(text: str, tag: str) -> list[str]:
    """Words of a normalised text."""
    return list(text) if tag.split("-")[0] in UNSPACED else text.split()


def _number(digits: str, language: str) -> str:
    converter = _converter()
    plain = re.sub(r"[.,]", "", digits)
    if converter is None or len(plain) > 12:
        return plain
    try:
        spelled = str(converter(int(plain), lang="id" if language == "ms" else language))
    except (NotImplementedError, ValueError, OverflowError, KeyError, IndexError, TypeError):
        return plain
    return spelled.replace("delapan", "lapan") if language == "ms" else spelled


@cache
def _converter() -> Any:
    try:
        from num2words import num2words
    except ImportError:
        return None
    return num2words
