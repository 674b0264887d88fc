"""Safetensors files of a folder: which they are, and their headers, checked against their size. Never reads weights."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qrecipe.errors import BaseModelError, Place, Problem
from qrecipe.files import read_json

MAX_HEADER = 64 << 20
MAX_DIMENSIONS = 8
MAX_BYTES = 1 << 62
"""Of a file that a header may describe."""
WIDTHS = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of a number by its format."""
MALFORMED = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""Errors of reading a document that is of another form than expected."""


class _Cut(ValueError):
    """A file that ends before its last tensor does."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a folder's weights, in order. Raises `ValueError` for an index that names others."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index)["weight_map"].values()))
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors") or "\0" in name:
                raise ValueError(f"`{name}` is no name of a safetensors file in the folder")
        return [folder / n for n in names]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else []


def read_headers(files: Iterable[Path], place: Place) -> dict[str, dict[str, Any]]:
    """The headers of safetensors files as one. Raises `BaseModelError`."""
    return {name: entry for file in files for name, entry in read_header(file, place).items()}


def header_shapes(files: Iterable[Path], place: Place) -> dict[str, tuple[int, ...]]:
    """Every tensor of safetensors files with its shape. Raises `BaseModelError`."""
    return {name: tuple(entry["shape"]) for name, entry in read_headers(files, place).items()}


def read_header(file: Path, place: Place) -> dict[str, dict[str, Any]]:
    """The header of a safetensors file: name -> {dtype, shape, data_offsets}, checked against the file's size.

    Raises `BaseModelError`.
    """
    try:
        return _header(file)
    except ValueError as e:
        message, *help_ = e.args
        raise BaseModelError(Problem("QR051", f"{file.name}: {message}", place.start, *help_)) from None


def is_cut(file: Path) -> bool:
    """Whether a safetensors file ends before its last tensor does."""
    try:
        _header(file)
    except _Cut:
        return True
    except ValueError:
        return False  # something else, which reading it says
    return False


def _header(file: Path) -> dict[str, dict[str, Any]]:
    """`read_header`. Raises `ValueError` with a sentence, and perhaps a remedy."""
    size = file.stat().st_size
    with open(file, "rb") as f:
        head = f.read(8)
        if len(head) < 8:
            raise _Cut("not a safetensors file")
        (length,) = struct.unpack("<Q", head)
        if length > min(MAX_HEADER, size - 8):
            error = _Cut if length <= MAX_HEADER else ValueError
            raise error("not a safetensors file: its header is longer than the file or than 64 MiB")
        try:
            header = json.loads(f.read(length).decode("utf-8"))
        except (ValueError, RecursionError):
            raise ValueError("the header is not JSON") from None
    if not isinstance(header, dict):
        raise ValueError("the header is not a table of tensors")
    header.pop("__metadata__", None)
    whole = 8 + length
    for name, entry in header.items():
        try:
            shape, (start, end) = entry["shape"], entry["data_offsets"]
            if len(shape) > MAX_DIMENSIONS or any(type(n) is not int or not 0 <= n < MAX_BYTES for n in (*shape, start, end)):
                raise ValueError
            if end - start != math.prod(shape) * WIDTHS[entry["dtype"]]:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"the entry of `{name}` does not fit its shape") from None
        whole = max(whole, 8 + length + end)
    if whole > size:
        raise _Cut(f"the file breaks off: it has {size:,} bytes of {whole:,}", "copy or fetch it again")
    return header
