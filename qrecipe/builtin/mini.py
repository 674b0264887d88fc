"""The embedded base ``builtin:mini``: the architecture of Qwen3-TTS Base, shrunk to 28 MB.

It exists so that a recipe can be planned, trained, evaluated and bundled on a laptop, in tests and without a
network. Its weights are pseudo-random, drawn per tensor from a seed: it never speaks, it only behaves like a
base in every shape, id and layout. Building it needs numpy, torch and safetensors, and never the stock classes.

Two properties of a trained base that plain random weights lack are built in:

- Channel 0 of the talker's residual stream carries a constant (a bias of `text_projection`) past the layers,
  and column 0 of `codec_head` reads it: ids that no codebook has are never sampled, and the end comes after a few seconds.
- Means and scales in ``mini/calibration.json`` (measured by tools/mini_base/calibrate.py) centre the codebooks
  and the speaker vector on what the random encoders produce, so that codes and speakers vary with the audio.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from functools import cache as memoize
from importlib.resources import files
from pathlib import Path
from typing import Any

NAME = "builtin:mini"

SEED = "qrecipe builtin:mini"

COPIED = (
    "config.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "speech_tokenizer/config.json",
    "speech_tokenizer/configuration.json",
    "speech_tokenizer/preprocessor_config.json",
    "tokenizer_config.json",
    "vocab.json",
)
"""Package data that a base folder holds unchanged."""

WEIGHTS = ("model.safetensors", "speech_tokenizer/model.safetensors")
MANIFEST = "builtin.json"
"""Sizes of all files of a finished folder; written last."""


def build(folder: Path) -> None:
    """Write the whole base into a folder: the same bytes on every machine.

    Args:
        folder: made if missing; files of the same names are overwritten.
    """
    (folder / "speech_tokenizer").mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        (folder / name).write_bytes(_data(name))
    from qrecipe.builtin import mini_weights

    mini_weights.save_model(folder / WEIGHTS[0], _catalogue("plan", "catalogues/mini.json"))
    mini_weights.save_speech_tokenizer(folder / WEIGHTS[1], _catalogue("builtin", "mini/speech_tokenizer.tensors.json"))


def ensure(cache: Path) -> Path:
    """The base's folder, built on first use.

    Safe against other processes doing the same: each builds beside the target and renames, the first one wins,
    and a folder that is there under its final name is complete unless someone damaged it, in which case it is
    built again.

    Args:
        cache: the project's cache folder; the base lies in its ``bases`` folder.

    Returns:
        ``cache/bases/mini-<digest>``.
    """
    bases = cache / "bases"
    target = bases / f"mini-{digest()}"
    if _complete(target):
        return target
    bases.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=bases))
    try:
        new = work / "base"
        build(new)
        sizes = {name: (new / name).stat().st_size for name in sorted((*COPIED, *WEIGHTS))}
        (new / MANIFEST).write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")
        for path in (*(new / name for name in (*sizes, MANIFEST)), new / "speech_tokenizer", new):
            _sync(path)
        while not _complete(target):
            try:
                os.rename(new, target)
            except OSError:
                if not target.exists():
                    raise
                if not _complete(target):  # damaged: put aside, then try again
                    os.rename(target, work / f"damaged-{len(list(work.iterdir()))}")
        _sync(bases)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


@memoize
def digest() -> str:
    """12 hex digits over everything that the base is made of: package data, catalogue, and the code that draws weights."""
    parts = hashlib.sha256(f"{SEED}\n".encode())
    for name in (*COPIED, "calibration.json", "speech_tokenizer.tensors.json"):
        parts.update(f"{name} {hashlib.sha256(_data(name)).hexdigest()}\n".encode())
    parts.update((files("qrecipe.builtin") / "mini_weights.py").read_bytes())
    parts.update(json.dumps(_catalogue("plan", "catalogues/mini.json")).encode())
    return parts.hexdigest()[:12]


def _data(name: str) -> bytes:
    return (files("qrecipe.builtin") / "mini" / name).read_bytes()


def _catalogue(package: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((files(f"qrecipe.{package}") / name).read_text(encoding="utf-8"))
    return {"dtype": content["dtype"], "tensors": content["tensors"]}


def _complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _sync(path: Path) -> None:
    """Have the file or folder on disk before anything that follows."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
