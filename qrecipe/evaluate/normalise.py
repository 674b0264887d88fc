"""Equality of texts: the prompt and the transcript are both normalised before they are compared.

The rules, in order (`VERSION` is raised with every change, and is part of what a value is stored under):

1. NFKC, then lower case (in Turkish and Azerbaijani I becomes ı and İ becomes i).
2. Numbers in digits become words where num2words knows the language (Malay: Indonesian's words with Malay's eight);
   others stay digits. Recognisers write digits where a prompt has words.
3. Apostrophes, turned commas, joiners and colons inside a word go, so that "it's" is one word however it is typed; every
   other mark of punctuation, symbol or control is a space. Marks that combine with letters stay: vowel signs and tones
   are spelling.
4. The vowel points of Arabic, Persian, Urdu, Pashto and Hebrew go, and the Arabic tatweel: recognisers never write them.
   Persian, Urdu and Pashto have one yeh and one kaf, whichever keyboard they were typed on.
5. White space is one space. In languages that are written without it there is none, and each character is a word.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

VERSION = 2
UNSPACED = {"zh", "ja", "th", "lo", "km", "my", "yue", "bo"}
"""Languages that do not separate words by spaces."""
APOSTROPHES = "'’‘‛ʻʼʽʾʿˈ`´′ꞌ\uff07"
"""Signs that keyboards put in the place of one another: apostrophes, turned commas, half rings, primes."""
NO_APOSTROPHES = str.maketrans("", "", APOSTROPHES)
ZERO_WIDTH_SPACE = "\u200b"
"""Ends a word, which the other invisible characters do not."""
POINTED = {"ar", "fa", "ur", "ps", "he", "iw"}
"""Languages whose vowel points are left out in ordinary writing."""
POINTS = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]"
)
TATWEEL = "\u0640"
ARABIC_LETTERS = {"fa", "ur", "ps"}
ONE_LETTER = str.maketrans("\u064a\u0649\u0643", "\u06cc\u06cc\u06a9")
"""Arabic's yeh and kaf in a text of these languages."""
_COLON = re.compile(r"(?<=[^\W\d_]):(?=[^\W\d_])")
_DIGITS = re.compile(r"\d+(?:[.,]\d{3})*")


def normalise(text: str, tag: str) -> str:
    """A text of the language with this BCP 47 tag as it is compared."""
    language = tag.split("-")[0]
    text = unicodedata.normalize("NFKC", text.translate(NO_APOSTROPHES))  # NFKC makes a space of an acute accent
    if language in ("tr", "az"):
        text = text.replace("İ", "i").replace("I", "ı")
    text = unicodedata.normalize("NFC", text.lower())
    if language in POINTED:
        text = POINTS.sub("", text)
    if language in ARABIC_LETTERS:
        text = text.translate(ONE_LETTER)
    text = _DIGITS.sub(lambda m: f" {_number(m.group(), language)} ", text)
    text = "".join(map(_compared, _COLON.sub("", text)))
    return ("" if language in UNSPACED else " ").join(text.split())


def _compared(c: str) -> str:
    """A character as it is compared: itself, nothing, or a space."""
    if c == TATWEEL:
        return ""
    category = unicodedata.category(c)
    if category == "Cf" and c != ZERO_WIDTH_SPACE:
        return ""
    return c if category[0] in "LMN" else " "


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
