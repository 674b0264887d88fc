"""YAML text -> a tree of nodes that remember where they stand.

Reads the JSON-shaped part of YAML 1.2 on PyYAML's parser: plain scalars follow the 1.2 core schema (`no` and `12:30`
are strings, `1e-5` is a number), and what makes YAML surprising (anchors, aliases, tags, merge keys, duplicate keys,
several documents, tabs) is refused with its place. Never interprets what a recipe means.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from qrecipe.errors import Place, Problem, RecipeError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 20_000
"""Keys and values of one file; more is data, and data belongs into manifests."""
MAX_NUMBER = 400
"""Characters of a number; a longer one is beyond every number that a float can hold."""

Scalar = str | int | float | bool | None

_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {"true", "True", "TRUE"}
_FALSE = {"false", "False", "FALSE"}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_OCT_HEX = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_INF = re.compile(r"[-+]?\.(inf|Inf|INF)\Z")
_NAN = {".nan", ".NaN", ".NAN"}
_BREAKS = re.compile("[\x85\u2028\u2029]")
NO_CHARACTER = re.compile("[\0\ud800-\udfff]")
"""What an escape can write and no text can hold: NUL, and halves of surrogate pairs."""


@dataclass(frozen=True)
class Node:
    """A value with its place. `value` is a dict of nodes, a list of nodes, or a scalar."""

    value: dict[str, Node] | list[Node] | Scalar
    place: Place
    key_place: Place | None = None
    """Where the key stands, for a value of a mapping."""
    length: int = 1
    """Characters of the value on its line."""
    key_length: int = 1
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

    def get(self, key: str) -> Node | None:
        """The node under `key` if this is a mapping that has it."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def child(self, key: str | int) -> Node | None:
        """The node under a key of a mapping or at an index of a list, if there is one."""
        if isinstance(self.value, dict):
            return self.value.get(key) if isinstance(key, str) else None
        if isinstance(self.value, list) and isinstance(key, int) and 0 <= key < len(self.value):
            return self.value[key]
        return None

    def items(self) -> Iterator[tuple[str, Node]]:
        """The entries of a mapping; nothing for anything else."""
        if isinstance(self.value, dict):
            yield from self.value.items()

    def elements(self) -> list[Node]:
        """The elements of a list; nothing for anything else."""
        return self.value if isinstance(self.value, list) else []


def core_scalar(text: str) -> Scalar:
    """What a plain scalar means in the YAML 1.2 core schema.

    >>> core_scalar("no"), core_scalar("1e-5"), core_scalar("012"), core_scalar("12:30")
    ('no', 1e-05, 12, '12:30')
    """
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INT.match(text):
        return int(text) if len(text) <= MAX_NUMBER else math.copysign(math.inf, -1 if text[0] == "-" else 1)
    if _OCT_HEX.match(text):
        return int(text, 0) if len(text) <= MAX_NUMBER else math.inf
    if _FLOAT.match(text):
        return float(text)
    if _INF.match(text):
        return math.copysign(math.inf, -1 if text[0] == "-" else 1)
    return math.nan if text in _NAN else text


def read_file(path: Path, shown: str | None = None, problems: list[Problem] | None = None) -> Node:
    """Reads a YAML file. Raises `RecipeError` with every reading problem's place.

    Args:
        path: the file; a pipe or a device is refused.
        shown: how messages name the file; default: the path as given.
        problems: as for `read_text`.
    """
    name = shown or str(path)
    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise RecipeError(Problem("QR001", "cannot read the file: Is a directory", Place(name)))
        if not stat.S_ISREG(about.st_mode):
            raise RecipeError(Problem("QR001", "cannot read the file: not a regular file", Place(name)))
        if about.st_size > MAX_BYTES:
            raise RecipeError(Problem("QR001", f"the file has {about.st_size:,} bytes; at most {MAX_BYTES:,} are read", Place(name)))
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise RecipeError(Problem("QR001", f"the file is not UTF-8 (byte {e.start})", Place(name))) from None
    except (OSError, ValueError) as e:  # ValueError: a name with a NUL
        raise RecipeError(Problem("QR001", f"cannot read the file: {getattr(e, 'strerror', None) or e}", Place(name))) from None
    return read_text(text, name, problems)


