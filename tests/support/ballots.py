"""Ballots as listeners make them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from qrecipe.files import digest


def content(name: str) -> str:
    """A hash that stands for a sound."""
    return hashlib.sha256(name.encode()).hexdigest()


def ballot(listener: str = "anna", answers: list[tuple[str, str, int]] | None = None, scale: str = "ab", **changes: Any) -> dict[str, Any]:
    """A sealed ballot; answers are (A, B, answer) with sounds by name."""
    given = answers if answers is not None else [("base1", "model1", 2)]
    value = {
        "ballot": 1,
        "listener": listener,
        "scale": scale,
        "answers": [{"text": "Selamat pagi.", "first": content(a), "second": content(b), "answer": n} for a, b, n in given],
        **changes,
    }
    return {**value, "sha256": digest(value)}


def write(folder: Path, name: str, value: dict[str, Any]) -> Path:
    """Writes a ballot."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(json.dumps(value), encoding="utf-8")
    return file
