"""`languages`: the languages that a recipe adds, each a row of the talker's codec embedding."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from qrecipe.qwen3 import CODEBOOK_SIZE, FRAMES_PER_SECOND, LAST_ROW
from qrecipe.recipe.model import Settings, one_of, schema_of_one

TAGS = {
    "english": "en",
    "german": "de",
    "spanish": "es",
    "chinese": "zh",
    "japanese": "ja",
    "french": "fr",
    "korean": "ko",
    "russian": "ru",
    "italian": "it",
    "portuguese": "pt",
    "beijing_dialect": "zh",
    "sichuan_dialect": "zh",
}
"""BCP 47 tags of the languages that published bases list by name."""
BCP47 = r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$"


class Init(Settings):
    """Where a language's row starts: the mean of other languages' rows, or a copy of one."""

    model_config = schema_of_one("mean_of", "copy")

    mean_of: Annotated[list[str], Field(min_length=1)] | None = None
    """Languages of the base, best such as sound alike. The mean of their rows is rescaled to the mean of their norms, since a mean of unlike rows is shorter than any row that the talker has seen."""
    copy_of: Annotated[str | None, Field(alias="copy")] = None
    """One language of the base whose row is copied: the new language starts by being spoken as that one."""

    @model_validator(mode="after")
    def _one(self) -> Init:
        one_of("mean_of", self.mean_of, "copy", self.copy_of)
        return self

    @property
    def sources(self) -> list[str]:
        """The languages whose rows are read."""
        return self.mean_of if self.mean_of is not None else [str(self.copy_of)]


class Respelling(Settings):
    """How a language is spelled for a reader of another one, so that the base can say how it sounds."""

    language: Annotated[str, Field(min_length=1)]
    """The language of the base that reads the respelled text."""
    table: Annotated[str, Field(min_length=1)]
    """The respelling table (docs/respelling.md), relative to the file that states it."""


class Language(Settings):
    """A language that the bundle will speak. Its key goes into the config's `codec_language_id`."""

    bcp47: Annotated[str, Field(pattern=BCP47)]
    """The BCP 47 tag, such as `ms`; written on the model card, and the language that a recogniser transcribes."""
    token_id: Literal["auto"] | Annotated[int, Field(ge=CODEBOOK_SIZE, le=LAST_ROW)] = "auto"
    """Row of the codec embedding that becomes this language's, 2048 to 3071. `auto` is the lowest free row from 2072 up: lower ids that no map lists may hold trained rows that were never released. Give a number to keep a row that an earlier bundle had."""
    init: Init
    """Where the row starts before any stage trains it; without training it stays there."""
    replace: dict[str, str] | Annotated[str, Field(min_length=1)] = {}
    """Text that is written otherwise before anything reads it, such as `{"km": "kilometer", "č.": "číslo"}`, or a YAML file of such a table, relative to the file that states it; default: nothing. Whole words, the longest first; applied to all texts of the language, kept in the bundle, and applied by `qrecipe say`. Stock qwen_tts does not apply it."""
    lead: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Seconds of silence, in frames of 0.08, that it begins every sentence with. Where text and frames come side by side (`layout: streaming`, the default of stock qwen_tts) a word is often said before its last letters are read; 0.5 lets the text run some words ahead. All rows of the language are learned and judged so, recordings too."""
    respelling: Respelling | None = None
    """How it is spelled for a reader of another language; stages of the objectives `respell` and `embedding_match` need it."""


def lead_frames(seconds: float) -> int:
    """Frames of a lead. Tenths of a frame are rounding: 0.48 s are six."""
    return math.ceil(round(seconds * FRAMES_PER_SECOND, 1))


def language_key_problem(key: str) -> str | None:
    """Why stock qwen_tts could not use this key of `codec_language_id`, or None.

    Stock checks the language without regard to case and then looks the lower-cased name up (modeling_qwen3_tts.py,
    `generate`), so a capital letter passes the check and then fails; `auto` means no language; keys with `dialect`
    are left out of the supported languages.
    """
    if key != key.lower():
        return "has capital letters: stock qwen_tts lower-cases what is asked for and then does not find it"
    if key == "auto":
        return "is reserved: it asks for no language at all"
    if "dialect" in key:
        return "contains `dialect`: stock qwen_tts does not list such keys as languages"
    if not key or key != key.strip() or any(c.isspace() or ord(c) < 32 for c in key):
        return "has white space"
    return None


def survives_title_case(key: str) -> bool:
    """Whether a key is the same after `.title().lower()`, which vllm-omni does to every name of a language."""
    return key == key.title().lower()


def is_ascii_key(key: str) -> bool:
    """Whether servers that lower ASCII letters alone find a key in whatever case it is asked for."""
    return key.isascii()


def fragile_key(key: str) -> str | None:
    """Why some server could not keep a key that stock qwen_tts can use, or None."""
    if not survives_title_case(key):
        return f"becomes `{key.title().lower()}` in vllm-omni, which does not find it then"
    if not is_ascii_key(key):
        return "has letters beyond ASCII: qwentts.cpp and audio.cpp find it only where it is asked for in lower case"
    return None