def read_text(text: str, name: str, problems: list[Problem] | None = None) -> Node:
    """Reads YAML text. Raises `RecipeError`.

    Args:
        text: one document.
        name: the file that messages name.
        problems: takes what is wrong but leaves the rest of the text readable (a duplicate key, an anchor), so that a
            caller can go on and find more; without it these are raised as well.
    """
    node, found = _read(text, name)
    if found and problems is None:
        raise RecipeError(found)
    if problems is not None:
        problems.extend(found)
    return node


@lru_cache(maxsize=16)
def _read(text: str, name: str) -> tuple[Node, list[Problem]]:
    """The tree, and what leaves it readable. Remembered: recipes of one command often extend one template."""
    found: list[Problem] = []
    strange = _BREAKS.search(text)
    if strange is not None:  # PyYAML takes them for line ends, YAML 1.2 and editors do not
        help_ = f'in quotes, write "\\u{ord(strange[0]):04x}"'
        raise RecipeError(_not_yaml(text, strange.start(), "a line separator that YAML 1.2 does not know", name, help_))
    try:
        builder, node = _build(text, name, found)
    except yaml.MarkedYAMLError as e:
        raise RecipeError([*found, _marked(_plainer(text, e), text, name)]) from None
    except yaml.YAMLError as e:
        raise RecipeError(_not_yaml(text, getattr(e, "position", 0), str(getattr(e, "reason", e)), name)) from None
    except (ValueError, OverflowError, RecursionError):  # from chr(), for an escape such as "\UFFFFFFFF"
        raise RecipeError(Problem("QR002", "not YAML: an escape that is no character", Place(name))) from None
    if node is None:
        raise RecipeError(Problem("QR002", "the file is empty", Place(name)))
    found.extend(builder.tabs())
    return node, found


_LOADER: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
"""libyaml reads twenty times faster than PyYAML's own parser. They differ in tabs, which are refused here for both, and in messages."""


def _build(text: str, name: str, found: list[Problem]) -> tuple[_Builder, Node | None]:
    """The tree. From 0.2.6 on libyaml refuses a thousand open brackets before it says where they begin: PyYAML's own parser does not."""
    before = len(found)
    for loader in (_LOADER, yaml.SafeLoader):
        builder = _Builder(text, name, found, loader)
        try:
            return builder, builder.document()
        except yaml.MarkedYAMLError as e:
            if loader is yaml.SafeLoader or "nesting depth" not in str(e.problem):
                raise
            del found[before:]
    raise AssertionError("the last parser either answers or raises")


def _plainer(text: str, error: yaml.MarkedYAMLError) -> yaml.MarkedYAMLError:
    """What PyYAML's own parser says of a text that libyaml refuses: it says more."""
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
        mark = e.context_mark  # what is never closed is found where it begins, not at the end of the file
    what = " ".join(str(x) for x in (e.context, e.problem) if x)
    if "escape code" in what:
        what = "an escape that is no character"
    help_ = "use spaces in place of the tab" if "'\\t'" in what or (mark and text[mark.index : mark.index + 1] == "\t") else None
    return Problem("QR002", f"not YAML: {what}", _at(mark, name) if mark else Place(name), help_)


def _not_yaml(text: str, position: int, reason: str, name: str, help_: str | None = None) -> Problem:
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    return Problem("QR002", f"not YAML: {reason}", Place(name, line, column), help_)


def _at(mark: Any, name: str) -> Place:
    return Place(name, mark.line + 1, mark.column + 1)


