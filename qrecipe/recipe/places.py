"""Finding the node that a problem is about, and the problem of its value or its key."""

from __future__ import annotations

from qrecipe.errors import Problem
from qrecipe.recipe.reader import Node


def at(node: Node, *path: str | int) -> Node:
    """The node along a path, or the deepest that exists."""
    for key in path:
        child = node.child(key)
        if child is None:
            break
        node = child
    return node


def of_value(code: str, message: str, n: Node, help_: str | None = None, **more: str) -> Problem:
    """A problem of a node's value; `more` is `severity` or `note`."""
    return Problem(code, message, n.place, help_, length=n.length, **more)  # type: ignore[arg-type]  # severity, note


def of_key(code: str, message: str, n: Node, help_: str | None = None) -> Problem:
    """A problem of a node's key; of its value where it has none."""
    return Problem(code, message, n.key_place or n.place, help_, length=n.key_length)
