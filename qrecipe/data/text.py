"""A text dataset that is ready to train."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TextData:
    """Texts in tokens."""

    name: str
    language: str
    """Lower-case name."""
    bodies: list[list[int]]
    """Tokens of every text."""
    lines: list[int] = field(default_factory=list)
    """Line of the manifest of every text."""
