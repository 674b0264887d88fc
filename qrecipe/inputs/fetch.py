"""Getting a base onto this machine: where it is stored already, or a download. Never imports torch."""

from __future__ import annotations

from pathlib import Path

from qrecipe.builtin import mini
from qrecipe.errors import BaseModelError, Place, Problem
from qrecipe.files import is_file
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import BUILTIN, LocalBase, describe_folder, folder_identity, require_builtin
from qrecipe.inputs.hub import download, how_to_get, offline
from qrecipe.inputs.snapshots import absent_files, cached_snapshot, names_folder, stored
from qrecipe.recipe.base import Base


def snapshot(base: Base, root: Path, place: Place) -> Path:
    """The folder of a base, built or downloaded if it is not there. Raises `BaseModelError`."""
    try:
        return here(base, root, place)
    except BaseModelError:
        if base.model.startswith(BUILTIN) or names_folder(base, root):
            raise
        cached = cached_snapshot(base)
        if cached is not None and offline():
            raise  # what is missing says more than that nothing may be downloaded
    if cached is not None:
        _remove_cut(cached)
    return download(base, place)


def _remove_cut(snapshot: Path) -> None:
    """Removes files that end too early: the hub's client takes them for whole ones and would not fetch them again."""
    for name in absent_files(snapshot):
        if is_file(snapshot / name):
            (snapshot / name).resolve().unlink()
            (snapshot / name).unlink(missing_ok=True)


def here(base: Base, root: Path, place: Place) -> Path:
    """The folder of a base on this machine: an embedded one comes with the package, nothing is downloaded. Raises `BaseModelError`."""
    if base.model.startswith(BUILTIN):
        require_builtin(base, place)
        return mini.folder()
    folder, why = stored(base, root)
    if folder is None:
        raise BaseModelError(Problem("QR050", why, place, None if names_folder(base, root) else how_to_get(base)))
    return folder


def resolve(base: Base, root: Path, place: Place, hashes: FileHashes) -> LocalBase:
    """Like `locate`, but the base is on this machine afterwards and its content is known. Raises `BaseModelError`."""
    folder = snapshot(base, root, place)
    described = describe_folder(folder, base, place, hashes)
    if base.model.startswith(BUILTIN):
        local = described.local(base.model, f"{mini.NAME}@{mini.digest()}")
    else:
        local = described.local(described.model, folder_identity(folder, hashes))
    hashes.save()
    return local
