"""YAML text -> a tree of nodes that remember where they stand.

Reads the JSON-shaped part of YAML 1.2 on PyYAML's parser: plain scalars follow the 1.2 core schema (`no` and `12:30`
are strings, `1e-5` is a number), and what makes YAML surprising (anchors, aliases, tags, merge keys, duplicate keys,
several documents, tabs) is refused with its place. Never interprets what a recipe means.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from qrecipe.errors import Place, Problem, Problems, RecipeError, Severity

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 20_000
"""Keys and values of one file; more is data, and data belongs into manifests."""
MAX_NUMBER = 400
"""Characters of a number; a longer one is beyond every number that a float can hold."""

Scalar = str | int | float | bool | None

_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_OCT_HEX = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_INF = re.compile(r"[-+]?\.(inf|Inf|INF)\Z")
_BREAKS = re.compile("[\x85\u2028\u2029]")
_ODD_BLANK = re.compile(r"[ \t]*([\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000\ufeff])")
"""White space of typesetting, which looks like a space and is none in YAML."""
NO_CHARACTER = re.compile("[\0\ud800-\udfff]")
"""Characters that an escape can write and no text can hold: NUL, and halves of surrogate pairs."""


@dataclass(frozen=True)
class Node:
    """A value with its place. `value` is a dict of nodes, a list of nodes, or a scalar."""

    value: dict[str, Node] | list[Node] | Scalar
    place: Place
    key_place: Place | None = None
    """Of the key, for a value of a mapping."""
    spelling: str | None = None
    """A plain scalar as it is written, such as `1e5`."""
    variables: tuple[tuple[str, Place], ...] = ()
    """Variables that were put into the value, with the places that set them."""

    def plain(self) -> object:
        """The value without places: dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {k: v.plain() for k, v in self.value.items()}
        if isinstance(self.value, list):
            return [v.plain() for v in self.value]
        return self.value

    def get(self, key: str | int) -> Node | None:
        """The node under a key of a mapping or at an index of a list, if there is one."""
        if isinstance(self.value, dict):
            return self.value.get(key) if isinstance(key, str) else None
        if isinstance(self.value, list) and isinstance(key, int) and 0 <= key < len(self.value):
            return self.value[key]
        return None

    def at(self, *path: str | int) -> Node:
        """The node along a path of keys and indices, or the deepest that exists."""
        node = self
        for key in path:
            child = node.get(key)
            if child is None:
                break
            node = child
        return node

    def mapped(self, change: Callable[[str | int, Node], Node]) -> Node:
        """The same with every child changed; `change` takes its key or index and the child."""
        if isinstance(self.value, dict):
            return replace(self, value={k: change(k, v) for k, v in self.value.items()})
        if isinstance(self.value, list):
            return replace(self, value=[change(i, v) for i, v in enumerate(self.value)])
        return self

    def without(self, *keys: str | int) -> Node:
        """The same without these fields or elements."""
        if isinstance(self.value, dict):
            return replace(self, value={k: v for k, v in self.value.items() if k not in keys})
        return replace(self, value=[v for i, v in enumerate(self.elements()) if i not in keys])

    @property
    def name_place(self) -> Place:
        """The place of the key; of the value where there is none, such as in a list."""
        return self.key_place or self.place

    def problem(self, code: str, message: str, help_: str | None = None, severity: Severity | None = None) -> Problem:
        """A problem of the value."""
        return Problem(code, message, self.place, help_, severity)

    def key_problem(self, code: str, message: str, help_: str | None = None, severity: Severity | None = None) -> Problem:
        """A problem of the key, or of the value where there is none."""
        return Problem(code, message, self.name_place, help_, severity)

    def items(self) -> Iterator[tuple[str, Node]]:
        """The entries of a mapping; nothing for anything else."""
        if isinstance(self.value, dict):
            yield from self.value.items()

    def elements(self) -> list[Node]:
        """The elements of a list; nothing for anything else."""
        return self.value if isinstance(self.value, list) else []


def core_scalar(text: str) -> Scalar:
    """The value of a plain scalar in the YAML 1.2 core schema.

    >>> core_scalar("no"), core_scalar("1e-5"), core_scalar("012"), core_scalar("12:30")
    ('no', 1e-05, 12, '12:30')
    """
    if text in _WORDS:
        return _WORDS[text]
    if _OCT_HEX.match(text):
        return int(text, 0) if len(text) <= MAX_NUMBER else math.inf
    if _INT.match(text) and len(text) <= MAX_NUMBER:
        return int(text)
    if _FLOAT.match(text):  # of a longer whole number, too
        return float(text)
    return float(text.replace(".", "")) if _INF.match(text) else text


