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

import contextlib
import hashlib
import json
import os
import shutil
from functools import cache as memoize
from importlib.resources import files
from pathlib import Path
from typing import Any

from qrecipe.files import new_folder

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

    Safe against other processes doing the same: each builds beside the target and renames, the first one wins. A folder
    that is there under its final name is complete unless someone damaged it, in which case it is put aside and built again.

    Args:
        cache: the project's cache folder; the base lies in its ``bases`` folder.

    Returns:
        ``cache/bases/mini-<digest>``.
    """
    target = cache / "bases" / f"mini-{digest()}"
    while not _complete(target):
        if target.exists():
            with contextlib.suppress(OSError):  # another process may be faster
                damaged = target.with_name(f".{target.name}.damaged-{os.getpid()}")
                os.rename(target, damaged)
                shutil.rmtree(damaged, ignore_errors=True)
        with new_folder(target) as new:
            build(new)
            sizes = {name: (new / name).stat().st_size for name in sorted((*COPIED, *WEIGHTS))}
            (new / MANIFEST).write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")
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
