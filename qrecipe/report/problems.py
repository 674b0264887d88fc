"""Problems as people and programs read them: text with the line and a caret, JSON, GitHub annotations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from qrecipe.errors import Problem
from qrecipe.redaction import redact


def as_text(problems: Iterable[Problem]) -> str:
    """One block a problem: what is wrong, where, the line with a caret, what helps."""
    return "\n".join(_block(p) for p in problems)


def _block(problem: Problem) -> str:
    lines = [f"{problem.severity}[{problem.code}]: {problem.message}", f"  --> {problem.place}"]
    source = _line(problem)
    if source is not None:
        number = str(problem.place.line)
        caret = " " * (problem.place.column - 1) + "^" * max(1, min(problem.length, len(source) - problem.place.column + 1))
        lines += [f"{number} | {redact(source.expandtabs(1))}", f"{' ' * len(number)} | {caret}"]
    if problem.help:
        lines.append(f"  help: {problem.help}")
    if problem.note:
        lines.append(f"  note: {problem.note}")
    return "\n".join(lines) + "\n"


def _line(problem: Problem) -> str | None:
    """The line that a problem points at, if its file is a text file that is still there."""
    place = problem.place
    if not place.line or not place.column or not place.file.endswith((".yaml", ".yml")):
        return None
    try:
        with open(Path(place.file), encoding="utf-8") as f:
            lines = f.read().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return lines[place.line - 1] if place.line <= len(lines) else None


def as_github(problems: Sequence[Problem]) -> str:
    """Workflow commands that GitHub shows beside the lines of a pull request."""
    lines = []
    for p in problems:
        message = p.message + (f" ({p.help})" if p.help else "")
        text = message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        lines.append(f"::{p.severity} file={p.place.file},line={max(1, p.place.line)},col={max(1, p.place.column)},title={p.code}::{text}")
    return "\n".join(lines)


def summary(problems: Sequence[Problem]) -> str:
    """How many errors and warnings."""
    errors = sum(p.severity == "error" for p in problems)
    warnings = len(problems) - errors
    parts = [f"{n} {word}{'s' if n != 1 else ''}" for n, word in ((errors, "error"), (warnings, "warning")) if n]
    return ", ".join(parts) or "no problems"
