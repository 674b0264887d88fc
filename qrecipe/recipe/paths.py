"""Which folders a recipe may read: its own repository, and what a person allows. Templates, data and bases alike."""

from __future__ import annotations

import os
from pathlib import Path

ALLOW = "QRECIPE_ALLOW"
"""Environment variable: folders that recipes may read beside their own, separated as in PATH. `--allow` adds to it."""


def repository(file: Path) -> Path:
    """The folder that a recipe's relative paths stay in.

    The nearest folder above it that holds `.git`; without a repository the working folder if the recipe lies in it,
    else the recipe's own folder. A home folder or the root of the file system is neither, even with `.git`: a recipe that
    was downloaded would read everything.
    """
    folder = file.resolve().parent
    for parent in (folder, *folder.parents):
        if (parent / ".git").exists() and not _too_wide(parent):
            return parent
    here = Path.cwd()
    return here if is_within(folder, here) and not _too_wide(here) else folder


def _too_wide(folder: Path) -> bool:
    return folder == folder.parent or folder == Path(os.path.expanduser("~")).resolve()


def allowed_roots(file: Path) -> list[Path]:
    """Folders whose files a recipe may read, the repository first."""
    named = os.environ.get(ALLOW, "").split(os.pathsep)
    return [repository(file), *(Path(n).expanduser().resolve() for n in named if n)]


def is_within(path: Path, folder: Path) -> bool:
    """Whether a resolved path is a folder or lies in it."""
    return path == folder or folder in path.parents
