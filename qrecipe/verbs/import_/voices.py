"""Recordings that give a voice: references of rows that judge, and voices in which the base speaks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from qrecipe.data.audio import MAX_REFERENCE, AudioProblem, load_reference
from qrecipe.verbs.import_.usable import UsableRow

VOICES = 4
"""Recordings in whose voices the base speaks what it must not forget."""
VOICE_SECONDS = (3.0, 10.0)
"""Of such a recording."""


def references(judging: Sequence[UsableRow], learned: Sequence[UsableRow]) -> dict[int, UsableRow]:
    """A learned recording of the same speaker for every row that judges, where its speaker is learned."""
    best = _best_of_speakers(learned, {r.speaker for r in judging})
    return {i: best[row.speaker] for i, row in enumerate(judging) if row.speaker in best}


def voices(rows: Sequence[UsableRow]) -> list[UsableRow]:
    """Recordings of different speakers, of a fitting length."""
    speakers = dict.fromkeys(r.speaker for r in sorted(rows, key=_fitness))
    return list(_best_of_speakers(rows, list(speakers)[:VOICES]).values())


def _best_of_speakers(rows: Sequence[UsableRow], speakers: Iterable[str | None]) -> dict[str | None, UsableRow]:
    """The recording of each speaker that is of the best length for a reference, of those that can be one: a run ends at a bad one."""
    remaining = dict.fromkeys(speakers)
    best: dict[str | None, UsableRow] = {}
    for row in sorted((r for r in rows if r.speaker in remaining), key=_fitness):
        if row.speaker not in best and _can_be_heard(row.audio):
            best[row.speaker] = row
    return best


def _can_be_heard(audio: Path) -> bool:
    """Whether a recording passes the checks of references."""
    try:
        load_reference(audio, MAX_REFERENCE)
    except (AudioProblem, OSError):
        return False
    return True


def _fitness(row: UsableRow) -> float:
    """Seconds that a recording is off the length of a good reference."""
    low, high = VOICE_SECONDS
    return max(low - row.seconds, row.seconds - high, 0.0)
