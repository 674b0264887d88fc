"""Walking through and changing a tree of nodes. Trees are values: a change gives another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from qrecipe.errors import Place
from qrecipe.source.reader import Node, Scalar

Loc = tuple[int | str, ...]
"""Keys and indices from the root of a tree to a node."""


def every_node(node: Node) -> Iterator[Node]:
    """A node and everything below it, in the order of the text."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        yield current
        if isinstance(current.value, dict):
            waiting.extend(reversed(current.value.values()))
        else:
            waiting.extend(reversed(current.elements()))


def places(node: Node | None) -> set[Place]:
    """Where a node, everything below it and all their keys stand."""
    return {p for n in every_node(node) for p in (n.place, n.key_place) if p is not None} if node is not None else set()


def along(node: Node, path: Loc) -> Node | None:
    """The node at a path, or None."""
    current: Node | None = node
    for key in path:
        current = current.get(key) if current is not None else None
    return current


def changed(node: Node, path: Loc, change: Callable[[Node], Node]) -> Node:
    """The tree with the node at a path changed; unchanged if there is none."""
    if not path:
        return change(node)
    return node.mapped(lambda key, child: changed(child, path[1:], change) if key == path[0] else child)


def without(node: Node, path: Loc) -> Node:
    """The tree without the node at a path."""
    return changed(node, path[:-1], lambda parent: parent.without(path[-1]))


def with_field(node: Node, path: Loc, name: str, value: Scalar) -> Node:
    """The tree with a field that is missing; its place has no line, so that no problem is reported of it."""

    def fill(n: Node) -> Node:
        fields = n.value if isinstance(n.value, dict) else {}
        return replace(n, value={**fields, name: Node(value, Place(n.place.file))})

    return changed(node, path, fill)