class _Builder:
    """Builds nodes from the parser's events, which still show what a finished tree would hide."""

    def __init__(self, text: str, name: str, problems: list[Problem], loader: Any) -> None:
        self.text = text
        self.name = name
        self.problems = problems
        self.events = yaml.parse(text, Loader=loader)
        self.values = 0
        self.quoted: list[tuple[int, int]] = []
        """Where quoted and block scalars stand: tabs in them are text."""
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

    def _directives(self, event: yaml.DocumentStartEvent) -> None:
        if event.version is not None and tuple(event.version) != (1, 2):
            self._unused("`%YAML {}.{}`".format(*event.version), event, "recipes are YAML 1.2; leave the line out")
        if event.tags:
            self._unused("`%TAG`", event)

    def _unused(self, what: str, event: yaml.Event, help_: str = "write the value out, or use `vars` and `extends`") -> None:
        self.problems.append(Problem("QR003", f"{what} is not used in recipes", _at(event.start_mark, self.name), help_))

    def _node(self, event: Any, depth: int, key: Any) -> Node:
        self.values += 1
        if self.values > MAX_VALUES:
            place = _at(event.start_mark, self.name)
            raise RecipeError(
                Problem("QR003", f"the file holds more than {MAX_VALUES:,} values", place, "lists of data belong into manifests")
            )
        if isinstance(event, yaml.AliasEvent):
            self._unused(f"the alias `*{event.anchor}`", event)
            return self._made(self.anchors.get(str(event.anchor)), event, event.end_mark, key)
        if event.anchor is not None:
            self._unused(f"the anchor `&{event.anchor}`", event)
        elif event.tag is not None:
            self._unused(f"the tag `{event.tag}`", event, "leave it out: quotes make text, everything else is what it looks like")
        if isinstance(event, yaml.ScalarEvent):
            if event.style:
                self.quoted.append(_span(event))
            value = self._scalar(event)
            if event.anchor is not None:
                self.anchors[event.anchor] = value
            return self._made(value, event, event.end_mark, key, None if event.style else event.value)
        if depth >= MAX_DEPTH:
            place = _at(event.start_mark, self.name)
            raise RecipeError([*self.problems, Problem("QR003", f"nested deeper than {MAX_DEPTH} levels", place)])
        if isinstance(event, yaml.SequenceStartEvent):
            elements = []
            while not isinstance(inner := next(self.events), yaml.SequenceEndEvent):
                elements.append(self._node(inner, depth + 1, None))
            return self._made(elements, event, inner.end_mark, key)
        return self._mapping(event, depth, key)

    def _mapping(self, event: Any, depth: int, key: yaml.ScalarEvent | None) -> Node:
        fields: dict[str, Node] = {}
        while not isinstance(inner := next(self.events), yaml.MappingEndEvent):
            name = self._key(inner, depth)
            value = self._node(next(self.events), depth + 1, inner if isinstance(inner, yaml.ScalarEvent) else None)
            if name is None:
                continue
            if name in fields:
                first = fields[name].key_place
                place = _at(inner.start_mark, self.name)
                self.problems.append(Problem("QR004", f"`{name}` is written twice", place, f"first at {first}", length=len(name)))
                continue
            fields[name] = value
        return self._made(fields, event, inner.end_mark, key)

    def _key(self, event: Any, depth: int) -> str | None:
        """A key's name, or None for one that cannot be used."""
        place = _at(event.start_mark, self.name)
        if not isinstance(event, yaml.ScalarEvent):
            self._node(event, depth + 1, None)
            if not isinstance(event, yaml.AliasEvent):  # said already
                self.problems.append(Problem("QR005", "a key must be a string, not a list or a mapping", place))
            return None
        name = self._node(event, depth + 1, None).value
        length = _length(event.start_mark, event.end_mark)
        if not isinstance(name, str):
            self.problems.append(Problem("QR005", "a key must be a string", place, f'quote it: "{event.value}"', length=length))
            return None
        if name == "<<":
            self.problems.append(Problem("QR003", "the merge key `<<` is not used in recipes", place, "use `extends`", length=2))
            return None
        return name

    def _made(
        self,
        value: dict[str, Node] | list[Node] | Scalar,
        event: yaml.Event,
        end: Any,
        key: yaml.ScalarEvent | None,
        spelling: str | None = None,
    ) -> Node:
        return Node(
            value,
            _at(event.start_mark, self.name),
            _at(key.start_mark, self.name) if key is not None else None,
            _length(event.start_mark, end),
            _length(key.start_mark, key.end_mark) if key is not None else 1,
            spelling,
        )

    def _scalar(self, event: Any) -> Scalar:
        """A scalar's value: plain ones by the core schema, quoted and block ones as they are."""
        text = str(event.value)
        if NO_CHARACTER.search(text):
            self.problems.append(Problem("QR002", "not YAML: an escape that is no character", _at(event.start_mark, self.name)))
            return ""
        return text if event.style else core_scalar(text)


def _length(start: Any, end: Any) -> int:
    """Characters from one mark to another of the same line; 1 for what spans lines."""
    return max(1, end.column - start.column) if start.line == end.line else 1


def _span(event: Any) -> tuple[int, int]:
    """First and last character of an event, the last not included."""
    return event.start_mark.index, event.end_mark.index
