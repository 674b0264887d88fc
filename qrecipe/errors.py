"""Every error that qrecipe raises on purpose, each with the exit code that the command line gives it.

    QRecipeError                 1    the root; raised bare only for defects of ours
    ├── UserError                2    something a person wrote or passed is wrong; carries Problems
    │   ├── RecipeError               a recipe or an argument
    │   ├── DataError                 a manifest, a text, a recording
    │   ├── BaseModelError            a base that cannot be found, read or used
    │   └── BundleError               a bundle that does not verify or may not be written
    ├── EngineError              1    a promise of the engine did not hold: frozen weights moved, losses misaligned
    ├── RankLost                 1    another process of the run has died; what was done is kept
    └── Interrupted              130  a signal (Ctrl-C, SIGTERM); what was done is kept

A gate that did not pass is an outcome of a run, not an error: the command line ends with 3.

A `Problem` is one thing that is wrong, with a stable code, its place and what would help. `CODES` names them all.
Secrets are taken out of every message. This module never prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Literal

from qrecipe.redaction import redact

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Code:
    """A kind of problem."""

    meaning: str
    severity: Severity = "error"
    """Of its problems, where the one who makes them states no other."""
    advisory: bool = False
    """Whether a warning of this code never keeps a run from starting; others become errors when a plan is carried out."""
    knock_on: bool = False
    """Whether faulty parts of a recipe may cause it by being left out of what is looked at."""
    absent_base: bool = False
    """Whether fetching the base removes it."""


CODES: dict[str, Code] = {
    "QR001": Code("the file is missing or cannot be read"),
    "QR002": Code("the text is not YAML"),
    "QR003": Code("a YAML feature that recipes do not use (anchor, alias, tag, merge key, several documents)"),
    "QR004": Code("a key is written twice"),
    "QR005": Code("a key is not a plain string"),
    "QR010": Code("unknown field"),
    "QR011": Code("a required field is missing", knock_on=True),
    "QR012": Code("a value of the wrong type or outside its range"),
    "QR013": Code("a variable is used but not defined"),
    "QR014": Code("`extends` names a file that is missing, outside the allowed folders, or part of a cycle"),
    "QR015": Code("`--set` cannot be applied"),
    "QR016": Code("this file is a template, not a recipe", "warning", advisory=True),
    "QR017": Code("a value that looks like a password or an access token"),
    "QR018": Code("`remove` names something that is not there"),
    "QR019": Code("a language key that some servers change or do not find", "warning", advisory=True),
    "QR020": Code("a name refers to nothing (dataset, language, stage)"),
    "QR021": Code("a language key that stock qwen_tts cannot use"),
    "QR022": Code("a language row that is taken or out of range"),
    "QR023": Code("two things have the same id", knock_on=True),
    "QR024": Code("an objective that its data or its trainable set does not fit"),
    "QR025": Code("a dataset that judges is also trained on", knock_on=True),
    "QR026": Code("a metric that its data cannot give"),
    "QR027": Code("a gate without exactly one threshold, or a relative gate without a usable baseline", knock_on=True),
    "QR028": Code("a declared language that is never trained", "warning", advisory=True, knock_on=True),
    "QR029": Code("a stage that ends the run before what needs its later stages", advisory=True, knock_on=True),
    "QR030": Code("a pattern that matches nothing"),
    "QR031": Code("nothing is left to train"),
    "QR032": Code("two entries claim the same tensor or row"),
    "QR033": Code("`rows` on something that is not an embedding table, or row numbers outside it"),
    "QR034": Code(
        "a stage whose result a later stage overwrites, or that moves what frozen modules read", "warning", advisory=True, knock_on=True
    ),
    "QR035": Code("a learning rate far outside what its module tolerates", "warning", advisory=True, knock_on=True),
    "QR036": Code("low-rank adaptation of something that it cannot adapt"),
    "QR040": Code("a data file is missing or cannot be read"),
    "QR041": Code("a manifest row that is not valid"),
    "QR042": Code("a text that cannot be used"),
    "QR043": Code("a recording that cannot be used"),
    "QR044": Code("text and recording do not fit each other", advisory=True),
    "QR045": Code("no reference recording for a row", knock_on=True),
    "QR046": Code("training and judging data overlap"),
    "QR047": Code("less data than the method needs", advisory=True, knock_on=True),
    "QR048": Code("a path that leads out of the recipe's repository"),
    "QR049": Code("a respelling table that is wrong, or that does not give what its own tests say"),
    "QR050": Code("the base cannot be found"),
    "QR051": Code("the base is not a Qwen3-TTS Base model or is incomplete"),
    "QR052": Code("the base is not on this machine, so some figures are unknown", "warning", absent_base=True),
    "QR060": Code("a bundle does not verify"),
    "QR061": Code("a bundle of this name and version holds something else"),
    "QR062": Code("a manifest, lock or bundle manifest does not follow its schema"),
    "QR063": Code("a language pack that cannot be read, or was changed"),
    "QR064": Code("packs that do not fit the base or each other"),
    "QR065": Code("the hub does not take a bundle"),
    "QR066": Code("a ballot that was changed, is there twice, or does not follow its form"),
    "QR070": Code("an argument of the command line is wrong"),
    "QR071": Code("another run works in this folder"),
    "QR072": Code("the lock does not agree with what would run"),
    "QR073": Code("not enough room on a disk"),
    "QR074": Code("not enough memory, on the GPU or on the machine"),
    "QR075": Code("a file or folder of this machine cannot be written or read"),
    "QR080": Code("packages that a metric, an evaluator, a format or a stage needs are not installed", "warning"),
    "QR081": Code("an evaluator's model cannot be found or used"),
    "QR082": Code("an optional gate that cannot be judged on this machine", "warning", advisory=True),
    "QR083": Code("a gate that cannot tell good recordings from spoilt ones"),
    "QR084": Code("gates that a model can pass without reading the language", "warning", advisory=True, knock_on=True),
    "QR085": Code("what a stage is rewarded for judges alone", "warning", advisory=True, knock_on=True),
    "QR090": Code("processes of a launcher that do not belong together, or a verb that works in one"),
    "QR087": Code("columns of a manifest that nothing reads", "warning", advisory=True),
    "QR094": Code("rows that name another language than their dataset's", "warning", advisory=True, knock_on=True),
    "QR091": Code("a recording or a row that a dataset holds more than once", "warning", advisory=True),
    "QR092": Code(
        "nothing keeps what the base knows: no replay of its languages, and no gate on them", "warning", advisory=True, knock_on=True
    ),
    "QR093": Code("no gate decides whether the result is good", "warning", advisory=True, knock_on=True),
    "QR100": Code("`moments` or `masters` of a stage in which they save nothing", "warning", advisory=True, knock_on=True),
}


@dataclass(frozen=True, order=True)
class Place:
    """A span within a line of a file. Lines and columns count from 1; 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0
    length: int = field(default=1, compare=False)
    """Characters under the caret. Places that start together are equal."""

    @property
    def start(self) -> Place:
        """The first character."""
        return replace(self, length=1)

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
    severity: Severity | None = None
    """Default: that of the code."""
    note: str | None = None

    def __post_init__(self) -> None:
        if self.severity is None:
            object.__setattr__(self, "severity", CODES[self.code].severity)
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


