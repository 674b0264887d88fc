"""Reading and verifying bundles: the manifest follows its schema, and every file is what it says."""

from __future__ import annotations

import os
from pathlib import Path

from qrecipe.errors import BundleError, Place, Problem, Problems, Severity
from qrecipe.files import is_file, read_json
from qrecipe.hashes import sha256
from qrecipe.inputs.documents.bundle import BundleManifest
from qrecipe.inputs.documents.check import check

MANIFEST = "bundle.json"
LOCK = "recipe.lock"
CARD = "README.md"
VERDICTS = "verdicts.json"
HUB_FILE = ".gitattributes"
HUB_FOLDER = ".cache/huggingface/"
"""Written beside a model by the Hugging Face hub: the first in every repository, the second by a download."""


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
    check("bundle", value, place).raise_any(BundleError)
    return BundleManifest.model_validate(value)


def verify(folder: Path) -> Problems:
    """Every changed, missing or extra file of a bundle. Raises `BundleError` if it has no readable manifest.

    The hub's own files may stand beside the bundle's. A model card that somebody edited, to add a licence for
    example, is a warning; everything else is an error.
    """
    manifest = read_manifest(folder)
    problems = Problems()

    def wrong(message: str, file: Path, severity: Severity = "error") -> None:
        problems.append(Problem("QR060", message, Place(str(file)), None, severity))

    for name, expected in sorted(manifest.files.items()):
        file = folder / name
        if not _plain(name):
            wrong(f"the manifest names a file outside the bundle: {name}", folder / MANIFEST)
        elif os.path.realpath(file) != os.path.join(os.path.realpath(folder), *name.split("/")):
            wrong(f"{name} is a link or lies behind one; a bundle holds its files", file)
        elif not is_file(file):
            wrong(f"{name} is missing", file)
        elif sha256(file) == expected:
            continue
        elif name == CARD:
            wrong("the model card was changed; the model is as it was written", file, "warning")
        else:
            wrong(f"{name} was changed", file)
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        belongs = name == MANIFEST or name in manifest.files or (not file.is_symlink() and _from_the_hub(name))
        if (file.is_symlink() or not file.is_dir()) and not belongs:
            wrong(f"{name} does not belong to the bundle", file)
    locks = [folder / "packs" / p.name / LOCK for p in manifest.packs] or [folder / LOCK]
    return problems if problems.errors else Problems([*problems, *(p for lock in locks for p in _lock_problems(lock))])


def _from_the_hub(name: str) -> bool:
    """Whether a file is one that the hub's own programs put beside a model. Nothing that loads a model reads it."""
    return name == HUB_FILE or name.startswith(HUB_FOLDER)


def _plain(name: str) -> bool:
    """Whether a manifest's name is a path below the bundle, spelled in the one way in which `build` spells it."""
    return not any(p in ("", ".", "..") for p in name.split("/")) and not any(c in name for c in "\\\0")


def _lock_problems(path: Path) -> Problems:
    """Problems in the form of the lock that a bundle carries."""
    place = Place(str(path))
    try:
        value = read_json(path)
    except (OSError, ValueError) as e:
        return Problems([Problem("QR060", f"cannot be read: {e}", place)])
    return check("lock", value, place)
