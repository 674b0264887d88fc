"""Which folders a recipe may read other recipes from: its own repository, and what a person allows."""

from __future__ import annotations

import os
from pathlib import Path

ALLOW = "QRECIPE_ALLOW"
"""Environment variable: folders that recipes may read beside their own, separated as in PATH. `--allow` adds to it."""


def repository(file: Path) -> Path:
    """The folder that a recipe's relative paths stay in.

    The nearest folder above it that holds `.git`; without a repository the working folder if the recipe lies in it,
    else the recipe's own folder.
    """
    folder = file.resolve().parent
    for parent in (folder, *folder.parents):
        if (parent / ".git").exists():
            return parent
    here = Path.cwd()
    return here if is_within(folder, here) else folder


def allowed_roots(file: Path) -> list[Path]:
    """Folders whose files a recipe may extend, the repository first."""
    named = os.environ.get(ALLOW, "").split(os.pathsep)
    return [repository(file), *(Path(n).expanduser().resolve() for n in named if n)]


def is_within(path: Path, folder: Path) -> bool:
    """Whether a resolved path is a folder or lies in it."""
    return path == folder or folder in path.parents
