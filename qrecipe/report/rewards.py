"""Rewards of stages of the objective `reward` at every step, out of a run's events."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHOWN = 60
"""Steps of a stage that a page shows, evenly spread, the last one included."""
COLUMNS = ("step", "reward", "spread", "divergence", "frames", "cut", "dropped")
"""Mean reward, spread within a sentence's samples, divergence in nats a frame, mean length, share that was cut, sentences whose
samples were worth the same."""

RewardRows = dict[str, dict[int, dict[str, Any]]]
"""Stage -> step -> its numbers."""


def read_rewards(events: Path) -> RewardRows:
    """Every step of every stage as it was trained last, resumed or not."""
    stages: dict[str, tuple[str, dict[int, dict[str, Any]]]] = {}
    for line in events.read_text("utf-8").splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # half a line of a run that was killed
            continue
        name = event.get("stage")
        if event["event"] == "stage_started" and stages.get(name, ("",))[0] != event["fingerprint"]:
            stages[name] = (event["fingerprint"], {})
        elif event["event"] == "reward" and name in stages:
            stages[name][1][event["step"]] = {k: v for k, v in event.items() if k not in ("event", "time", "stage")}
        elif event["event"] == "step" and name in stages and event["step"] in stages[name][1]:
            stages[name][1][event["step"]]["divergence"] = event["losses"].get("divergence")
    return {name: rows for name, (_, rows) in stages.items() if rows}


def rewards_html(rewards: RewardRows) -> str:
    """A table for each stage."""
    return "".join(f"<h2>What {html.escape(name)} heard</h2>{_table(rows)}" for name, rows in rewards.items())


def _table(rows: Mapping[int, dict[str, Any]]) -> str:
    steps = sorted(rows)
    every = -(-len(steps) // SHOWN)
    shown = [s for i, s in enumerate(steps) if i % every == 0 or s == steps[-1]]
    parts = list(rows[steps[-1]]["parts"])
    head = "".join(f"<th>{html.escape(c)}</th>" for c in (*COLUMNS, *parts))
    body = []
    for step in shown:
        row = rows[step]
        values = [row.get(c) for c in COLUMNS[:-1]] + [f"{row['dropped']} of {row['groups']}"] + [row["parts"].get(p) for p in parts]
        cells = ["-" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
        body.append("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
