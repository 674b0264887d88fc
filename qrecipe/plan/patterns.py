"""Globs over parameter names: which tensors a recipe's `match` and `except` select.

A pattern's dot-separated segments are matched against the first segments of a name, so that a module stands for
everything in it. Within a segment `*` and `?` stand for characters, and `24-27` for a range of numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_RANGE = re.compile(r"(\d+)-(\d+)\Z")


@lru_cache(maxsize=4096)
def _segment(pattern: str) -> re.Pattern[str]:
    """A segment as a regular expression that takes time in proportion to its length: no `*` is ever tried again."""
    first, *others = (re.escape(part).replace(r"\?", "[^.]") for part in re.split(r"\*+", pattern))
    if not others:
        return re.compile(first + r"\Z")
    *between, last = others
    return re.compile(first + "".join(f"(?>[^.]*?{part})" for part in between) + f"[^.]*{last}" + r"\Z")


def _matches_segment(pattern: str, segment: str) -> bool:
    span = _RANGE.match(pattern)
    if span is not None:
        return segment.isdigit() and int(span[1]) <= int(segment) <= int(span[2])
    return _segment(pattern).match(segment) is not None


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern selects a parameter.

    >>> matches("talker.code_predictor", "talker.code_predictor.lm_head.0.weight")
    True
    >>> matches("talker.model.layers.24-27", "talker.model.layers.3.mlp.up_proj.weight")
    False
    """
    wanted, segments = pattern.split("."), name.split(".")
    return len(wanted) <= len(segments) and _all_match(wanted, segments)


def _all_match(wanted: list[str], segments: list[str]) -> bool:
    return all(_matches_segment(p, s) for p, s in zip(wanted, segments, strict=False))


def select(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern selects, in the given order."""
    plain = _plain_start(pattern)
    if plain == pattern:
        inside = plain + "."
        return [n for n in names if n == plain or n.startswith(inside)]
    return [n for n in names if n.startswith(plain) and matches(pattern, n)]


def _plain_start(pattern: str) -> str:
    """The segments before the first that is no plain name: every name that matches starts with them."""
    plain = []
    for segment in pattern.split("."):
        if "*" in segment or "?" in segment or _RANGE.match(segment):
            break
        plain.append(segment)
    return ".".join(plain)


def spellings(names: Iterable[str]) -> set[str]:
    """Every module and parameter name, for suggestions: all dotted prefixes."""
    prefixes: set[str] = set()
    for name in names:
        parts = name.split(".")
        prefixes.update(".".join(parts[: i + 1]) for i in range(len(parts)))
    return prefixes


def near(pattern: str, names: Iterable[str]) -> str | None:
    """The module or parameter name that a pattern that matches nothing most likely meant.

    Repairs from the left: the first segment that leads nowhere is replaced by its nearest sibling, or a skipped
    level is filled in (`talker.layers.0-3` -> `talker.model.layers.0-3`).
    """
    from difflib import get_close_matches

    known = spellings(names)
    parts = pattern.split(".")
    good = ""
    for i, part in enumerate(parts):
        candidate = f"{good}.{part}" if good else part
        if any(matches(candidate, n) for n in known):
            good = candidate
            continue
        children = {k.split(".")[i] for k in known if len(k.split(".")) > i and (not good or matches(good, k))}
        rest = parts[i:]
        below = [k for k in sorted(known) if not good or matches(good, k)]
        filled = [k for k in below if len(k.split(".")) >= len(rest) and _all_match(rest, k.split(".")[-len(rest) :])]
        if filled:
            shortest = min(filled, key=lambda k: (len(k.split(".")), len(k), k))
            return ".".join([*shortest.split(".")[: -len(rest)], *rest])
        close = get_close_matches(part, sorted(children), n=1, cutoff=0.6)
        if not close:
            return good or None
        good = f"{good}.{close[0]}" if good else close[0]
    return good
