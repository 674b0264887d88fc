"""Rewards of stages of the objective `reward` at every step, out of a run's events."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from qrecipe.report.markup import table

SHOWN = 60
"""Steps of a stage that a page shows, evenly spread, the last one included."""
COLUMNS = ("step", "reward", "spread", "divergence", "frames", "cut", "dropped")
"""Mean reward, spread within a sentence's samples, divergence in nats a frame, mean length, share that was cut, sentences whose
samples were worth the same."""

RewardRows = dict[str, dict[int, dict[str, Any]]]
"""Stage -> step -> its numbers."""


def rewards_html(rewards: RewardRows) -> str:
    """A table for each stage."""
    return "".join(f"<h2>What {html.escape(name)} heard</h2>{_table(name, rows)}" for name, rows in rewards.items())


def _table(name: str, rows: Mapping[int, dict[str, Any]]) -> str:
    steps = sorted(rows)
    every = -(-len(steps) // SHOWN)
    shown = [s for i, s in enumerate(steps) if i % every == 0 or s == steps[-1]]
    parts = list(rows[steps[-1]]["parts"])
    body = []
    for step in shown:
        row = rows[step]
        values = [row.get(c) for c in COLUMNS[:-1]] + [f"{row['dropped']} of {row['groups']}"] + [row["parts"].get(p) for p in parts]
        cells = ["-" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
        body.append("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>")
    return table(f"what {name} heard", [*COLUMNS, *parts], body)