def read_file(path: Path, shown: str | None = None, problems: Problems | None = None) -> Node:
    """Reads a YAML file. Raises `RecipeError` with every reading problem's place.

    Args:
        path: the file; a pipe or a device is refused.
        shown: how messages name the file; default: the path as given.
        problems: as for `read_text`.
    """
    name = shown or str(path)

    def refused(message: str) -> RecipeError:
        return RecipeError(Problem("QR001", message, Place(name)))

    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise refused("cannot read the file: Is a directory")
        if not stat.S_ISREG(about.st_mode):
            raise refused("cannot read the file: not a regular file")
        if about.st_size > MAX_BYTES:
            raise refused(f"the file has {about.st_size:,} bytes; at most {MAX_BYTES:,} are read")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise refused(f"the file is not UTF-8 (byte {e.start})") from None
    except (OSError, ValueError) as e:  # ValueError: a name with a NUL
        raise refused(f"cannot read the file: {getattr(e, 'strerror', None) or e}") from None
    return read_text(text, name, problems)


def read_text(text: str, name: str, problems: Problems | None = None) -> Node:
    """Reads YAML text. Raises `RecipeError`.

    Args:
        text: one document.
        name: the file that messages name.
        problems: takes what is wrong but leaves the rest of the text readable (a duplicate key, an anchor), so that a
            caller can go on and find more; without it these are raised as well.
    """
    node, mistakes = _read(text, name)
    if problems is None:
        mistakes.raise_any(RecipeError)
    else:
        problems += mistakes
    return node


@lru_cache(maxsize=16)
def _read(text: str, name: str) -> tuple[Node, Problems]:
    """The tree, and what leaves it readable. Remembered: recipes of one command often extend one template."""
    problems = Problems()
    separator = _BREAKS.search(text)
    if separator is not None:  # PyYAML takes them for line ends, YAML 1.2 and editors do not
        reason = "a line separator that YAML 1.2 does not know"
        raise RecipeError(_not_yaml(text, separator.start(), reason, name, f'in quotes, write "\\u{ord(separator[0]):04x}"'))
    try:
        builder, node = _build(text, name, problems)
    except yaml.MarkedYAMLError as e:
        raise RecipeError([*problems, _marked(_plainer(text, e), text, name)]) from None
    except yaml.YAMLError as e:
        raise RecipeError(_not_yaml(text, getattr(e, "position", 0), str(getattr(e, "reason", e)), name)) from None
    except (ValueError, OverflowError, RecursionError):  # from chr(), for an escape such as "\UFFFFFFFF"
        raise RecipeError(Problem("QR002", "not YAML: an escape that is no character", Place(name))) from None
    if node is None:
        raise RecipeError(Problem("QR002", "the file is empty", Place(name)))
    problems.extend(builder.tabs())
    return node, problems


_LOADER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
"""libyaml reads twenty times faster than PyYAML's own parser. They differ in tabs, which are refused here for both, and in messages."""


def _build(text: str, name: str, problems: Problems) -> tuple[_Builder, Node | None]:
    """The tree. From 0.2.6 on libyaml refuses a thousand open brackets before it says where they begin: PyYAML's own parser does not."""
    before = len(problems)
    for loader in (_LOADER, yaml.SafeLoader):
        builder = _Builder(text, name, problems, loader)
        try:
            return builder, builder.document()
        except yaml.MarkedYAMLError as e:
            if loader is yaml.SafeLoader or "nesting depth" not in str(e.problem):
                raise
            del problems[before:]
    raise AssertionError("the last parser either answers or raises")


def _plainer(text: str, error: yaml.MarkedYAMLError) -> yaml.MarkedYAMLError:
    """The error of PyYAML's own parser for a text that libyaml refuses: it explains more."""
    if _LOADER is yaml.SafeLoader or len(text) > 1 << 15:
        return error
    try:
        for _ in yaml.parse(text, Loader=yaml.SafeLoader):
            pass
    except yaml.MarkedYAMLError as e:
        return e
    except (yaml.YAMLError, ValueError, OverflowError):
        pass
    return error


