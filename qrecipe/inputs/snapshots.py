"""Where a base is stored on this machine: its folder, or a snapshot in the hub's cache, and whether a download broke off."""

from __future__ import annotations

import os
from pathlib import Path

from qrecipe.files import is_file
from qrecipe.inputs.trust import unsafe_weights
from qrecipe.inputs.weight_files import MALFORMED, is_cut, weight_files
from qrecipe.recipe.base import Base

CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json")
REQUIRED_FILES = (*CONFIGS, "vocab.json", "merges.txt", "speech_tokenizer/config.json")


def stored(base: Base, root: Path) -> tuple[Path | None, str]:
    """The folder of a base that is no embedded one; None and a sentence if it is not here, or not whole."""
    if names_folder(base, root):
        folder = folder_of(base, root)
        return (folder, "") if os.path.isdir(folder) else (None, f"the folder {base.model} is not there")
    snapshot = cached_snapshot(base)
    if snapshot is None:
        return None, f"{base.model} is not in the hub cache of this machine"
    absent = absent_files(snapshot)
    if not absent:
        return snapshot, ""
    files = "1 file is" if len(absent) == 1 else f"{len(absent)} files are"
    return None, f"{base.model} is incomplete in the hub cache of this machine: {files} missing, such as {absent[-1]}"


def names_folder(base: Base, root: Path) -> bool:
    """Whether a recipe names a folder rather than a hub id: it starts like a path, or there is such a folder."""
    return base.model.startswith((".", "/", "~")) or os.path.isdir(root / base.model)


def folder_of(base: Base, root: Path) -> Path:
    """The folder that a recipe names, relative to the recipe's own."""
    return (root / os.path.expanduser(base.model)).resolve()


def cached_snapshot(base: Base) -> Path | None:
    """The snapshot folder of a hub id if the hub cache of this machine holds it.

    Reads the cache's documented layout (`models--ORG--NAME/refs`, `/snapshots`): the hub client's own function imports
    requests and asyncio, which would double the time of a plan.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = Path(HF_HUB_CACHE) / ("models--" + base.model.replace("/", "--"))
    revision = base.revision or "main"
    try:
        named = repository / "refs" / revision
        commit = named.read_text(encoding="utf-8").strip() if is_file(named) else revision
        snapshot = repository / "snapshots" / commit
        return snapshot if (snapshot / "config.json").exists() else None
    except (OSError, ValueError):
        return None


def absent_files(folder: Path) -> list[str]:
    """Files that a download which broke off has not brought, relative to the snapshot's folder: missing, dangling or cut."""
    absent = [f for f in REQUIRED_FILES if not is_file(folder / f)]
    for part in (folder, folder / "speech_tokenizer"):
        try:
            weights = weight_files(part)
        except MALFORMED:
            continue  # said of the folder itself
        if not weights and not (part.is_dir() and unsafe_weights(part)):
            weights = [part / "model.safetensors"]
        absent += [str(f.relative_to(folder)) for f in weights if not is_file(f) or is_cut(f)]
    return absent
