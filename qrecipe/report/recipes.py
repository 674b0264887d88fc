"""A recipe as YAML, with where each value comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from qrecipe.source.reader import Node
from qrecipe.source.writer import write_yaml

DEFAULT = "default"
"""Where a value comes from that no file states."""


def origins_of(value: Any, node: Node) -> dict[str, str]:
    """The file and line of every scalar and of every empty map or list, by its path; stages go by id, as for `--set`."""
    return {".".join(path): _origin(leaf) for path, _, leaf in _leaves(value, node, ())}


def as_yaml(value: Any, origins: dict[str, str] | None = None) -> str:
    """YAML text; with origins, a comment after every value."""
    if origins is None:
        return write_yaml(value)
    lines = list(_lines(value, origins, "", ()))
    width = min(60, max(len(text) for text, _ in lines))
    return "".join(f"{text:<{width}}  # {origin}\n" if origin else f"{text}\n" for text, origin in lines)


def _leaves(value: Any, node: Node | None, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Node | None]]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _leaves(child, node.get(key) if node is not None else None, (*path, key))
    elif isinstance(value, list) and value:
        for name, i in _names(value):
            yield from _leaves(value[i], node.get(i) if node is not None else None, (*path, name))
    else:
        yield path, value, node


def _names(value: list[Any]) -> Iterator[tuple[str, int]]:
    """How a path names the elements of a list."""
    for i, element in enumerate(value):
        yield (str(element["id"]) if isinstance(element, dict) and "id" in element else str(i)), i


def _origin(node: Node | None) -> str:
    if node is None:
        return DEFAULT
    place = node.place.file if node.place.file.startswith("--set") else f"{node.place.file}:{node.place.line}"
    variables = "".join(f", ${name} at {p.file if p.file.startswith('--set') else f'{p.file}:{p.line}'}" for name, p in node.variables)
    return place + variables


def _lines(value: Any, origins: dict[str, str], indent: str, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Block style, one value a line, each with its origin ("" for a line without a value)."""
    if isinstance(value, dict):
        for key, child in value.items():
            inner = (*path, key)
            if child and isinstance(child, (dict, list)):
                yield f"{indent}{_scalar(key)}:", ""
                yield from _lines(child, origins, indent + "  ", inner)
            else:
                yield f"{indent}{_scalar(key)}: {_scalar(child)}", origins[".".join(inner)]
        return
    for name, i in _names(value):
        inner = (*path, name)
        if value[i] and isinstance(value[i], (dict, list)):
            first, *rest = _lines(value[i], origins, indent + "  ", inner)
            yield f"{indent}- {first[0].lstrip()}", first[1]
            yield from rest
        else:
            yield f"{indent}- {_scalar(value[i])}", origins[".".join(inner)]


def _scalar(value: Any) -> str:
    """A scalar, or an empty map or list, on one line that means it in YAML 1.1 and 1.2."""
    text = write_yaml(value, float("inf")).removesuffix("...\n").strip()
    return text if "\n" not in text else json.dumps(value, ensure_ascii=False)
