"""Getting a base onto this machine: where it is stored already, or a download. Never imports torch."""

from __future__ import annotations

from pathlib import Path

from qrecipe.builtin import mini
from qrecipe.errors import BaseModelError, Place, Problem
from qrecipe.files import FileHashes
from qrecipe.inputs.bases import (
    BUILTIN,
    LocalBase,
    cached_snapshot,
    describe_folder,
    folder_identity,
    folder_of,
    names_folder,
)
from qrecipe.recipe.base import Base

HUB_FILES = ["*.json", "*.txt", "*.safetensors", "speech_tokenizer/*.json", "speech_tokenizer/*.safetensors", "LICENSE*"]


def snapshot(base: Base, root: Path, place: Place) -> Path:
    """The folder of a base, built or downloaded if it is not there. Raises `BaseModelError`."""
    try:
        return here(base, root, place)
    except BaseModelError:
        if base.model.startswith(BUILTIN) or names_folder(base, root):
            raise
    return _download(base, place)


def here(base: Base, root: Path, place: Place) -> Path:
    """The folder of a base on this machine: an embedded one comes with the package, nothing is downloaded. Raises `BaseModelError`."""
    if base.model.startswith(BUILTIN):
        return mini.folder()
    if names_folder(base, root):
        folder = folder_of(base, root)
        if not folder.is_dir():
            raise BaseModelError(Problem("QR050", f"the folder {base.model} is not there", place))
        return folder
    cached = cached_snapshot(base)
    if cached is None or not (cached / "speech_tokenizer" / "config.json").exists():
        raise BaseModelError(Problem("QR050", f"{base.model} is not in the hub cache of this machine", place, _how_to_get(base)))
    return cached


def _how_to_get(base: Base) -> str:
    revision = f" --revision {base.revision}" if base.revision else ""
    return f"where there is a network: `huggingface-cli download {base.model}{revision}`; or give its folder, as in `model: ./folder`"


def _download(base: Base, place: Place) -> Path:
    from huggingface_hub import constants, snapshot_download

    def absent(why: str) -> BaseModelError:
        return BaseModelError(Problem("QR050", why, place, _how_to_get(base)))

    if constants.HF_HUB_OFFLINE:
        raise absent(f"{base.model} is not in the hub cache, and HF_HUB_OFFLINE forbids a download")
    try:
        return Path(snapshot_download(base.model, revision=base.revision, allow_patterns=HUB_FILES))
    except Exception as e:  # the hub client raises many kinds; people need one sentence
        reason = str(e).split(". ")[0].split("\n")[0] or type(e).__name__
        raise absent(f"cannot get {base.model} from the hub: {reason}") from None


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
