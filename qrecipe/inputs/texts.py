"""Texts that nobody could say as they are written: nothing but signs, markup, letters of two scripts, invisible characters."""

from __future__ import annotations

import re
import sys
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import blake2b

from qrecipe.files import NOT_UTF8

SHOWN = 3
"""Examples of a warning."""
SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN")
"""Scripts whose letters look alike, by the first word of their characters' names."""
WORD = re.compile(r"[^\W\d_]+")
ANNOTATION = r"laugh\w*|cough\w*|sigh\w*|breath\w*|applause|music|noise|silence|inaudible|unintelligible|crosstalk"
TATWEEL = "\u0640"
"""Lengthens an Arabic word to the eye."""
POINTS = range(10, 36)
"""Combining classes of the vowel points of Hebrew and Arabic, which most writers leave out."""
MARKUP = re.compile(
    r"</?[A-Za-z][^<>]*>|&(?:[A-Za-z]+|#\d+|#x[0-9A-Fa-f]+);|\[[^\[\]]*\]|\{[^{}]*\}"
    rf"|\((?:{ANNOTATION})\)|\b[A-Z]{{2,}}_?\d+\s*:",
)
"""Tags, entities, notes in brackets or braces, sounds in parentheses, and names of speakers as annotators write them."""
NUMBER = re.compile(r"\d[\d.,:]*\d|\d")
ABBREVIATION = re.compile(r"\b[^\W\d_]{1,4}\.(?=\s+[^\W\d_A-Z])|\b(?:[^\W\d_]\.){2,}|\b[A-Z]{2,5}\b(?!_?\d*\s*:)")
"""Short words with a full stop inside a sentence, letters with full stops, and words of capitals."""
INVISIBLE = re.compile(r"[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
"""Soft hyphens, zero-width spaces, marks of direction. Joiners (U+200C, U+200D) belong to the spelling of several scripts."""


def unsayable(text: str) -> str | None:
    """Why nothing of a text can be said, or None."""
    if not text:
        return "the text is empty"
    if not any(c.isalnum() for c in text):
        return "the text has no letter and no digit"
    return None


def near_key(text: str) -> str:
    """A text without what does not change how it is spoken: case, signs, kind of quotes, width, composition, white space, and the
    vowel points of Arabic and Hebrew.

    Equal keys are near-duplicates: they never stand on both sides of a split.
    """
    plain = text.lower() if text.isascii() else _NFKC(_NFKC(text).casefold())
    return " ".join(plain.translate(_SPOKEN).split())


def near_hashes(texts: Sequence[str]) -> array[int]:
    """64 bits that tell texts' near keys apart, the same in every process."""
    digests = (blake2b(key.encode(errors=NOT_UTF8), digest_size=8).digest() for key in _near_keys(texts))
    return array("q", b"".join(digests))


def _near_keys(texts: Sequence[str]) -> Sequence[str]:
    """`near_key` of every text: what is silent is replaced in all at once, which few characters are."""
    import numpy as np

    joined = "\n".join(texts)
    plain = joined.lower() if joined.isascii() else _NFKC(_NFKC(joined).casefold())
    if plain.count("\n") != len(texts) - 1:
        return [near_key(text) for text in texts]
    occurs = np.zeros(sys.maxunicode + 1, np.bool_)
    occurs[np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), np.uint32)] = True
    for c in map(chr, np.flatnonzero(occurs)):
        if c != "\n" and (spoken := _SPOKEN[ord(c)]) != c:
            plain = plain.replace(c, spoken)
    while "  " in plain:
        plain = plain.replace("  ", " ")
    return plain.replace(" \n", "\n").replace("\n ", "\n").strip(" ").split("\n")


class _Spoken(dict[int, str]):
    """A character in a near key, looked up once: itself, a space, or nothing."""

    def __missing__(self, code: int) -> str:
        c = chr(code)
        silent = c == TATWEEL or unicodedata.combining(c) in POINTS
        self[code] = "" if silent else c if c.isalnum() or unicodedata.category(c)[0] == "M" else " "
        return self[code]


_SPOKEN = _Spoken()
_NFKC = partial(unicodedata.normalize, "NFKC")

Kinds = tuple[tuple[str, Callable[[str], list[str]]], ...]


def oddities(texts: Sequence[str]) -> list[str]:
    """A sentence for each kind of thing in texts that is written and not said, with counts and examples."""
    return _counted(
        texts,
        (
            ("markup, which would be learned as if it were said", MARKUP.findall),
            ("words with letters of two scripts, which look alike and are other tokens", mixed_words),
            ("invisible characters, which are tokens too", lambda text: [f"U+{ord(c):04X}" for c in INVISIBLE.findall(text)]),
        ),
    )


def unspelled(texts: Sequence[str]) -> list[str]:
    """A sentence for each kind of thing in texts that is said otherwise than it is written, with counts and examples."""
    return _counted(
        texts,
        (
            ("digits, which are read as they are written: spell them out, or `replace` them", NUMBER.findall),
            ("abbreviations: write them out, or `replace` them", ABBREVIATION.findall),
        ),
    )


def _counted(texts: Sequence[str], kinds: Kinds) -> list[str]:
    sentences = []
    for what, occurrences in kinds:
        per_text = [hits for text in texts if (hits := occurrences(text))]
        if per_text:
            examples = list(dict.fromkeys(hit for hits in per_text for hit in hits))[:SHOWN]
            sentences.append(f"{len(per_text)} of {len(texts)} texts hold {what}: " + ", ".join(f"`{e}`" for e in examples))
    return sentences


def mixed_words(text: str) -> list[str]:
    """The words of a text whose letters are of two scripts that look alike, with the rarer script's letters named."""
    return [f"{word} ({_rarer(word)})" for word in WORD.findall(text) if not word.isascii() and len(_scripts(word)) > 1]


def _scripts(letters: Iterable[str]) -> set[str]:
    return {script for c in letters if (script := _script(c)) is not None}


def _script(letter: str) -> str | None:
    script = unicodedata.name(letter, "").split(" ", 1)[0]
    return script if script in SCRIPTS else None


def _rarer(word: str) -> str:
    scripts = [script for c in word if (script := _script(c)) is not None]
    rarest = min(sorted(set(scripts)), key=scripts.count)
    letters = dict.fromkeys(c for c in word if _script(c) == rarest)
    return f"{rarest.capitalize()} {', '.join(letters)}"