def _marked(e: yaml.MarkedYAMLError, text: str, name: str) -> Problem:
    mark = e.problem_mark or e.context_mark
    if mark is not None and e.context_mark is not None and mark.index >= len(text.rstrip()):
        mark = e.context_mark  # what is never closed is reported where it begins, not at the end of the file
    reason = " ".join(str(x) for x in (e.context, e.problem) if x)
    if "escape code" in reason:
        reason = "an escape that is no character"
    blank = _odd_blank(text, mark.line if mark is not None else 0)
    if blank is not None:
        line, column, character = blank
        return Problem(
            "QR002", f"not YAML: U+{ord(character):04X} in the indentation", Place(name, line, column), "use spaces in its place"
        )
    tab = "'\\t'" in reason or (mark is not None and text[mark.index : mark.index + 1] == "\t")
    place = _place(name, mark) if mark else Place(name)
    return Problem("QR002", f"not YAML: {reason}", place, "use spaces in place of the tab" if tab else None)


def _odd_blank(text: str, last: int) -> tuple[int, int, str] | None:
    """Line, column and character of a blank that is no space, in the indentation of the last line that may have caused an error."""
    for number, line in reversed(list(enumerate(text.split("\n")[: last + 1], start=1))):
        odd = _ODD_BLANK.match(line)
        if odd is not None:
            return number, odd.end(), odd[1]
    return None


def _not_yaml(text: str, position: int, reason: str, name: str, help_: str | None = None) -> Problem:
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    return Problem("QR002", f"not YAML: {reason}", Place(name, line, column), help_)


def _place(name: str, start: Any, end: Any = None) -> Place:
    """The place of a mark; up to `end` if that is on the same line."""
    length = max(1, end.column - start.column) if end is not None and start.line == end.line else 1
    return Place(name, start.line + 1, start.column + 1, length)


