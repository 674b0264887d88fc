"""A search for people: a ranked table, and a page to listen to."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from qrecipe.report.tables import duration, plain_table

HEARD = 4
"""Variants that a page lets hear, the best ones."""
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 2rem } th, td { border-bottom: 1px solid #ddd; padding: .4rem .6rem; text-align: left }
audio { width: 14rem; height: 2rem; display: block }
"""


@dataclass(frozen=True)
class Ranked:
    """A variant as far as it came."""

    name: str
    share: float
    """Of the recipe's training; 0 where it was not tried."""
    value: float | None = None
    interval: tuple[float, float] | tuple[()] = ()
    difference: tuple[float, float, float] | None = None
    """To the recipe as it is with the same training: mean over sentences, and its interval, widened for the number of variants."""
    seconds: float = 0.0
    error: str | None = None

    def cells(self) -> list[str]:
        """Variant, training, value, interval, difference with its interval, time."""
        share = "all" if self.share == 1 else f"1/{round(1 / self.share)}" if self.share else "-"
        if self.value is None:
            return [self.name, share, "-", "-", self.error or "not tried: the time was over", duration(self.seconds) if self.share else "-"]
        interval = f"{self.interval[0]:.3g} to {self.interval[1]:.3g}" if self.interval else "-"
        versus = "-"
        if self.difference is not None:
            mean, low, high = self.difference
            versus = f"{mean:+.3g} ({low:+.3g} to {high:+.3g})"
        return [self.name, share, f"{self.value:.4g}", interval, versus, duration(self.seconds)]

    def as_json(self) -> dict[str, Any]:
        """For the command line's JSON output."""
        return {**self.__dict__, "interval": list(self.interval)}


HEADS = ("variant", "training", "value", "interval", "against the recipe as it is", "took")


def table(metric: str, ranked: Sequence[Ranked]) -> Table:
    """The variants, the best first."""
    shown = plain_table(f"variants by {metric}", *HEADS)
    for row in ranked:
        shown.add_row(*map(escape, row.cells()))
    return shown


def page(name: str, metric: str, ranked: Sequence[Ranked], folder: Path) -> str:
    """The table, and what the best variants say of each sentence. Sounds are linked: the page lies in the search's folder."""
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row.cells()) + "</tr>" for row in ranked)
    head = "".join(f"<th>{html.escape(h)}</th>" for h in HEADS)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f"<title>{html.escape(name)}: search</title><style>{STYLE}</style></head><body><h1>{html.escape(name)}: variants by {html.escape(metric)}</h1>",
        f"<table><tr>{head}</tr>{rows}</table>",
        _sounds([r for r in ranked if r.value is not None][:HEARD], folder),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _sounds(ranked: Sequence[Ranked], folder: Path) -> str:
    columns: list[tuple[str, dict[int, list[str]], dict[int, str]]] = []
    for row in ranked:
        out = folder / "heard" / f"{row.name}-{round(1 / row.share)}"
        try:
            result = json.loads((out / "evaluation.json").read_text("utf-8"))
        except (OSError, ValueError):
            continue
        sounds: dict[int, list[str]] = {}
        for sample in result["samples"]:
            if sample["audio"] is not None:
                link = os.path.relpath(out / sample["audio"], folder)
                transcript = html.escape(sample["transcript"] or "")
                sounds.setdefault(sample["line"], []).append(
                    f'<audio controls preload="none" src="{html.escape(link)}"></audio>{transcript}'
                )
        columns.append((row.name, sounds, {item["line"]: item["text"] for item in result["items"]}))
    lines = sorted({line for _, sounds, _ in columns for line in sounds})
    head = "".join(f"<th>{html.escape(name)}</th>" for name, _, _ in columns)
    body = []
    for line in lines:
        text = next(texts[line] for _, _, texts in columns if line in texts)
        cells = "".join(f"<td>{''.join(sounds.get(line, ['-']))}</td>" for _, sounds, _ in columns)
        body.append(f"<tr><td>{html.escape(text)}</td>{cells}</tr>")
    return f"<table><tr><th>sentence</th>{head}</tr>{''.join(body)}</table>"
