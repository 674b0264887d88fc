"""Writing weights and config: the base's own files with only the trained bytes replaced.

A weights file is copied and the trained tensors or rows are overwritten in place, so that everything else is the
base's byte for byte, whatever its sharding. `save_pretrained` is never used: it writes config keys that the stock
classes reject.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from qrecipe.errors import EngineError, Place
from qrecipe.files import copy_file
from qrecipe.inputs.bases import LocalBase, base_files
from qrecipe.inputs.weight_files import read_header, weight_files
from qrecipe.model.weights import Delta

SAFE_TRANSFORMERS = "4.57.2"
"""A config of 4.57.3 makes transformers swap the tokenizer's pattern when stock asks for `fix_mistral_regex`."""

_TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def write_model(base: LocalBase, folder: Path, delta: Delta, languages: dict[str, int]) -> None:
    """Writes a Base folder that stock qwen_tts loads: the base's files, the delta's weights, the languages' rows."""
    for file in base_files(base.folder):
        copy_file(file, folder / file.relative_to(base.folder))
    _write_weights(base, folder, delta)
    _write_config(folder / "config.json", languages)


def holds_weights(base: LocalBase, folder: Path, delta: Delta) -> bool:
    """Whether the weights in a folder that `write_model` made from this base are the delta's, to the byte."""
    for name, patches in _patches(base, delta):
        with open(folder / name, "rb") as f:
            for offset, data in patches:
                f.seek(offset)
                if f.read(len(data)) != data:
                    return False
    return True


def _write_weights(base: LocalBase, folder: Path, delta: Delta) -> None:
    for name, patches in _patches(base, delta):
        with open(folder / name, "r+b") as f:
            for offset, data in patches:
                f.seek(offset)
                f.write(data)


def _patches(base: LocalBase, delta: Delta) -> Iterator[tuple[str, Iterator[tuple[int, bytes]]]]:
    """For each weights file of the base: its name, and where in it which bytes are the delta's."""
    missing = {*delta.whole, *delta.rows}
    for file in weight_files(base.folder):
        header = read_header(file, Place(file.name))
        with open(file, "rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
        yield file.name, _patches_of(delta, header, missing & header.keys(), 8 + length)
        missing -= header.keys()
    if missing:
        raise EngineError(f"trained tensors that the base's files do not hold: {', '.join(sorted(missing))}")


def _patches_of(delta: Delta, header: dict[str, Any], names: set[str], data: int) -> Iterator[tuple[int, bytes]]:
    """Offsets and bytes of some tensors of one file, whose numbers begin at the byte `data`."""
    for name in sorted(names):
        entry = header[name]
        dtype, start = _TORCH[entry["dtype"]], data + entry["data_offsets"][0]
        if name in delta.whole:
            values = delta.whole[name]
            if list(values.shape) != list(entry["shape"]):
                raise EngineError(f"{name}: trained {list(values.shape)}, the file holds {entry['shape']}")
            yield start, _bytes(values, dtype)
        else:
            ids, rows = delta.rows[name]
            width = rows.shape[1] * dtype.itemsize
            for i, row in zip(ids.tolist(), rows, strict=True):
                yield start + i * width, _bytes(row, dtype)


def _bytes(values: torch.Tensor, dtype: torch.dtype) -> bytes:
    return values.to(dtype).contiguous().view(torch.uint8).numpy().tobytes()


def _write_config(path: Path, languages: dict[str, int]) -> None:
    """Patches the pristine JSON: the languages, and a transformers version that keeps the tokenizer's pattern."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["talker_config"].setdefault("codec_language_id", {}).update(languages)
    if _version(config.get("transformers_version")) > _version(SAFE_TRANSFORMERS) or "transformers_version" not in config:
        config["transformers_version"] = SAFE_TRANSFORMERS
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _version(text: object) -> tuple[int, ...]:
    parts = str(text or "0").split(".")
    return tuple(int("".join(c for c in p if c.isdigit()) or 0) for p in parts[:3])
