"""How the untouched base speaks texts best: under which of its own languages, chosen on other sentences than are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.evaluate.samples import spoken_rows
from qrecipe.evaluate.values import Value
from qrecipe.files import digest
from qrecipe.inputs.texts import near_key
from qrecipe.recipe.recipe import Evaluation

CHOOSING = 3
"""One sentence in so many chooses the language; the others judge."""
MOST = 16
"""Sentences at most that choose it: every language of the base speaks them."""

UNTOLD = "auto"
"""The model is told no language."""


@dataclass(frozen=True)
class BestLanguage:
    """The language that the base speaks a dataset best with, by one metric."""

    language: str
    """Name of the language; `auto` for none."""
    tried: Mapping[str, float]
    """The metric under every language that was tried, on the sentences that chose."""
    values: list[Value]
    """Of the metric on the sentences that judge, under that language."""
    untold: list[Value]
    """The same where the base is told no language."""


def split(data: SpeechData, settings: Evaluation) -> tuple[SpeechData, SpeechData]:
    """The sentences that choose a language, and those of the evaluated ones that judge.

    By hashes of the texts, so that neither the order of the manifest nor chance decides. Texts that are near duplicates
    are on one side.
    """
    rows = [r for r in data.rows if r.reference is not None]
    keys = sorted({_key(r) for r in rows})
    choosing = set(keys[: -(-len(keys) // CHOOSING)])
    chosen = sorted((r for r in rows if _key(r) in choosing), key=lambda r: (_key(r), r.line))[:MOST]
    return replace(data, rows=chosen), replace(data, rows=[r for r in spoken_rows(data, settings) if _key(r) not in choosing])


def _key(row: SpeechRow) -> str:
    return digest(near_key(row.text))
