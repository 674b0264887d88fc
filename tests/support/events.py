"""A run's events in outline: what happened, in order, and the fields of every event. Numbers are left out."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any


def outline(file: Path) -> str:
    """One line for events in a row of the same name and subject, then one for each kind of event with its fields.

    Reads a run's events.jsonl up to the end of its first run. Checkpoints are left out: the clock decides when one is due.
    """
    events: list[dict[str, Any]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "checkpoint":
            continue
        events.append(event)
        if events[-1]["event"] == "run_finished":
            break
    lines = []
    for name, group in groupby(map(_name, events)):
        count = len(list(group))
        lines.append(name + (f" x{count}" if count > 1 else ""))
    fields = {e["event"]: list(e) for e in events}
    return "\n".join([*lines, "", *(f"{name}: {', '.join(keys[2:])}" for name, keys in fields.items())]) + "\n"


def _name(event: dict[str, Any]) -> str:
    subject = event.get("stage") or event.get("where")
    return event["event"] + (f" {subject}" if subject else "")
