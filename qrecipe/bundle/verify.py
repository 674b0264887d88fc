"""Reading and verifying bundles: the manifest follows its schema, and every file is what it says."""

from __future__ import annotations

import json
from pathlib import Path

from qrecipe.errors import BundleError, Place, Problem
from qrecipe.files import sha256
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
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(Problem("QR060", f"not a bundle: it has no {MANIFEST}", Place(str(folder)))) from None
    except (OSError, ValueError, RecursionError) as e:
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
        if Path(name).is_absolute() or ".." in Path(name).parts:
            problems.append(Problem("QR060", f"the manifest names a file outside the bundle: {name}", Place(str(folder / MANIFEST))))
        elif not file.is_file():
            problems.append(Problem("QR060", f"{name} is missing", place))
        elif file.is_symlink():
            problems.append(Problem("QR060", f"{name} is a link; a bundle holds its files", place))
        elif sha256(file) != expected:
            problems.append(Problem("QR060", f"{name} was changed", place))
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if (file.is_file() or file.is_symlink()) and name != MANIFEST and name not in manifest.files:
            problems.append(Problem("QR060", f"{name} does not belong to the bundle", Place(str(file))))
    return problems or _lock_problems(folder / LOCK)


def _lock_problems(path: Path) -> list[Problem]:
    """What is wrong with the form of the lock that a bundle carries."""
    place = Place(str(path))
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        return [Problem("QR060", f"cannot be read: {e}", place)]
    return check("lock", value, place)
