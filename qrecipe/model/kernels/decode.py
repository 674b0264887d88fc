"""A decoding step between its matrix products as Triton kernels; `generate.ops` has the same in torch.

Of one token a row almost all time goes to launching: a sum and its norm, the gate of an MLP, all of attention between two
projections, and drawing a code from its scores are one kernel each. Only imported where triton is; `tried` says whether
what they give here is what torch gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from qrecipe.model.generate import ops
from qrecipe.model.generate.ops import Cache
from qrecipe.model.generate.sampling import Draw
from qrecipe.model.generate.weights import Layer, Stack

LONG = {True: (64, 4), False: (32, 1)}
"""By whether a batch is too narrow to fill a GPU: positions that attention over the talker's cache reads in one step, and warps."""
NARROW = 8
"""Rows of such a batch."""
LEAST = 16
"""Side of the smallest matrix that a GPU multiplies at once."""
SHORT = 16
"""Positions up to which a row's keys and values are read at once."""


@triton.jit
def _add_norm(x_at, delta_at, weight_at, sum_at, out_at, hidden, eps, block: tl.constexpr):
    lane = tl.arange(0, block)
    at, real = tl.program_id(0).to(tl.int64) * hidden + lane, lane < hidden
    kind = sum_at.dtype.element_ty
    weight = tl.load(weight_at + lane, mask=real, other=0.0).to(tl.float32)
    x = tl.load(x_at + at, mask=real, other=0.0).to(tl.float32) + tl.load(delta_at + at, mask=real, other=0.0).to(tl.float32)
    x = x.to(kind)
    tl.store(sum_at + at, x, mask=real)
    x = x.to(tl.float32)
    normed = (x * tl.rsqrt(tl.sum(x * x, 0) / hidden + eps)).to(kind).to(tl.float32)
    tl.store(out_at + at, normed * weight, mask=real)


@triton.jit
def _gated(gate_up_at, out_at, width, block: tl.constexpr):
    row, lane = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    real = lane < width
    gate = tl.load(gate_up_at + row * 2 * width + lane, mask=real, other=0.0).to(tl.float32)
    up = tl.load(gate_up_at + row * 2 * width + width + lane, mask=real, other=0.0).to(tl.float32)
    silu = (gate / (1 + tl.exp(-gate))).to(out_at.dtype.element_ty).to(tl.float32)
    tl.store(out_at + row * width + lane, silu * up, mask=real)


