"""Tensors on disk that prove themselves: the SHA-256 of what follows, 32 bytes, then a safetensors file.

For entries of caches: written whole or not at all, and one that is broken is as good as absent.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load, save

from qrecipe.files import replacing


def store(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes an entry."""
    body = save(tensors)
    with replacing(file) as temporary:
        temporary.write_bytes(hashlib.sha256(body).digest() + body)


def recall(file: Path, *names: str) -> dict[str, torch.Tensor] | None:
    """What an entry holds; None if it is not there, is broken, or holds other than `names`."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    body = memoryview(content)[32:]
    if hashlib.sha256(body).digest() != content[:32]:
        return None
    found = load(bytes(body))
    if found.keys() != set(names):
        return None
    with suppress(OSError):  # a cache of somebody else's may be read only
        os.utime(file)  # an entry that is used is not garbage
    return found
