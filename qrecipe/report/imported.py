"""Outcome of an import for people: what it recognised, divided and left out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = 3
"""Places of rows that were left out for one reason."""


def as_text(imported: Mapping[str, Any], dropped: Mapping[str, Sequence[str]]) -> str:
    """`imported` is the JSON form of an import, `dropped` the places of rows by the reason for leaving them out."""
    lines = [f"recognised {imported['recognised']}"]
    if imported["ignored_columns"]:
        lines.append("columns that are not needed: " + ", ".join(f"`{c}`" for c in imported["ignored_columns"]))
    for reason, places in dropped.items():
        more = ", …" if len(places) > SHOWN else ""
        lines.append(f"left out {_counted(len(places), 'row')}: {reason} ({', '.join(places[:SHOWN])}{more})")
    lines += imported["notes"]
    for name in ("train", "dev"):
        about = imported[name]
        counts = _counted(about["rows"], "row"), _counted(about["speakers"], "speaker")
        lines.append(f"{name}: {counts[0]}, {about['seconds'] / 60:.1f} minutes, {counts[1]}")
    lines += [f"divided {imported['split']}", f"wrote {imported['folder']}; fill in the licence in its data card"]
    recipe = imported["recipe"]
    if recipe is not None:
        quoted = shlex.quote(str(recipe))
        lines += [f"wrote {recipe}", "", "next:", f"  qrecipe plan {quoted}", f"  qrecipe run {quoted}"]
    return "\n".join(lines)


def _counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'s' if n != 1 else ''}"
