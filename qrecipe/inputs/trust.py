"""Checks of a base folder from a stranger: from names, sizes and small JSON files before anything is opened.

Refuses whatever could run code when it is read, links that lead out of the folder, and numbers in a config that would
take more memory or time than any model of this family. Never imports torch, never reads weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qrecipe.builtin import mini
from qrecipe.files import MAX_DOCUMENT, read_json
from qrecipe.source.bounds import inside

UNSAFE = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".h5", ".msgpack"}
"""Endings of weights that may run code when they are read, or that are never read."""
MAX_SMALL = 4 << 20
"""Bytes of a config."""
NO_CONFIG = {"vocab.json", "tokenizer.json", "bundle.json", "verdicts.json", mini.MANIFEST}
"""JSON that describes no model: vocabularies, and what this program adds to a folder."""
MAX_NUMBER = 1 << 24
"""Of any whole number in a config: widths, ids, lengths, rates."""
MAX_COUNT = 1024
"""Of a number that counts modules: layers, heads, codebooks, filters."""
MAX_LIST = 4096
_COUNTS = re.compile(r"(^|_)(n|num|depth|layers|groups|blocks)(_|$)|_(layers|groups|heads|blocks)$")
_LIMITS = {"model_max_length"}
"""Of a tokenizer: where transformers knows none it writes 10^30, and nothing is allocated by it."""
_CODE = ("auto_map", "custom_pipelines", "quantization_config", "trust_remote_code")
"""Keys that make transformers import code from the folder or from other packages."""


def unsafe_weights(folder: Path) -> str | None:
    """The first file of a folder whose weights are in a form that is not read, or None."""
    return next((p.name for p in sorted(folder.iterdir()) if p.suffix in UNSAFE), None)


def folder_problem(folder: Path) -> str | None:
    """Why a base folder is not opened, in a sentence, or None."""
    for file in sorted([*folder.iterdir(), *(folder / "speech_tokenizer").glob("*")]):
        name = str(file.relative_to(folder))
        if file.is_symlink() and not inside(file, *_homes(folder)):
            return f"{name} is a link that leads out of the folder"
        if file.suffix in {".json", ".txt"} and file.stat().st_size > MAX_DOCUMENT:
            return f"{name} has {file.stat().st_size:,} bytes; at most {MAX_DOCUMENT:,} are read"
        if file.suffix == ".json" and file.name not in NO_CONFIG and not file.name.endswith(".index.json"):
            why = _config_problem(file)
            if why is not None:
                return f"{name}: {why}"
        if file.suffix == ".py":
            return f"{name}: code; a base is data"
    return None


def _homes(folder: Path) -> list[Path]:
    """Where a folder's files may lie: in it, or among the blobs of the hub's cache that it is a snapshot of."""
    return [folder, folder.parent.parent / "blobs"] if folder.parent.name == "snapshots" else [folder]


def _config_problem(file: Path) -> str | None:
    try:
        value = read_json(file, MAX_SMALL)
    except (OSError, ValueError) as e:
        return f"cannot be read: {e}"
    if not isinstance(value, dict):
        return "not a table"
    return next(_wrong(value, ""), None)


def _wrong(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, entry in value.items():
            if key in _CODE:
                yield f"`{key}` would run code that is not part of qwen_tts or transformers"
            yield from _wrong(entry, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        if len(value) > MAX_LIST:
            yield f"`{path}` has {len(value):,} entries"
        for entry in value:
            yield from _wrong(entry, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and path not in _LIMITS:
        most = MAX_COUNT if _COUNTS.search(path.rpartition(".")[2]) and not path.endswith("_id") else MAX_NUMBER
        if not -MAX_NUMBER <= value <= most:
            yield f"`{path}` is {value}, and at most {most:,} makes sense"
