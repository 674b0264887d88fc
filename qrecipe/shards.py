"""Small entries of one kind, thousands in a file: what a file each would make a million files of.

A process writes what it has made as shards, each of them once, under a name of its own: nobody waits, and nothing is
ever changed. The keys at the head of a shard are the index. Every entry carries a hash of itself and its key, so that
a damaged one is as good as absent; it is then made again, into a new shard. Imports torch only to read or write.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qrecipe.files import replacing

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

ENTRIES = 4096
"""Entries of a shard at most."""
SECONDS = 30.0
"""After which a shard is written with what there is: so much is lost at most when a process is killed."""
SUFFIX = ".shard"
_KEY, _SUM = 32, 16
"""Bytes of a key, and of an entry's hash."""

Tensors = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class _Shard:
    """An open file, its tensors left on the disk."""

    path: Path
    content: Any
    shapes: Mapping[str, NDArray[np.int32]]
    """By name of a tensor, [entries, dimensions]."""
    ends: Mapping[str, NDArray[np.int64]]
    """By name of a tensor, where each entry's numbers end, [entries]."""
    sums: NDArray[np.uint8]
    """[entries, bytes]."""


_Place = tuple[_Shard, int]


class ShardStore:
    """Entries of a few tensors each by a key of 64 hex digits, for one thread of each process."""

    def __init__(self, folder: Path, *names: str) -> None:
        """`folder` holds the shards; it is made when the first one is written. All entries hold tensors with these names."""
        self.folder = folder
        self._names = names
        self._places: dict[bytes, _Place] = {}
        self._copies: dict[bytes, list[_Place]] = {}
        self._read: set[Path] = set()
        self._used: set[Path] = set()
        self._new: dict[bytes, Tensors] = {}
        self._since = 0.0

    def refresh(self) -> None:
        """Reads the indices of shards that are new since the last call. One that cannot be read holds nothing."""
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path not in self._read:
                self._read.add(path)
                with suppress(Exception):  # safetensors has errors of its own; an entry that is missing is made again
                    self._index(path)

    def get(self, key: str) -> Tensors | None:
        """An entry, which then counts as used; None if it is absent or damaged."""
        name = bytes.fromhex(key)
        if name in self._new:
            return self._new[name]
        if name not in self._places:
            return None
        for shard, row in (self._places[name], *self._copies.get(name, ())):
            with suppress(Exception):  # as above
                tensors = self._entry(shard, row)
                if _hash(name, tensors) == shard.sums[row].tobytes():
                    self._touch(shard.path)
                    return tensors
        return None

    def put(self, key: str, value: Tensors) -> Tensors:
        """Adds an entry, which is on the disk after `flush` at the latest."""
        if not self._new:
            self._since = time.monotonic()
        self._new[bytes.fromhex(key)] = value
        if len(self._new) >= ENTRIES or time.monotonic() - self._since > SECONDS:
            self.flush()
        return value

    def flush(self) -> None:
        """Writes what was added since the last call as one shard. Raises `WriteError`."""
        if not self._new:
            return
        from safetensors.torch import save

        content = save(_packed(self._new, self._names))
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:32]}{SUFFIX}"
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        self._new.clear()
        self._read.add(path)
        self._index(path)

    def _index(self, path: Path) -> None:
        from safetensors import safe_open

        content: Any = safe_open(str(path), framework="pt")
        shapes = {name: content.get_tensor(f"{name}.shape").numpy() for name in self._names}
        ends = {name: shapes[name].prod(1, dtype="int64").cumsum() for name in self._names}
        shard = _Shard(path, content, shapes, ends, content.get_tensor("sum").numpy())
        for row, key in enumerate(content.get_tensor("key").numpy()):
            place = (shard, row)
            if self._places.setdefault(key.tobytes(), place) is not place:
                self._copies.setdefault(key.tobytes(), []).append(place)

    def _entry(self, shard: _Shard, row: int) -> Tensors:
        tensors = {}
        for name in self._names:
            shape, end = shard.shapes[name][row].tolist(), int(shard.ends[name][row])
            tensors[name] = shard.content.get_slice(name)[end - math.prod(shape) : end].reshape(shape)
        return tensors

    def _touch(self, path: Path) -> None:
        """Marks a shard as used, once for a process: `gc` lists those that were not for long."""
        if path not in self._used:
            self._used.add(path)
            with suppress(OSError):  # a cache of somebody else's may be read only
                os.utime(path)


def _packed(entries: Mapping[bytes, Tensors], names: tuple[str, ...]) -> Tensors:
    """Entries end to end, with the shapes that part them."""
    import numpy as np
    import torch

    def bytes_of(rows: list[bytes], width: int) -> torch.Tensor:
        return torch.from_numpy(np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(-1, width).copy())

    packed = {
        "key": bytes_of(list(entries), _KEY),
        "sum": bytes_of([_hash(key, tensors) for key, tensors in entries.items()], _SUM),
    }
    for name in names:
        tensors = [e[name] for e in entries.values()]
        packed[name] = torch.cat([t.reshape(-1) for t in tensors])
        packed[f"{name}.shape"] = torch.tensor([t.shape for t in tensors], dtype=torch.int32).reshape(len(tensors), tensors[0].dim())
    return packed


def _hash(key: bytes, tensors: Tensors) -> bytes:
    """Of an entry under its key."""
    content = hashlib.sha256(key)
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        content.update(tensor.contiguous().numpy().tobytes())
    return content.digest()[:_SUM]
