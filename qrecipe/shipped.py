"""Files that a checkout keeps outside the package and that an installation carries in it: templates, the page of problems."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_INSTALLED = _PACKAGE / "shipped"
_CHECKOUT = _PACKAGE.parent


def templates() -> dict[str, Path]:
    """Templates that recipes extend, by name."""
    folder = _INSTALLED / "templates"
    if not folder.is_dir():
        folder = _CHECKOUT / "recipes" / "templates"
    return {p.stem: p for p in sorted(folder.glob("*.yaml"))}


def problems_page() -> Path:
    """docs/problems.md."""
    installed = _INSTALLED / "docs" / "problems.md"
    return installed if installed.is_file() else _CHECKOUT / "docs" / "problems.md"
