"""The operations between the matrix products of a decoding step, in torch. `kernels.decode` has the same for a GPU.

How attention rounds does not depend on how many rows there are or how far the longest has come: a cache is read in chunks of
one size, whose sums are added in their order, and a chunk that holds nothing of a row adds exact zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from qrecipe.model.generate import sampling
from qrecipe.model.generate.sampling import Draw
from qrecipe.model.generate.weights import Layer, Stack

CHUNK = 64
"""Positions of a cache that are read at once."""


@dataclass
class Cache:
    """Keys and values of one layer: [chunks, rows, key heads, chunk, width] each."""

    k: torch.Tensor
    v: torch.Tensor

    @classmethod
    def empty(cls, stack: Stack, rows: int, positions: int, like: torch.Tensor) -> Cache:
        """Zeros for so many positions, in chunks of `CHUNK` or one shorter chunk."""
        chunk = min(CHUNK, positions)
        shape = (-(-positions // chunk), rows, stack.kv_heads, chunk, stack.width)
        return cls(like.new_zeros(shape), like.new_zeros(shape))


@dataclass
class CachePositions:
    """Where one token of every row stands."""

    cos: torch.Tensor
    """[rows or 1, 1, width]."""
    sin: torch.Tensor
    position: torch.Tensor
    """[rows] int64."""
    upto: int | None = None
    """Positions to be read where all rows stand at one place of a cache of one chunk."""
    chunk: torch.Tensor | None = None
    within: torch.Tensor | None = None
    row: torch.Tensor | None = None
    head: torch.Tensor | None = None
    beyond: torch.Tensor | None = None
    """[chunks, rows, 1, 1, chunk]: positions after the row's own. As many chunks are read."""


def add_norm(x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum, and its norm."""
    x = x + delta
    return x, F.rms_norm(x, (x.shape[-1],), weight, eps)


def gated(gate_up: torch.Tensor, activation: Any) -> torch.Tensor:
    """[n, 2 width] -> [n, width]."""
    gate, up = gate_up.chunk(2, -1)
    return (F.silu(gate) if activation is None else activation(gate)) * up


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """[..., heads, width] turned to their positions."""
    one, two = x.chunk(2, -1)
    return torch.addcmul(x * cos, torch.cat((-two, one), -1), sin)


def place(tables: tuple[torch.Tensor, torch.Tensor], position: torch.Tensor, cache: Cache, live: int) -> CachePositions:
    """Rows at places of their own; the first `live` chunks are read."""
    cos, sin = (table.index_select(0, position).unsqueeze(1) for table in tables)
    _, rows, kv, chunk, _ = cache.k.shape
    device = position.device
    slots = torch.arange(live * chunk, device=device).view(live, 1, chunk)
    beyond = (slots > position.view(1, rows, 1)).view(live, rows, 1, 1, chunk)
    where, within = (position // chunk).unsqueeze(1), (position % chunk).unsqueeze(1)
    row, head = torch.arange(rows, device=device).unsqueeze(1), torch.arange(kv, device=device).unsqueeze(0)
    return CachePositions(cos, sin, position, None, where, within, row, head, beyond)


def place_at(tables: tuple[torch.Tensor, torch.Tensor], position: int, cache: Cache) -> CachePositions:
    """All rows at one place of a cache of one chunk."""
    cos, sin = (table[position].view(1, 1, -1) for table in tables)
    return CachePositions(cos, sin, torch.full((cache.k.shape[1],), position, device=cos.device), position + 1)


def choose(scores: torch.Tensor, uniforms: torch.Tensor, draw: Draw) -> torch.Tensor:
    """One code a row: [n, codes] and [n] -> [n]."""
    return sampling.choose(scores.float(), uniforms, draw)


def attend(qkv: torch.Tensor, layer: Layer, places: list[CachePositions], cache: Cache, stack: Stack) -> torch.Tensor:
    """Attention of the next tokens, after their keys and values are in the cache.

    Args:
        qkv: [width x tokens, (heads + 2 key heads) x head width]; the tokens of a row lie side by side.
        places: one for each token of a row.

    Returns: [width x tokens, heads x head width]; zeros for rows that the cache does not have.
    """
    tokens, rows = len(places), cache.k.shape[1]
    side_by_side = qkv.view(-1, tokens, stack.heads + 2 * stack.kv_heads, stack.width)
    outputs = [_attend_one(side_by_side[:rows, i], layer, where, cache, stack) for i, where in enumerate(places)]
    out = outputs[0] if tokens == 1 else torch.stack(outputs, 1).flatten(0, 1)
    return F.pad(out, (0, 0, 0, len(qkv) - len(out))) if len(out) < len(qkv) else out


def _attend_one(y: torch.Tensor, layer: Layer, where: CachePositions, cache: Cache, stack: Stack) -> torch.Tensor:
    """[rows, heads + 2 key heads, width] -> [rows, heads x width]."""
    heads, kv, width = stack.heads, stack.kv_heads, stack.width
    rows, shared = len(y), heads // kv
    qk = F.rms_norm(y[:, : heads + kv], (width,), eps=stack.eps) * layer.head_norms
    qk = rotate(qk, where.cos, where.sin)
    q = qk[:, :heads].reshape(rows * kv, shared, width)
    if where.upto is not None:
        cache.k[0, :, :, where.upto - 1] = qk[:, heads:]
        cache.v[0, :, :, where.upto - 1] = y[:, heads + kv :]
        k, v = (t[0].view(rows * kv, -1, width)[:, : where.upto] for t in (cache.k, cache.v))
        scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=width**-0.5).float()
        return torch.bmm(scores.softmax(-1).to(v.dtype), v).view(rows, heads * width)
    assert where.beyond is not None
    spot = (where.chunk, where.row, where.head, where.within)
    cache.k.index_put_(spot, qk[:, heads:])
    cache.v.index_put_(spot, y[:, heads + kv :])
    live = len(where.beyond)
    k, v = (t[:live].view(live * rows * kv, -1, width) for t in (cache.k, cache.v))
    scores = torch.bmm(q.repeat(live, 1, 1), k.transpose(1, 2)).float() * width**-0.5
    scores = scores.view(live, rows, kv, shared, -1).masked_fill(where.beyond, -torch.inf)
    grown = (scores - scores.amax((0, -1), keepdim=True)).exp()
    read = torch.bmm(grown.to(v.dtype).view(live * rows * kv, shared, -1), v).view(live, rows, kv, shared, width)
    return (_in_order(read) / _in_order(grown.sum(-1, keepdim=True))).to(y.dtype).reshape(rows, heads * width)


def _in_order(parts: torch.Tensor) -> torch.Tensor:
    """The sum over the first dimension, one after the other: more zeros at the end change nothing."""
    total = parts[0].float()
    for part in parts[1:]:
        total = total + part
    return total