class _Builder:
    """Builds nodes from the parser's events, which still show what a finished tree would hide."""

    def __init__(self, text: str, name: str, problems: Problems, loader: Any) -> None:
        self.text = text
        self.name = name
        self.problems = problems
        self.events = yaml.parse(text, Loader=loader)
        self.values = 0
        self.quoted: list[tuple[int, int]] = []
        """First and last character of quoted and block scalars, the last not included: tabs in them are text."""
        self.anchors: dict[str, Scalar] = {}
        """Scalars with a name, so that a refused alias does not cause other problems."""

    def document(self) -> Node | None:
        """The one document of the text; None if there is none."""
        root = None
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._unused("a second document", event, "a file holds one recipe")
                    break
                self._directives(event)
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event, 0, None)
        return root

    def tabs(self) -> Iterator[Problem]:
        """Tabs that indent or separate: editors show them in different widths. Those in quotes and comments are text."""
        position = self.text.find("\t")
        while position >= 0:
            start = self.text.rfind("\n", 0, position) + 1
            before = self.text[start:position]
            inside = any(first <= position < last for first, last in self.quoted)
            if not inside and not re.search(r"(^|\s)#", before):
                yield _not_yaml(self.text, position, "a tab", self.name, "use spaces in place of the tab")
                return
            position = self.text.find("\t", position + 1)

    def _wrong(self, code: str, message: str, event: Any, help_: str | None = None, length: int = 1) -> Problem:
        """Adds a problem of an event."""
        problem = Problem(code, message, replace(_place(self.name, event.start_mark), length=length), help_)
        self.problems.append(problem)
        return problem

    def _unused(self, feature: str, event: Any, help_: str = "write the value out, or use `vars` and `extends`") -> None:
        self._wrong("QR003", f"{feature} is not used in recipes", event, help_)

    def _directives(self, event: yaml.DocumentStartEvent) -> None:
        if event.version is not None and tuple(event.version) != (1, 2):
            self._unused("`%YAML {}.{}`".format(*event.version), event, "recipes are YAML 1.2; leave the line out")
        if event.tags:
            self._unused("`%TAG`", event)

    def _node(self, event: Any, depth: int, key: Any) -> Node:
        # Limits first: a file is read by whoever it is sent to.
        self.values += 1
        if self.values > MAX_VALUES:
            help_ = "lists of data belong into manifests"
            raise RecipeError(self._wrong("QR003", f"the file holds more than {MAX_VALUES:,} values", event, help_))

        # What makes YAML surprising is reported, and reading goes on with what was most likely meant.
        if isinstance(event, yaml.AliasEvent):
            self._unused(f"the alias `*{event.anchor}`", event)
            return self._made(self.anchors.get(str(event.anchor)), event, event.end_mark, key)
        if event.anchor is not None:
            self._unused(f"the anchor `&{event.anchor}`", event)
        elif event.tag is not None:
            self._unused(f"the tag `{event.tag}`", event, "leave it out: quotes make text, everything else is what it looks like")

        # Scalars end the recursion, lists and mappings go one level deeper.
        span = (event.start_mark.index, event.end_mark.index)
        if isinstance(event, yaml.ScalarEvent):
            if event.style:
                self.quoted.append(span)
            value = self._scalar(event)
            if event.anchor is not None:
                self.anchors[event.anchor] = value
            return self._made(value, event, event.end_mark, key, None if event.style else event.value)
        if depth >= MAX_DEPTH:
            self._wrong("QR003", f"nested deeper than {MAX_DEPTH} levels", event)
            raise RecipeError(self.problems)
        if isinstance(event, yaml.SequenceStartEvent):
            elements = []
            while not isinstance(inner := next(self.events), yaml.SequenceEndEvent):
                elements.append(self._node(inner, depth + 1, None))
            return self._made(elements, event, inner.end_mark, key)
        return self._mapping(event, depth, key)

    def _mapping(self, event: Any, depth: int, key: yaml.ScalarEvent | None) -> Node:
        fields: dict[str, Node] = {}
        value: Node | None = None
        while not isinstance(inner := next(self.events), yaml.MappingEndEvent):
            name = self._key(inner, depth, value)
            value = self._node(next(self.events), depth + 1, inner if isinstance(inner, yaml.ScalarEvent) else None)
            if name is None:
                continue
            if name in fields:
                self._wrong("QR004", f"`{name}` is written twice", inner, f"first at {fields[name].key_place}", len(name))
                continue
            fields[name] = value
        return self._made(fields, event, inner.end_mark, key)

    def _key(self, event: Any, depth: int, before: Node | None) -> str | None:
        """A key's name, or None for one that cannot be used. `before` is the value before it."""
        if not isinstance(event, yaml.ScalarEvent):
            self._node(event, depth + 1, None)
            if not isinstance(event, yaml.AliasEvent):  # reported already
                self._wrong("QR005", "a key must be a string, not a list or a mapping", event)
            return None
        node = self._node(event, depth + 1, None)
        if not isinstance(node.value, str):
            self.problems.append(_comma(before, node) or node.problem("QR005", "a key must be a string", f'quote it: "{event.value}"'))
            return None
        if node.value == "<<":
            self._wrong("QR003", "the merge key `<<` is not used in recipes", event, "use `extends`", 2)
            return None
        return node.value

    def _made(
        self,
        value: dict[str, Node] | list[Node] | Scalar,
        event: yaml.Event,
        end: Any,
        key: yaml.ScalarEvent | None,
        spelling: str | None = None,
    ) -> Node:
        key_place = _place(self.name, key.start_mark, key.end_mark) if key is not None else None
        return Node(value, _place(self.name, event.start_mark, end), key_place, spelling)

    def _scalar(self, event: Any) -> Scalar:
        """A scalar's value: plain ones by the core schema, quoted and block ones as they are."""
        text = str(event.value)
        if NO_CHARACTER.search(text):
            self._wrong("QR002", "not YAML: an escape that is no character", event)
            return ""
        return text if event.style else core_scalar(text)


def _comma(before: Node | None, key: Node) -> Problem | None:
    """The problem of a number with a comma in it, of which YAML makes a value and a key."""
    whole, rest = before.spelling if before is not None else None, key.spelling or ""
    if (
        before is None
        or key.place != replace(before.place, column=before.place.column + len(whole or "") + 1)
        or not re.fullmatch(r"[+-]?\d+", whole or "")
        or not re.fullmatch(r"\d+(?:[eE][+-]?\d+)?", rest)
    ):
        return None
    written = f"{whole}{rest}" if re.fullmatch(r"\d{3}", rest) else f"{whole}.{rest}"
    place = replace(before.place, length=len(f"{whole},{rest}"))
    return Problem("QR005", "a comma ends a value, so what follows is read as a key", place, f"write `{written}`")
