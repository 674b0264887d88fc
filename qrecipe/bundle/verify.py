"""Reading and verifying bundles: the manifest follows its schema, and every file is what it says."""

from __future__ import annotations

import os
from pathlib import Path

from qrecipe.errors import BundleError, Place, Problem
from qrecipe.files import is_file, read_json, sha256
from qrecipe.plan.documents import BundleManifest, check

MANIFEST = "bundle.json"
LOCK = "recipe.lock"


def read_manifest(folder: Path) -> BundleManifest:
    """The manifest of a bundle. Raises `BundleError`."""
    path = folder / MANIFEST
    place = Place(str(path))
    if not folder.is_dir():
        raise BundleError(Problem("QR060", "there is no such folder", Place(str(folder))))
    try:
        value = read_json(path)
    except FileNotFoundError:
        raise BundleError(Problem("QR060", f"not a bundle: it has no {MANIFEST}", Place(str(folder)))) from None
    except (OSError, ValueError) as e:
        raise BundleError(Problem("QR060", f"cannot be read: {e}", place)) from None
    problems = check("bundle", value, place)
    if problems:
        raise BundleError(problems)
    return BundleManifest.model_validate(value)


def verify(folder: Path) -> list[Problem]:
    """Every changed, missing or extra file of a bundle. Raises `BundleError` if it has no readable manifest."""
    manifest = read_manifest(folder)
    problems = []
    for name, expected in sorted(manifest.files.items()):
        file = folder / name
        place = Place(str(file))
        if not _plain(name):
            problems.append(Problem("QR060", f"the manifest names a file outside the bundle: {name}", Place(str(folder / MANIFEST))))
        elif os.path.realpath(file) != os.path.join(os.path.realpath(folder), *name.split("/")):
            problems.append(Problem("QR060", f"{name} is a link or lies behind one; a bundle holds its files", place))
        elif not is_file(file):
            problems.append(Problem("QR060", f"{name} is missing", place))
        elif sha256(file) != expected:
            problems.append(Problem("QR060", f"{name} was changed", place))
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if (file.is_symlink() or not file.is_dir()) and name != MANIFEST and name not in manifest.files:
            problems.append(Problem("QR060", f"{name} does not belong to the bundle", Place(str(file))))
    return problems or _lock_problems(folder / LOCK)


def _plain(name: str) -> bool:
    """Whether a manifest's name is a path below the bundle, spelled in the one way in which `build` spells it."""
    return not any(p in ("", ".", "..") for p in name.split("/")) and not any(c in name for c in "\\\0")


def _lock_problems(path: Path) -> list[Problem]:
    """What is wrong with the form of the lock that a bundle carries."""
    place = Place(str(path))
    try:
        value = read_json(path)
    except (OSError, ValueError) as e:
        return [Problem("QR060", f"cannot be read: {e}", place)]
    return check("lock", value, place)
