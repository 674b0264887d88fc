"""Files that a checkout keeps outside the package and that an installation carries in it: templates, the page of problems."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_INSTALLED = _PACKAGE / "shipped"
_CHECKOUT = _PACKAGE.parent


GATES = "gates"
"""Name of the template that brings gates instead of stages."""


def templates() -> dict[str, Path]:
    """Templates of stages that recipes extend, by name."""
    return {p.stem: p for p in sorted(_templates().glob("*.yaml")) if p.stem != GATES}


def gates() -> Path:
    """The template of what a bundle in a new language should pass."""
    return _templates() / f"{GATES}.yaml"


def _templates() -> Path:
    folder = _INSTALLED / "templates"
    return folder if folder.is_dir() else _CHECKOUT / "recipes" / "templates"


def problems_page() -> Path:
    """docs/problems.md."""
    installed = _INSTALLED / "docs" / "problems.md"
    return installed if installed.is_file() else _CHECKOUT / "docs" / "problems.md"
