"""Which rows judge: other speakers where there are several, else other sentences. Deterministic, and never a near-duplicate."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from qrecipe.inputs.texts import near_key

SHARE = 0.05
"""Of the rows that judge."""
AT_LEAST, AT_MOST = 40, 200
"""Rows that judge, where there are enough of them: fewer decide no gate, more take time."""
LARGEST = 0.2
"""Share of the rows that judge at most."""
SPEAKERS = 4
"""Speakers from which on some of them only judge."""


@dataclass
class Split:
    """Indices of rows."""

    train: list[int]
    dev: list[int]
    rule: str
    """A sentence for people."""
    unused: list[int] = field(default_factory=list)
    """Rows of speakers that judge whose sentences are also learned."""


def _rank(text: str) -> str:
    """A random order that is the same everywhere."""
    return hashlib.sha256(text.encode()).hexdigest()


def split(rows: Sequence[tuple[str, str | None]]) -> Split:
    """Divides rows of (text, speaker)."""
    wanted = min(AT_MOST, max(AT_LEAST, round(SHARE * len(rows))), max(1, int(LARGEST * len(rows))))
    keys = [near_key(text) for text, _ in rows]
    return _by_speaker(rows, keys, wanted) or _by_sentence(rows, keys, wanted)


def _by_speaker(rows: Sequence[tuple[str, str | None]], keys: Sequence[str], wanted: int) -> Split | None:
    """Some speakers judge with the sentences that nobody else says; None where too few speakers or sentences are left."""
    sizes = Counter(speaker for _, speaker in rows if speaker is not None)
    if len(sizes) < SPEAKERS or sum(sizes.values()) < len(rows):
        return None
    judges: set[str | None] = set()
    for speaker in sorted(sizes, key=_rank):
        together = sum(sizes[str(s)] for s in judges)
        if together < wanted and 2 <= sizes[speaker] <= 2 * wanted and len(judges) < len(sizes) // 2:
            judges.add(speaker)
    learned = {key for key, (_, speaker) in zip(keys, rows) if speaker not in judges}
    own = [i for i, (_, speaker) in enumerate(rows) if speaker in judges and keys[i] not in learned]
    counts = Counter(rows[i][1] for i in own)
    dev = [i for i in own if counts[rows[i][1]] > 1]  # another clip gives a judge's voice
    if len(dev) < max(2, wanted / 2):
        return None
    train = [i for i, (_, speaker) in enumerate(rows) if speaker not in judges]
    unused = sorted({i for i, (_, s) in enumerate(rows) if s in judges} - set(dev))
    several = len({rows[i][1] for i in dev})
    return Split(train, dev, f"by speaker: {several} of {len(sizes)} speakers judge, with sentences that no other says", unused)


def _by_sentence(rows: Sequence[tuple[str, str | None]], keys: Sequence[str], wanted: int) -> Split:
    """Some sentences judge, whoever says them."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        groups[key].append(i)
    sizes = Counter(speaker for _, speaker in rows)
    dev: list[int] = []
    for key in sorted(groups, key=_rank):
        together = Counter(rows[i][1] for i in groups[key])
        # every speaker keeps two clips to learn from: one is the voice of the other
        if len(dev) + len(groups[key]) <= wanted and all(sizes[s] - n >= 2 for s, n in together.items()):
            dev += groups[key]
            sizes.subtract(together)
    judging = set(dev)
    return Split([i for i in range(len(rows)) if i not in judging], sorted(dev), "by sentence: no sentence that judges is learned")
