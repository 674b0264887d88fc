"""Problems as people and programs read them: text with the line and a caret, JSON, GitHub annotations."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from qrecipe.errors import Problem, printable
from qrecipe.redaction import redact
from qrecipe.report import terminal


def as_text(problems: Iterable[Problem], colours: bool = False, width: int | None = None) -> str:
    """One block a problem: what is wrong, where, the line with a caret, what helps.

    `width`, of a terminal, is where sentences are broken between words; None leaves them as they are.
    """
    return "\n".join(_block(p, _Paint(colours), width) for p in problems)


def tell(problems: Iterable[Problem]) -> None:
    """Prints problems to standard error: on a terminal with colours, and in lines that end between words."""
    on_terminal = sys.stderr.isatty()
    width = shutil.get_terminal_size().columns if on_terminal else None
    terminal.tell(as_text(problems, colours=on_terminal and terminal.wants_colours(), width=width))


class _Paint:
    """Colours of a terminal, or none."""

    def __init__(self, colours: bool) -> None:
        self._colours = colours

    def __call__(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colours else text


COLOURS = {"error": "1;31", "warning": "1;33"}
BOLD, FAINT = "1", "2"


def _block(problem: Problem, paint: _Paint, width: int | None) -> str:
    place, colour = problem.place, COLOURS[str(problem.severity)]
    argument = place.file.startswith(ARGUMENT)
    head = f"{problem.severity}[{problem.code}]"
    message = terminal.wrapped(f"{head}: {problem.message}", width, indent=2)
    lines = [paint(head, colour) + message.removeprefix(head)]
    lines.append(f"  {paint('-->', FAINT)} {printable(place.file if argument else str(place))}")
    source = _line(problem)
    if source is not None:
        shown, column, length = _window(redact(source), place.column - 1, place.length)
        number = "" if argument else str(place.line)
        caret = paint("^" * length, colour)
        lines += [f"{number} | {shown}", f"{' ' * len(number)} | {' ' * column}{caret}"]
    for label, text in (("help", problem.help), ("note", problem.note)):
        if text:
            sentence = terminal.wrapped(f"  {label}: {text}", width, indent=4)
            lines.append(f"  {paint(label, BOLD)}" + sentence.removeprefix(f"  {label}"))
    return "\n".join(lines) + "\n"


ARGUMENT = "--set "
"""Begins the file of a place that is an argument of the command line: the argument itself follows."""
WIDTH = 160
"""Characters of a line that are shown; a longer one is cut around what is wrong."""


def _window(line: str, column: int, length: int) -> tuple[str, int, int]:
    """A line as it can be shown, with the column and the length of the caret in it."""
    length = max(1, min(length, len(line) - column))
    if len(line) > WIDTH:
        start = max(0, min(column - WIDTH // 4, len(line) - WIDTH))
        before, after = "…" if start else "", "…" if start + WIDTH < len(line) else ""
        line, column = before + line[start : start + WIDTH] + after, column - start + len(before)
        length = max(1, min(length, len(line) - column - len(after)))
    return "".join(c if c.isprintable() else " " if c == "\t" else "\ufffd" for c in line), column, length


def _line(problem: Problem) -> str | None:
    """The line that a problem points at, if its file is a text file that is still there."""
    place = problem.place
    if place.file.startswith(ARGUMENT):
        return place.file.removeprefix(ARGUMENT) if place.line == 1 and place.column else None
    if not place.line or not place.column or not place.file.endswith((".yaml", ".yml")):
        return None
    try:
        with open(Path(place.file), encoding="utf-8") as f:
            return next(islice(f, place.line - 1, None), "").rstrip("\r\n").removeprefix("\ufeff" if place.line == 1 else "") or None
    except (OSError, UnicodeDecodeError, ValueError):
        return None


def as_github(problems: Sequence[Problem]) -> str:
    """Workflow commands that GitHub shows beside the lines of a pull request: one line each.

    GitHub wants files relative to the repository's root, where a workflow's steps usually work.
    """
    lines = []
    for p in problems:
        where = [f"title={_property(p.code)}"]
        if not p.place.file.startswith(ARGUMENT):
            length = f",endColumn={p.place.column + p.place.length}" if p.place.column and p.place.length > 1 else ""
            at = f",line={p.place.line},col={max(1, p.place.column)}{length}" if p.place.line else ""
            where.insert(0, f"file={_property(_in_workspace(p.place.file))}{at}")
        message = p.message + "".join(f"\n{what}: {text}" for what, text in (("help", p.help), ("note", p.note)) if text)
        lines.append(f"::{p.severity} {','.join(where)}::{_data(message)}")
    return "\n".join(lines)


def _in_workspace(file: str) -> str:
    """A file as GitHub names it: relative to GITHUB_WORKSPACE where that is set and holds it."""
    workspace = os.environ.get("GITHUB_WORKSPACE")
    if not workspace:
        return file
    relative = os.path.relpath(os.path.abspath(file), workspace)
    return file if relative.startswith("..") else relative


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def summary(problems: Sequence[Problem]) -> str:
    """How many errors and warnings."""
    errors = sum(p.severity == "error" for p in problems)
    warnings = len(problems) - errors
    parts = [f"{n} {word}{'s' if n != 1 else ''}" for n, word in ((errors, "error"), (warnings, "warning")) if n]
    return ", ".join(parts) or "no problems"