class Problems(list[Problem]):
    """Collects problems: of a recipe, a plan, a file."""

    @property
    def errors(self) -> Problems:
        """Those that keep the work from being done."""
        return Problems(p for p in self if p.severity == "error")

    @property
    def warnings(self) -> Problems:
        """The others."""
        return Problems(p for p in self if p.severity == "warning")

    @property
    def places(self) -> set[Place]:
        """Where something is wrong."""
        return {p.place for p in self}

    def strict(self) -> Problems:
        """As they count when a plan is carried out: only advice stays a warning."""
        return Problems(p if CODES[p.code].advisory else replace(p, severity="error") for p in self)

    def raise_any(self, error: type[UserError]) -> None:
        """Raises `error` with all of them, unless there are none."""
        if self:
            raise error(self)

    def in_order(self) -> Problems:
        """By place, then by code."""
        return Problems(sorted(self, key=lambda p: (p.place, p.code)))


MAX_PROBLEMS = 100
"""Problems of one kind of check that are reported: beyond, a file is not a recipe with mistakes any more."""
MAX_MESSAGE = 600
"""Characters of a message: a file can hold words of a megabyte."""


def printable(text: str) -> str:
    """A text without what moves a terminal's cursor, changes colours or turns the direction of writing; long ones cut."""
    if len(text) > MAX_MESSAGE:
        text = text[: MAX_MESSAGE - 1] + "…"
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


def listed(names: Sequence[str], most: int) -> str:
    """`a, b and 3 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def in_a_line(error: Exception, most: int = 200) -> str:
    """The first line of a foreign error, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


class QRecipeError(Exception):
    """The root of the tree above."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        self.message = redact(message)
        super().__init__(self.message)


class UserError(QRecipeError):
    """Something a person wrote or passed is wrong. Carries every problem, not only the first."""

    exit_code = 2

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = Problems([problems] if isinstance(problems, Problem) else problems)
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


class RankLost(QRecipeError):
    """Another process of the run has died."""


class Interrupted(QRecipeError):
    """A person or the system asked the run to stop."""

    exit_code = 130


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is nearest to `word`, or None if none is near."""
    words = sorted(set(known))
    lowered = {w.lower(): w for w in words}
    if word.lower() in lowered:
        return lowered[word.lower()]
    return next(iter(get_close_matches(word, words, n=1, cutoff=0.6)), None)


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
