"""YAML text -> a tree of nodes that remember where they stand.

Reads the JSON-shaped part of YAML 1.2 on PyYAML's parser: plain scalars follow the 1.2 core schema (`no` and `12:30`
are strings, `1e-5` is a number), and what makes YAML surprising (anchors, aliases, tags, merge keys, duplicate keys,
several documents) is refused with its place. Never interprets what a recipe means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.resolver import Resolver

from qrecipe.errors import Place, Problem, RecipeError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NUMBER = 400
"""Characters of a number; longer digits are a string."""

Scalar = str | int | float | bool | None

_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {"true", "True", "TRUE"}
_FALSE = {"false", "False", "FALSE"}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_OCT_HEX = re.compile(r"0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")


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
    if len(text) > MAX_NUMBER:
        return text
    if _INT.match(text):
        return int(text)
    if _OCT_HEX.match(text):
        return int(text, 0)
    if _FLOAT.match(text):
        return float(text)
    return text


def read_file(path: Path, shown: str | None = None) -> Node:
    """Reads a YAML file. Raises `RecipeError` with every reading problem's place.

    `shown` is how messages name the file; default: the path as given.
    """
    name = shown or str(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RecipeError(Problem("QR001", f"the file has {size:,} bytes; at most {MAX_BYTES:,} are read", Place(name)))
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise RecipeError(Problem("QR001", f"the file is not UTF-8 (byte {e.start})", Place(name))) from None
    except OSError as e:
        raise RecipeError(Problem("QR001", f"cannot read the file: {e.strerror or e}", Place(name))) from None
    return read_text(text, name)


def read_text(text: str, name: str) -> Node:
    """Reads YAML text; `name` is the file that messages name."""
    try:
        events = list(_allowed(yaml.parse(text, Loader=yaml.SafeLoader), name))
        root = _Composer(events).get_single_node()
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        if mark is not None and e.context_mark is not None and mark.index >= len(text.rstrip()):
            mark = e.context_mark  # what is never closed is found where it begins, not at the end of the file
        what = " ".join(str(x) for x in (e.context, e.problem) if x)
        help_ = "use spaces in place of the tab" if "'\\t'" in what else None
        raise RecipeError(Problem("QR002", f"not YAML: {what}", _at(mark, name) if mark else Place(name), help_)) from None
    except yaml.YAMLError as e:
        raise RecipeError(_not_yaml(text, getattr(e, "position", 0), str(getattr(e, "reason", e)), name)) from None
    except (ValueError, OverflowError):  # from chr(), for an escape such as "\UFFFFFFFF"
        raise RecipeError(Problem("QR002", "not YAML: an escape that is no character", Place(name))) from None
    if root is None:
        raise RecipeError(Problem("QR002", "the file is empty", Place(name)))
    problems: list[Problem] = []
    node = _convert(root, name, None, problems)
    if problems:
        raise RecipeError(problems)
    return node


def _not_yaml(text: str, position: int, reason: str, name: str) -> Problem:
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    return Problem("QR002", f"not YAML: {reason}", Place(name, line, column))


def _at(mark: Any, name: str) -> Place:
    return Place(name, mark.line + 1, mark.column + 1)


class _Composer(Composer, Resolver):
    """Composes nodes from events that were read already, so that a text is scanned once."""

    def __init__(self, events: list[yaml.Event]) -> None:
        Composer.__init__(self)
        Resolver.__init__(self)
        self._events = events
        self._next = 0

    def check_event(self, *choices: type[yaml.Event]) -> bool:
        """Whether the next event is one of these."""
        return isinstance(self._events[self._next], choices)

    def peek_event(self) -> yaml.Event:
        """The next event."""
        return self._events[self._next]

    def get_event(self) -> yaml.Event:
        """The next event, taken."""
        self._next += 1
        return self._events[self._next - 1]


def _allowed(events: Iterable[yaml.Event], name: str) -> Iterator[yaml.Event]:
    """Passes events on and refuses what the node graph would hide: anchors, aliases, tags, a second document, deep nesting."""
    documents = depth = 0
    for event in events:
        what = None
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                what = "a second document"
        elif isinstance(event, yaml.AliasEvent):
            what = f"the alias `*{event.anchor}`"
        elif isinstance(event, yaml.NodeEvent):
            tag = getattr(event, "tag", None)
            if event.anchor is not None:
                what = f"the anchor `&{event.anchor}`"
            elif tag is not None and tag != "!":
                what = f"the tag `{tag}`"
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            if depth > MAX_DEPTH:
                raise RecipeError(Problem("QR003", f"nested deeper than {MAX_DEPTH} levels", _at(event.start_mark, name)))
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        if what:
            help_ = "write the value out, or use `vars` and `extends`"
            raise RecipeError(Problem("QR003", f"{what} is not used in recipes", _at(event.start_mark, name), help_))
        yield event


def _convert(node: yaml.Node, name: str, key: yaml.Node | None, problems: list[Problem]) -> Node:
    place = _at(node.start_mark, name)
    key_place = _at(key.start_mark, name) if key is not None else None
    key_length = max(1, key.end_mark.column - key.start_mark.column) if key is not None else 1
    one_line = node.start_mark.line == node.end_mark.line
    length = max(1, node.end_mark.column - node.start_mark.column) if one_line else 1
    value: dict[str, Node] | list[Node] | Scalar
    spelling: str | None = None
    if isinstance(node, yaml.MappingNode):
        value = {}
        for k, v in node.value:
            k_place = _at(k.start_mark, name)
            if not isinstance(k, yaml.ScalarNode):
                problems.append(Problem("QR005", "a key must be a string, not a list or a mapping", k_place))
                continue
            word = _scalar(k, name, problems)
            if not isinstance(word, str):
                length_ = max(1, k.end_mark.column - k.start_mark.column)
                problems.append(Problem("QR005", "a key must be a string", k_place, f'quote it: "{k.value}"', length=length_))
                continue
            if word == "<<":
                problems.append(Problem("QR003", "the merge key `<<` is not used in recipes", k_place, "use `extends`", length=2))
                continue
            if word in value:
                first = value[word].key_place
                problems.append(Problem("QR004", f"`{word}` is written twice", k_place, f"first at {first}", length=len(word)))
                continue
            value[word] = _convert(v, name, k, problems)
    elif isinstance(node, yaml.SequenceNode):
        value = [_convert(v, name, None, problems) for v in node.value]
    else:
        assert isinstance(node, yaml.ScalarNode)
        value = _scalar(node, name, problems)
        spelling = node.value if node.style is None else None
    return Node(value, place, key_place, length, key_length, spelling)


def _scalar(node: yaml.ScalarNode, name: str, problems: list[Problem]) -> Scalar:
    """A scalar's value: plain ones by the core schema, quoted and block ones as they are."""
    text = str(node.value)
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
        problems.append(Problem("QR002", "not YAML: an escape that is no character", _at(node.start_mark, name)))
        return ""
    return core_scalar(text) if node.style is None else text
