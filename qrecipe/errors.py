"""Every error that qrecipe raises on purpose, each with the exit code that the command line gives it.

    QRecipeError                 1    the root; raised bare only for defects of ours
    ├── UserError                2    something a person wrote or passed is wrong; carries Problems
    │   ├── RecipeError               a recipe or an argument
    │   ├── DataError                 a manifest, a text, a recording
    │   ├── BaseModelError            a base that cannot be found, read or used
    │   └── BundleError               a bundle that does not verify or may not be written
    ├── EngineError              1    a promise of the engine did not hold: frozen weights moved, losses misaligned
    └── Interrupted              130  Ctrl-C or SIGTERM; what was done is kept

A gate that did not pass is an outcome of a run, not an error: the command line ends with 3.

A `Problem` is one thing that is wrong, with a stable code, its place and what would help. `CODES` names them all.
Secrets are taken out of every message. This module never prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from qrecipe.redaction import redact

Severity = Literal["error", "warning"]

CODES: dict[str, str] = {
    "QR001": "the file is missing or cannot be read",
    "QR002": "the text is not YAML",
    "QR003": "a YAML feature that recipes do not use (anchor, alias, tag, merge key, several documents)",
    "QR004": "a key is written twice",
    "QR005": "a key is not a plain string",
    "QR010": "unknown field",
    "QR011": "a required field is missing",
    "QR012": "a value of the wrong type or outside its range",
    "QR013": "a variable is used but not defined",
    "QR014": "`extends` names a file that is missing, outside the allowed folders, or part of a cycle",
    "QR015": "`--set` cannot be applied",
    "QR016": "this file is a template, not a recipe",
    "QR017": "a value that looks like a password or an access token",
    "QR018": "`remove` names something that is not there",
    "QR020": "a name refers to nothing (dataset, language, stage)",
    "QR021": "a language key that stock qwen_tts cannot use",
    "QR022": "a language row that is taken or out of range",
    "QR023": "two things have the same id",
    "QR024": "an objective that its data or its trainable set does not fit",
    "QR025": "a dataset that judges is also trained on",
    "QR026": "a metric that its data cannot give",
    "QR027": "a gate without exactly one threshold, or a relative gate without a usable baseline",
    "QR028": "a declared language that is never trained",
    "QR029": "a stage that ends the run before what needs its later stages",
    "QR030": "a pattern that matches nothing",
    "QR031": "nothing is left to train",
    "QR032": "two entries claim the same tensor or row",
    "QR033": "`rows` on something that is not an embedding table, or row numbers outside it",
    "QR034": "a stage whose result a later stage overwrites, or that moves what frozen modules read",
    "QR035": "a learning rate far outside what its module tolerates",
    "QR036": "low-rank adaptation of something that it cannot adapt",
    "QR040": "a data file is missing or cannot be read",
    "QR041": "a manifest row that is not valid",
    "QR042": "a text that cannot be used",
    "QR043": "a recording that cannot be used",
    "QR044": "text and recording do not fit each other",
    "QR045": "no reference recording for a row",
    "QR046": "training and judging data overlap",
    "QR047": "less data than the method needs",
    "QR048": "a path that leads out of the recipe's repository",
    "QR049": "a respelling table that is wrong, or that does not give what its own tests say",
    "QR050": "the base cannot be found",
    "QR051": "the base is not a Qwen3-TTS Base model or is incomplete",
    "QR052": "the base is not on this machine, so some figures are unknown",
    "QR060": "a bundle does not verify",
    "QR061": "a bundle of this name and version holds something else",
    "QR062": "a manifest, lock or bundle manifest does not follow its schema",
    "QR070": "an argument of the command line is wrong",
    "QR071": "another run works in this folder",
    "QR072": "the lock does not agree with what would run",
    "QR073": "not enough room on a disk",
    "QR074": "not enough memory on the GPU",
    "QR080": "packages that a metric or an evaluator needs are not installed",
    "QR081": "an evaluator's model cannot be found or used",
    "QR082": "an optional gate that cannot be judged on this machine",
    "QR083": "a gate that cannot tell good recordings from spoilt ones",
    "QR084": "gates that a model can pass without reading the language",
}


@dataclass(frozen=True, order=True)
class Place:
    """Where in a file something stands. Lines and columns count from 1; 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        if not self.line:
            return self.file
        return f"{self.file}:{self.line}:{self.column}" if self.column else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: its code, its place, what was expected and what would help."""

    code: str
    message: str
    place: Place
    help: str | None = None
    severity: Severity = "error"
    length: int = 1
    """Characters under the caret."""
    note: str | None = None

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code
        for name in ("message", "help", "note"):
            text = getattr(self, name)
            if text is not None:
                object.__setattr__(self, name, printable(redact(text)))

    def as_json(self) -> dict[str, object]:
        """The object of the command line's JSON output."""
        return {
            "code": self.code,
            "severity": self.severity,
            "file": self.place.file,
            "line": self.place.line,
            "column": self.place.column,
            "message": self.message,
            "help": self.help,
            "note": self.note,
        }


MOST = 100
"""Problems of one kind of look at a recipe that are reported: beyond, a file is not a recipe with mistakes any more."""
LONGEST = 600
"""Characters of a message: a file can hold words of a megabyte."""


def printable(text: str) -> str:
    """A text without what moves a terminal's cursor, changes colours or turns the direction of writing; long ones cut."""
    if len(text) > LONGEST:
        text = text[: LONGEST - 1] + "…"
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


class QRecipeError(Exception):
    """The root of the tree above."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        self.message = redact(message)
        super().__init__(self.message)


class UserError(QRecipeError):
    """Something a person wrote or passed is wrong. Carries every problem that was found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: list[Problem] = [problems] if isinstance(problems, Problem) else list(problems)
        assert self.problems, "a UserError names at least one problem"
        super().__init__("; ".join(f"{p.place}: {p.message}" for p in self.problems[:3]))


class RecipeError(UserError):
    """A recipe or an argument is wrong."""


class DataError(UserError):
    """A manifest, a text or a recording is wrong."""


class BaseModelError(UserError):
    """A base cannot be found, read or used."""


class BundleError(UserError):
    """A bundle does not verify or may not be written."""


class EngineError(QRecipeError):
    """A promise of the engine did not hold. Never caused by what a person wrote."""


class Interrupted(QRecipeError):
    """A person or the system asked the run to stop."""

    exit_code = 130


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is nearest to `word`, or None if none is near."""
    words = sorted(set(known))
    lowered = {w.lower(): w for w in words}
    if word.lower() in lowered:
        return lowered[word.lower()]
    found = get_close_matches(word, words, n=1, cutoff=0.6)
    return found[0] if found else None


def suggest(word: str, known: Sequence[str] | Iterable[str]) -> str:
    """A help text that names the nearest known spelling, or lists what is known."""
    words = sorted(set(known))
    close = nearest(word, words)
    if close is not None:
        return f"did you mean `{close}`?"
    if not words:
        return "none is defined"
    shown = ", ".join(f"`{w}`" for w in words[:12])
    return f"known: {shown}" + (", …" if len(words) > 12 else "")