@triton.jit
def _turned(x_at, weight_at, cos, sin, eps, width: tl.constexpr, heads: tl.constexpr, padded: tl.constexpr):
    """Heads side by side, normed and turned to their position, [padded, width]; every element's partner is read beside it."""
    lane, head = tl.arange(0, width), tl.arange(0, padded)
    here = head[:, None] * width + lane[None, :]
    there = head[:, None] * width + ((lane + width // 2) % width)[None, :]
    real = (head < heads)[:, None]
    kind = x_at.dtype.element_ty
    x, y = tl.load(x_at + here, mask=real, other=0.0).to(tl.float32), tl.load(x_at + there, mask=real, other=0.0).to(tl.float32)
    wx, wy = tl.load(weight_at + here, mask=real, other=0.0), tl.load(weight_at + there, mask=real, other=0.0)
    scale = tl.rsqrt(tl.sum(x * x, 1) / width + eps)[:, None]
    x = ((x * scale).to(kind).to(tl.float32) * wx.to(tl.float32)).to(kind).to(tl.float32)
    y = ((y * scale).to(kind).to(tl.float32) * wy.to(tl.float32)).to(kind).to(tl.float32)
    return (x * cos[None, :] + y * sin[None, :]).to(kind)


@triton.jit
def _attend(
    qkv_at, weight_at, cos_at, sin_at, position_at, k_at, v_at, out_at, row_stride, out_stride, rows, chunk_stride, eps, scale,
    heads: tl.constexpr, kv: tl.constexpr, width: tl.constexpr, chunk: tl.constexpr, block: tl.constexpr, padded: tl.constexpr,
):  # fmt: skip
    """One token of one row and one key head over a long cache: norms, rotation, the cache, and attention to as much of it as there is."""
    b, j = tl.program_id(0).to(tl.int64), tl.program_id(1)
    shared: tl.constexpr = heads // kv
    lane, head = tl.arange(0, width), tl.arange(0, padded)
    to, real = out_at + b * out_stride + (j * shared + head)[:, None] * width + lane[None, :], (head < shared)[:, None]
    if b >= rows:  # a row of the matrix products that is not in use
        tl.store(to, tl.zeros((padded, width), tl.float32), mask=real)
    else:
        position = tl.load(position_at + b).to(tl.int32)
        cache = (b * kv + j) * chunk * width
        n = tl.arange(0, block)
        x_at = qkv_at + b * row_stride
        cos = tl.load(cos_at + position * width + lane).to(tl.float32)
        sin = tl.load(sin_at + position * width + lane).to(tl.float32) * tl.where(lane < width // 2, -1.0, 1.0)
        k = _turned(x_at + (heads + j) * width, weight_at + heads * width + j * width, cos, sin, eps, width, 1, 1)
        q = _turned(x_at + j * shared * width, weight_at + j * shared * width, cos, sin, eps, width, shared, padded)
        v = tl.load(x_at + (heads + kv + j) * width + lane)
        own = (position // chunk).to(tl.int64) * chunk_stride + cache + (position % chunk) * width + lane
        tl.store(k_at + own, tl.reshape(k, (width,)))
        tl.store(v_at + own, v)
        # the token itself comes first, from registers
        top, mass = tl.sum(q.to(tl.float32) * k.to(tl.float32), 1) * scale, tl.zeros((padded,), tl.float32) + 1.0
        read = tl.zeros((padded, width), tl.float32) + v.to(tl.float32)[None, :]
        for start in range(0, position, block):
            there = cache + (start // chunk) * chunk_stride + ((start % chunk) + n)[:, None] * width + lane[None, :]
            earlier = start + n < position
            kk = tl.load(k_at + there, mask=earlier[:, None], other=0.0)
            vv = tl.load(v_at + there, mask=earlier[:, None], other=0.0)
            s = tl.where(earlier[None, :], tl.dot(q, tl.trans(kk)) * scale, float("-inf"))
            most = tl.maximum(top, tl.max(s, 1))
            fade, p = tl.exp(top - most), tl.exp(s - most[:, None])
            read = tl.dot(p.to(vv.dtype), vv, read * fade[:, None])
            mass, top = mass * fade + tl.sum(p, 1), most
        tl.store(to, read / mass[:, None], mask=real)


@triton.jit
def _attend_short(
    qkv_at, weight_at, cos_at, sin_at, position_at, k_at, v_at, out_at, row_stride, out_stride, rows, eps, scale,
    heads: tl.constexpr, kv: tl.constexpr, width: tl.constexpr, chunk: tl.constexpr,
):  # fmt: skip
    """The same over a cache of one short chunk: what was said before is read at once and does not wait for what is said now."""
    b, j = tl.program_id(0).to(tl.int64), tl.program_id(1)
    shared: tl.constexpr = heads // kv
    lane, head, n = tl.arange(0, width), tl.arange(0, shared), tl.arange(0, chunk)
    to = out_at + b * out_stride + (j * shared + head)[:, None] * width + lane[None, :]
    if b >= rows:
        tl.store(to, tl.zeros((shared, width), tl.float32))
    else:
        position = tl.load(position_at + b).to(tl.int32)
        cache = (b * kv + j) * chunk * width
        earlier = n < position
        spot = cache + n[:, None] * width + lane[None, :]
        kk = tl.load(k_at + spot, mask=earlier[:, None], other=0.0).to(tl.float32)
        vv = tl.load(v_at + spot, mask=earlier[:, None], other=0.0).to(tl.float32)
        x_at = qkv_at + b * row_stride
        cos = tl.load(cos_at + position * width + lane).to(tl.float32)
        sin = tl.load(sin_at + position * width + lane).to(tl.float32) * tl.where(lane < width // 2, -1.0, 1.0)
        k = _turned(x_at + (heads + j) * width, weight_at + heads * width + j * width, cos, sin, eps, width, 1, 1)
        q = _turned(x_at + j * shared * width, weight_at + j * shared * width, cos, sin, eps, width, shared, shared)
        v = tl.load(x_at + (heads + kv + j) * width + lane)
        own = cache + position * width + lane
        tl.store(k_at + own, tl.reshape(k, (width,)))
        tl.store(v_at + own, v)
        q = q.to(tl.float32) * scale
        itself = tl.sum(q * k.to(tl.float32), 1)
        s = tl.where(earlier[None, :], tl.sum(q[:, None, :] * kk[None, :, :], 2), float("-inf"))
        most = tl.maximum(itself, tl.max(s, 1))
        own_share, p = tl.exp(itself - most), tl.exp(s - most[:, None])
        read = own_share[:, None] * v.to(tl.float32)[None, :] + tl.sum(p[:, :, None] * vv[None, :, :], 1)
        tl.store(to, read / (own_share + tl.sum(p, 1))[:, None])


@triton.jit
def _draw(scores_at, uniforms_at, out_at, count, temperature, top_k, bits: tl.constexpr, block: tl.constexpr):
    """Temperature, top-k and the inverse of the distribution function; the k-th largest score is found bit by bit."""
    b, lane = tl.program_id(0).to(tl.int64), tl.arange(0, block)
    x = tl.load(scores_at + b * count + lane, mask=lane < count, other=float("-inf")).to(tl.float32)
    key = x.to(tl.int32, bitcast=True)
    key = tl.where(key < 0, key ^ 0x7FFFFFFF, key)  # integers in the order of the floats
    least = tl.where(tl.sum((key >= 0).to(tl.int32), 0) >= top_k, 0, -2147483648)
    for i in range(bits):
        more = least | (1 << (30 - i))
        least = tl.where(tl.sum((key >= more).to(tl.int32), 0) >= top_k, more, least)
    stays = (key >= least) & (x > float("-inf"))
    cumulated = tl.cumsum(tl.where(stays, tl.exp((x - tl.max(x, 0)) / temperature), 0.0), 0)
    above = (cumulated > tl.load(uniforms_at + b) * tl.max(cumulated, 0)) & stays
    tl.store(out_at + b, tl.minimum(tl.min(tl.where(above, lane, block), 0), count - 1).to(tl.int64))


@dataclass
class KernelPositions:
    """Where one token of every row stands."""

    tables: tuple[torch.Tensor, torch.Tensor]
    """Cosines and sines of all positions, [positions, width]."""
    position: torch.Tensor
    """[rows] int64."""
    short: bool


def place(tables: tuple[torch.Tensor, torch.Tensor], position: torch.Tensor, cache: Cache, live: int) -> KernelPositions:
    """Rows at places of their own."""
    return KernelPositions(tables, position, False)


def place_at(tables: tuple[torch.Tensor, torch.Tensor], position: int, cache: Cache) -> KernelPositions:
    """All rows at one place of a cache of one chunk."""
    rows, chunk = cache.k.shape[1], cache.k.shape[3]
    return KernelPositions(tables, torch.full((rows,), position, device=cache.k.device), chunk <= SHORT)


def add_norm(x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum, and its norm."""
    total, out = torch.empty_like(x), torch.empty_like(x)
    hidden = x.shape[1]
    _add_norm[(len(x),)](x, delta, weight, total, out, hidden, eps, block=triton.next_power_of_2(hidden), num_warps=4)
    return total, out


def gated(gate_up: torch.Tensor, activation: Any) -> torch.Tensor:
    """[n, 2 width] -> [n, width]."""
    if activation is not None:
        return ops.gated(gate_up, activation)
    width = gate_up.shape[1] // 2
    out = gate_up.new_empty(len(gate_up), width)
    _gated[(len(gate_up), triton.cdiv(width, 1024))](gate_up, out, width, block=1024, num_warps=4)
    return out


def attend(qkv: torch.Tensor, layer: Layer, places: list[KernelPositions], cache: Cache, stack: Stack) -> torch.Tensor:
    """Attention of the next tokens, after their keys and values are in the cache; see `ops.attend`."""
    tokens, (_, rows, kv, chunk, width) = len(places), cache.k.shape
    side_by_side = qkv.view(-1, tokens, qkv.shape[1])
    out = qkv.new_empty(len(side_by_side), tokens, stack.heads * width)
    for i, where in enumerate(places):
        tensors = (side_by_side[:, i], layer.head_norms, *where.tables, where.position, cache.k, cache.v, out[:, i])
        strides = (side_by_side.stride(0), out.stride(0), rows)
        sizes = {"heads": stack.heads, "kv": kv, "width": width, "chunk": chunk}
        if where.short:
            _attend_short[(len(out), kv)](*tensors, *strides, stack.eps, width**-0.5, **sizes, num_warps=1)
        else:
            padded = max(LEAST, triton.next_power_of_2(stack.heads // kv))
            block, warps = LONG[len(out) <= NARROW]
            numbers = (cache.k.stride(0), stack.eps, width**-0.5)
            _attend[(len(out), kv)](*tensors, *strides, *numbers, **sizes, block=block, padded=padded, num_warps=warps)
    return out.view(len(qkv), -1)


def choose(scores: torch.Tensor, uniforms: torch.Tensor, draw: Draw) -> torch.Tensor:
    """One code a row: [n, codes] and [n] -> [n]."""
    if not draw.sample or draw.top_p < 1.0:
        return ops.choose(scores, uniforms, draw)
    out = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
    count = scores.shape[1]
    bits = 15 if scores.dtype == torch.bfloat16 else 31  # below them bfloat16 has nothing
    top_k = min(draw.top_k or count, count)
    _draw[(len(scores),)](
        scores, uniforms, out, count, draw.temperature, top_k, bits=bits, block=triton.next_power_of_2(count), num_warps=8
    )
    return out


def agrees(stack: Stack, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether every kernel gives what torch gives in float32, for heads and widths like a stack's."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    x, delta, weight = drawn(3, stack.hidden), drawn(3, stack.hidden), drawn(stack.hidden)
    pairs = list(zip(add_norm(x, delta, weight, stack.eps), ops.add_norm(x.float(), delta.float(), weight.float(), stack.eps), strict=True))
    pairs.append((gated(drawn_gate := drawn(3, 2 * stack.hidden), None), ops.gated(drawn_gate.float(), None)))
    for positions in (SHORT, 3 * ops.CHUNK):
        pairs += _attended(stack, positions, drawn)
    if not all(bool((a.float() - b).norm() < 0.03 * b.norm()) for a, b in pairs):
        return False
    scores, uniforms = drawn(64, 300), torch.rand(64, generator=generator).to(device)
    draw = Draw(True, 0.8, 20)
    # at the edge between two codes float32 sums may fall either way
    return float((choose(scores, uniforms, draw) == ops.choose(scores, uniforms, draw)).float().mean()) > 0.9


def _attended(stack: Stack, positions: int, drawn: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Attention of two rows and one that is not in use, over caches that hold something, by kernels and by torch."""
    total = (stack.heads + 2 * stack.kv_heads) * stack.width
    qkv, norms = drawn(3, total), drawn(stack.heads + stack.kv_heads, stack.width)
    angle = drawn(positions, stack.width // 2).float().repeat(1, 2)
    tables = (angle.cos().to(qkv.dtype), angle.sin().to(qkv.dtype))
    cache = Cache.empty(stack, 2, positions, qkv)
    for t in (cache.k, cache.v):
        t.copy_(drawn(*t.shape))
    exact = Cache(cache.k.float(), cache.v.float())
    wide = (tables[0].float(), tables[1].float())
    layer, exact_layer = (Layer(n, n, None, n, n, None, n, n, n) for n in (norms, norms.float()))
    if positions <= SHORT:
        own, theirs = place_at(tables, 5, cache), ops.place_at(wide, 5, exact)
    else:
        where = torch.tensor([7, positions - 3], device=qkv.device)
        own, theirs = place(tables, where, cache, len(cache.k)), ops.place(wide, where, exact, len(exact.k))
    pairs = [(attend(qkv, layer, [own], cache, stack), ops.attend(qkv.float(), exact_layer, [theirs], exact, stack))]
    return [*pairs, (cache.k, exact.k), (cache.v, exact.v)]
