"""The report of `prepare` on the data: amounts, rates, speakers, characters, and the method's minimums."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

import torch

from qrecipe.data.speech import SpeechData
from qrecipe.data.text import TextData
from qrecipe.inputs.manifest import Manifest
from qrecipe.inputs.texts import oddities, unspelled
from qrecipe.plan.checks import MIN_MINUTES, MIN_SENTENCES

SPREAD = 0.6
"""Mean cosine to the mean x-vector below which one speaker's clips look like several voices."""


@dataclass(frozen=True)
class Report:
    """One dataset."""

    dataset: str
    kind: str
    language: str
    rows: int
    skipped: int
    characters: int
    tokens: int
    tokens_per_character: float
    minutes: float | None
    trimmed_minutes: float | None
    tokens_per_second: float | None
    frames: int | None
    speakers: int | None
    speaker_cosine: float | None
    """Mean cosine of clips' x-vectors to their speaker's mean; 1 is one voice."""
    digits: list[str]
    unseen_characters: list[str]
    """Characters that no training dataset of the same language holds (judging data), or that occur once (training data)."""
    warnings: list[str]

    def as_json(self) -> dict[str, object]:
        """The object of the command line's JSON output."""
        return asdict(self)


@dataclass(frozen=True)
class _Texts:
    """A dataset as far as its texts go."""

    dataset: str
    kind: str
    language: str
    texts: list[str]
    tokens: int
    skipped: int


def text_report(data: TextData, manifest: Manifest, elsewhere: set[str] | None, own: bool) -> Report:
    """Describes a text dataset."""
    texts = [r.text for r in manifest.rows]
    return _report(_Texts(data.name, "text", data.language, texts, sum(map(len, data.bodies)), manifest.bad_rows), elsewhere, own)


def speech_report(data: SpeechData, cosine: float | None, elsewhere: set[str] | None, own: bool) -> Report:
    """Describes a speech dataset."""
    texts, tokens = [r.text for r in data.rows], sum(len(r.body) for r in data.rows)
    return _report(_Texts(data.name, "speech", data.language, texts, tokens, data.rows_skipped), elsewhere, own, data, cosine)


def speaker_cosine(data: SpeechData, vectors: list[tuple[str, torch.Tensor]]) -> float:
    """Mean cosine of clips' x-vectors [(speaker, [hidden])] to the mean of their speaker's."""
    by_speaker: dict[str, list[torch.Tensor]] = {}
    for speaker, vector in vectors:
        by_speaker.setdefault(speaker, []).append(torch.nn.functional.normalize(vector, dim=0))
    values = []
    for mine in by_speaker.values():
        centre = torch.nn.functional.normalize(torch.stack(mine).mean(0), dim=0)
        values += [float(v @ centre) for v in mine]
    return sum(values) / len(values)


def _report(about: _Texts, elsewhere: set[str] | None, own: bool, data: SpeechData | None = None, cosine: float | None = None) -> Report:
    """The report of a dataset; `data` and `cosine` are of its speech. See `Report.unseen_characters` for `elsewhere`."""
    texts, tokens = about.texts, about.tokens
    counts = Counter(c for t in texts for c in t.lower())
    characters = sum(len(t) for t in texts)
    digits = sorted(c for c in counts if c.isdigit())
    if elsewhere is None:
        unseen = sorted(c for c, n in counts.items() if n == 1 and c.isalpha())
    else:
        unseen = sorted(c for c in counts if not c.isspace() and c not in elsewhere)

    # `own`: the method's minimums are of training data in a language that the recipe adds.
    seconds = data.seconds if data else None
    warnings = oddities(texts) + unspelled(texts)
    if elsewhere is not None and unseen:
        warnings.append("characters that no training text holds: " + " ".join(unseen))
    if own and len(texts) < MIN_SENTENCES:
        warnings.append(f"{len(texts)} sentences; {MIN_SENTENCES} or more are advised")
    if own and seconds is not None and seconds / 60 < MIN_MINUTES:
        warnings.append(f"{seconds / 60:.1f} minutes of speech; {MIN_MINUTES:g} or more are advised")
    if cosine is not None and cosine < SPREAD:
        warnings.append(f"clips of one speaker differ like several voices (mean cosine {cosine:.2f}): name the speakers with `speaker`")

    return Report(
        dataset=about.dataset,
        kind=about.kind,
        language=about.language,
        rows=len(texts),
        skipped=about.skipped,
        characters=characters,
        tokens=tokens,
        tokens_per_character=round(tokens / max(1, characters), 3),
        minutes=round(seconds / 60, 2) if seconds is not None else None,
        trimmed_minutes=round(sum(r.trimmed for r in data.rows) / 60, 2) if data else None,
        tokens_per_second=round(tokens / seconds, 2) if seconds else None,
        frames=sum(r.frames for r in data.rows) if data else None,
        speakers=len({r.speaker for r in data.rows}) if data else None,
        speaker_cosine=round(cosine, 3) if cosine is not None else None,
        digits=digits,
        unseen_characters=unseen,
        warnings=warnings,
    )
