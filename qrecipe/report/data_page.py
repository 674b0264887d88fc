"""Quality of recordings, on one page with players that works offline: distributions, the worst, what a filter drops."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qrecipe.data.audio import AudioProblem, read
from qrecipe.report.markup import document, table
from qrecipe.report.page import sound

WORST = 20
"""Recordings of each measure that have a player."""
UNITS = {"snr": "dB", "bandwidth": "Hz", "silence": "s", "cer": ""}
TITLES = {
    "snr": "Noise: dB between loud and quiet parts",
    "bandwidth": "Bandwidth: Hz up to which there is sound",
    "silence": "Silence: seconds of the longest one inside the speech",
    "cer": "Another text: character error rate of the recogniser",
}


@dataclass(frozen=True)
class PageRow:
    """A row on the page."""

    line: int
    text: str
    audio: Path | None
    note: str
    """A value with its unit, or why it is shown."""


@dataclass(frozen=True)
class DatasetPage:
    """One dataset."""

    name: str
    rows: int
    distributions: Mapping[str, Mapping[str, float]]
    """Measure -> quantile -> value."""
    filters: Mapping[str, tuple[float, int]]
    """Setting of the filter -> its limit and the rows that it drops."""
    worst: Mapping[str, Sequence[PageRow]]
    """Measure -> recordings, the worst first."""
    suspects: Sequence[PageRow]
    same_sentence: Sequence[Sequence[int]]
    """Lines of rows that say the same."""
    two_people: Mapping[str, float] = field(default_factory=dict)


def write_data_page(title: str, datasets: Sequence[DatasetPage]) -> str:
    """The page as HTML."""
    players: dict[Path, str] = {}
    parts: list[str] = []
    for dataset in datasets:
        parts += [f"<h2>{html.escape(dataset.name)}: {dataset.rows:,} recordings</h2>", _distributions(dataset)]
        parts += [f"<p>The filter <code>{k}: {limit:g}</code> drops {n:,} rows.</p>" for k, (limit, n) in dataset.filters.items()]
        for speaker, cosine in dataset.two_people.items():
            name = html.escape(speaker) or "The one speaker"
            parts.append(f"<p><b>{name}</b> sounds like two people: the clips fall into two groups, cosine {cosine:g}.</p>")
        if dataset.same_sentence:
            shown = "; ".join(", ".join(map(str, lines)) for lines in dataset.same_sentence[:WORST])
            parts.append(f"<p>{len(dataset.same_sentence):,} sentences stand in several rows, case and signs aside (lines {shown}).</p>")
        if dataset.suspects:
            parts += [
                f"<h3>Worth a look: {len(dataset.suspects):,} rows</h3>",
                _recordings(f"{dataset.name} worth a look", dataset.suspects[: 5 * WORST], players),
            ]
        for measure, recordings in dataset.worst.items():
            parts += [f"<h3>{TITLES[measure]}, the worst first</h3>", _recordings(f"{dataset.name} {measure}", recordings[:WORST], players)]
    return document(title, "\n".join(parts))


def _distributions(dataset: DatasetPage) -> str:
    known = {m: q for m, q in dataset.distributions.items() if q}
    if not known:
        return ""
    heads = ["of all recordings", *next(iter(known.values()))]
    rows = [f"<tr><td>{m} {UNITS[m]}</td>" + "".join(f"<td>{v:g}</td>" for v in q.values()) + "</tr>" for m, q in known.items()]
    return table(f"{dataset.name} distributions", heads, rows)


def _recordings(name: str, recordings: Sequence[PageRow], players: dict[Path, str]) -> str:
    rows = []
    for r in recordings:
        player = _player(r, players) if r.audio is not None else ""
        rows.append(f"<tr><td>{r.line}</td><td>{html.escape(r.note)}</td><td>{player}</td><td>{html.escape(r.text)}</td></tr>")
    return table(name, ["line", "why", "sound", "text"], rows)


def _player(row: PageRow, players: dict[Path, str]) -> str:
    """A recording inside the page; nothing for one that cannot be read."""
    assert row.audio is not None
    if row.audio not in players:
        try:
            players[row.audio] = f"data:{sound(read(row.audio))}"
        except AudioProblem:
            players[row.audio] = ""
    source = players[row.audio]
    label = html.escape(f"line {row.line}: {row.text}")
    return f'<audio controls preload="none" aria-label="{label}" src="{source}"></audio>' if source else ""
