"""Differences of two values in plain data, in words: for the reasons of a plan, for `diff` and for the lock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

_MISSING: Final = object()


class Changed(NamedTuple):
    """One leaf that differs."""

    path: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}: {self.before} -> {self.after}"


def changes(before: Any, after: Any, path: str = "") -> Iterator[Changed]:
    """Leaves that differ, in the order of the fields. Enters dicts, and lists of dicts of equal length; other lists are leaves."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(k for k in after if k not in before)]:
            yield from changes(before.get(key, _MISSING), after.get(key, _MISSING), f"{path}.{key}" if path else str(key))
    elif _are_records(before, after):
        for i, (a, b) in enumerate(zip(before, after, strict=True)):
            yield from changes(a, b, f"{path}.{i}")
    elif before != after:
        yield Changed(path, in_words(before), in_words(after))


def _are_records(before: Any, after: Any) -> bool:
    both_lists = isinstance(before, list) and isinstance(after, list)
    return both_lists and len(before) == len(after) and all(isinstance(v, dict) for v in (*before, *after))


def in_words(value: Any) -> str:
    """A value as a person writes it in a recipe."""
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {in_words(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(in_words, value)) + "]"
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    return "nothing" if value is _MISSING else str(value)
