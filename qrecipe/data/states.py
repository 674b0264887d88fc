"""States of the talker that nothing which trains can change, computed once and stored in the user's cache.

Rows are spread over shards by their own content, and a shard is computed whole and in one order whatever was there
before, so that a run that was stopped gives the bytes of one that was not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qrecipe.files import digest
from qrecipe.model import attention, forward, layers, prompt
from qrecipe.model.batcher import CPU_CHUNK_FRAMES
from qrecipe.model.kernels import fused
from qrecipe.model.load import LoadedBase
from qrecipe.store import MappedStore, key_of

STATES = 1
"""Raised whenever the same row would have other states."""
SHARD = 16_384
"""Frames of a shard, about."""
GPU_CHUNK_FRAMES = 8_192
"""Frames of a batch on a GPU."""

OnRows = Callable[[int, int], None]
"""Called with (rows done, of)."""


@dataclass(frozen=True)
class Wanted:
    """A row in one way of laying it out."""

    key: str
    """Names its content."""
    frames: int
    example: Callable[[], prompt.Example]


def example_key(example: prompt.Example) -> str:
    """Names everything of an example that the talker reads."""

    def content(tensor: torch.Tensor | None) -> str | None:
        return None if tensor is None else hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()

    return digest(
        [
            example.role,
            example.body,
            content(example.codes),
            content(example.x_vector),
            example.language,
            example.layout,
            example.reference_body,
            content(example.reference_codes) if example.reference_body is not None else None,
        ]
    )


class States:
    """Inputs of a layer of the talker, or the hidden states that predict frames, by row."""

    def __init__(self, cache: Path, opened: LoadedBase, tables: forward.Tables, first_layer: int | None, talker: Any) -> None:
        """
        Args:
            first_layer: the layer whose input is stored, [positions, hidden] of every row; None: hidden states, [frames, hidden].
            talker: names the weights below that layer, as a value for canonical JSON.
        """
        self.first_layer = first_layer
        self._opened, self._tables = opened, tables
        self._shards = MappedStore(cache / "states" / key_of([STATES, talker, first_layer, str(opened.compute_dtype)], 16))
        self._by_row: dict[str, Any] = {}
        """Row -> its shard, an open file."""

    @property
    def folder(self) -> Path:
        """Where the shards are stored."""
        return self._shards.folder

    def fill(self, wanted: Mapping[str, Wanted], progress: OnRows | None = None) -> int:
        """Computes the states that are not stored yet; returns the bytes of all that are `wanted`."""
        groups = _groups(wanted.values())
        keys = [key_of([w.key for w in g]) for g in groups]
        done = 0
        for n, shard in self._shards.get_or_make(keys, lambda n: self._make(groups[n])):
            self._by_row.update(dict.fromkeys((w.key for w in groups[n]), shard))
            done += len(groups[n])
            if progress is not None:
                progress(done, len(wanted))
        return sum(f.stat().st_size for k in keys for f in self._shards.paths(k))

    def row(self, key: str) -> torch.Tensor:
        """States of a row that `fill` was called with: [positions, hidden] or [frames, hidden]."""
        states: torch.Tensor = self._by_row[key].get_tensor(key)
        return states

    def _make(self, group: Sequence[Wanted]) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {}
        limit = CPU_CHUNK_FRAMES if self._opened.device.type == "cpu" else GPU_CHUNK_FRAMES
        batch: list[Wanted] = []
        for i, w in enumerate(group):
            batch.append(w)
            if i + 1 == len(group) or sum(b.frames for b in batch) + group[i + 1].frames > limit:
                tensors.update(zip((b.key for b in batch), self._compute([b.example() for b in batch]), strict=True))
                batch = []
        return tensors

    def _compute(self, examples: list[prompt.Example]) -> list[torch.Tensor]:
        opened = self._opened
        batch = prompt.collate(examples, prompt.ControlIds.of(opened.config)).to(opened.device)
        with torch.no_grad(), opened.autocast(), fused.compiled(False):  # compiling takes longer than dozens of hours of speech
            if self.first_layer is None:
                states = forward.label_hidden(self._tables, batch, opened.compute_dtype)[batch.frame_label]
                sizes = [len(e.codes) for e in examples]
            else:
                x = forward.input_embeddings(self._tables, batch, opened.compute_dtype)
                states = layers.decode(opened.talker.model, x, attention.PackedRows(batch.lengths, x.device), span=slice(self.first_layer))
                sizes = list(batch.lengths)
        return [part.clone() for part in torch.split(states.cpu(), sizes)]


def _groups(wanted: Any) -> list[list[Wanted]]:
    """Rows by shard, each in one order. A row's shard depends on its own content, so that a row more changes one shard."""
    rows = sorted(wanted, key=lambda w: w.key)
    digits, total = 0, sum(w.frames for w in rows)
    while total / 16**digits > SHARD:
        digits += 1
    groups: dict[str, list[Wanted]] = {}
    for w in rows:
        groups.setdefault(w.key[:digits], []).append(w)
    return [sorted(g, key=lambda w: (w.frames, w.key)) for g in groups.values()]
