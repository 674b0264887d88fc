"""Folders that a recipe may read: its own repository, and those that the person who runs it allows.

A recipe may come from a stranger. Links are followed before a path is judged.
"""

from __future__ import annotations

import os
from pathlib import Path

from qrecipe.errors import Place, Problem
from qrecipe.files import real_path
from qrecipe.source import paths
from qrecipe.source.reader import Node

ALLOW = "QRECIPE_ALLOW"
"""Environment variable: folders that recipes may read beside their own, separated as in PATH. `--allow` adds to it."""
TYPED = "--set"
"""Begins the file of a place in an argument: a path that a person types need not be allowed as well."""


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
    return here if folder.is_relative_to(here) and not _too_wide(here) else folder


def _too_wide(folder: Path) -> bool:
    return folder == folder.parent or folder == Path(os.path.expanduser("~")).resolve()


def allow(folder: Path) -> None:
    """Allows another folder in this process."""
    before = os.environ.get(ALLOW)
    os.environ[ALLOW] = os.pathsep.join([*([before] if before else []), str(folder.absolute())])


def allowed() -> list[str]:
    """Folders that the person who runs a recipe allows, links followed."""
    return [os.path.realpath(os.path.expanduser(f)) for f in os.environ.get(ALLOW, "").split(os.pathsep) if f]


def followed(*roots: Path) -> tuple[str, ...]:
    """The folders and the allowed ones as `within` wants them, for whoever asks about many files."""
    return tuple(root.rstrip(os.sep) + os.sep for root in (*map(real_path, roots), *allowed()))


def within(path: Path | str, roots: tuple[str, ...]) -> bool:
    """Whether a path lies in one of the folders that `followed` gives, links followed."""
    return (real_path(path) + os.sep).startswith(roots)


def inside(path: Path, *roots: Path) -> bool:
    """Whether a path lies in one of the folders or in an allowed one, links followed."""
    return within(path, followed(*roots))


def problem(path: Path, text: str, node: Node, root: Path) -> Problem | None:
    """The problem of a path of a recipe that leads out of its repository `root`, or None."""
    if node.place.file.startswith(TYPED) or inside(path, root):
        return None
    help_ = f"put it into the recipe's repository, or allow it: `--allow {os.path.dirname(path) or path}`"
    return node.problem("QR048", f"{text} leads out of the recipe's repository", help_)


def row_problem(path: Path, text: str, place: Place, folder: Path) -> Problem:
    """The problem of a path of a manifest's row that leads out of the manifest's `folder`."""
    here = paths.within(str(path), folder)
    help_ = f"write `{here}`" if here else f"allow it: `--allow {os.path.dirname(path)}`"
    return Problem("QR048", f"{text} leads out of the manifest's folder", place, help_)
