"""Sentences of the languages that the published bases know, one a line, for recipes without recordings of them.

The untouched base speaks them, so that a language is rehearsed and judged. They were written for qrecipe and are in
the public domain (CC0 1.0).
"""

from __future__ import annotations

from importlib import resources

KEPT = 35
"""Sentences at the end of a list that judge and are never learned: what a gate needs at least."""


def languages() -> list[str]:
    """Names of the languages, sorted."""
    return sorted(f.name.removesuffix(".txt") for f in resources.files(__name__).iterdir() if f.name.endswith(".txt"))


def sentences(language: str) -> list[str]:
    """All sentences of a language."""
    return (resources.files(__name__) / f"{language}.txt").read_text(encoding="utf-8").splitlines()


def replay(language: str) -> list[str]:
    """Sentences to learn from."""
    return sentences(language)[:-KEPT]


def keep(language: str) -> list[str]:
    """Sentences to judge by."""
    return sentences(language)[-KEPT:]
