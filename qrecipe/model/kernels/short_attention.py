"""The operations between the projections of a layer, for rows of one short length, as one kernel each way: the norms of queries
and keys, their rotation, causal attention.

Apart, these are mostly copies: two matrix products of 16 x 16 a head, and around them every number is laid out anew four times.
Only imported where triton is; never taken before it was tried on rows whose result is known.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

LEAST = 16
"""Side of the smallest matrix that a GPU multiplies at once."""


@triton.jit
def _read(base, place, first, there, total: tl.constexpr, half: tl.constexpr):
    """Both halves of a head at all positions of a row, float32."""
    at = base + place * total + first + tl.arange(0, half)[None, :]
    return tl.load(at, mask=there, other=0.0).to(tl.float32), tl.load(at + half, mask=there, other=0.0).to(tl.float32)


@triton.jit
def _normed(a, b, eps, half: tl.constexpr):
    """Both halves by their root mean square, and its inverse."""
    inverse = 1.0 / tl.sqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * half) + eps)[:, None]
    return a * inverse, b * inverse, inverse


@triton.jit
def _turned(a, b, weight_a, weight_b, cos, sin, kind: tl.constexpr):
    """Weighed and turned to their positions, rounded where separate operations round."""
    a, b = (a * weight_a).to(kind).to(tl.float32), (b * weight_b).to(kind).to(tl.float32)
    return (a * cos - b * sin).to(kind), (b * cos + a * sin).to(kind)


@triton.jit
def _turned_back(a, b, normed_a, normed_b, inverse, weight_a, weight_b, cos, sin):
    """Gradients of what `_normed` and `_turned` were given, and of both halves of the weight."""
    a, b = a * cos + b * sin, b * cos - a * sin
    for_a, for_b = tl.sum(a * normed_a, 0), tl.sum(b * normed_b, 0)
    a, b = a * weight_a, b * weight_b
    pull = ((tl.sum(a * normed_a, 1) + tl.sum(b * normed_b, 1)) / (2 * a.shape[1]))[:, None]
    return inverse * (a - normed_a * pull), inverse * (b - normed_b * pull), for_a, for_b


@triton.jit
def _shares(qa, qb, ka, kb, scale, side: tl.constexpr):
    """How much every position reads of every other, float32."""
    at = tl.arange(0, side)
    scores = (tl.dot(qa, tl.trans(ka)) + tl.dot(qb, tl.trans(kb))) * scale
    scores = tl.where(at[:, None] >= at[None, :], scores, float("-inf"))
    grown = tl.exp(scores - tl.max(scores, 1)[:, None])
    return grown / tl.sum(grown, 1)[:, None]


@triton.jit
def _opened(
    joint, cos, sin, k_weight, k_eps, row, key,
    length: tl.constexpr, side: tl.constexpr, heads: tl.constexpr, shared: tl.constexpr, half: tl.constexpr,
):  # fmt: skip
    """The values that all query heads of one row and key head share: places and which of them exist, cosines and sines, the key before and
    after its norm's weight and rotation, with the inverse of its root mean square and that weight, and the value."""
    kind = joint.dtype.element_ty
    width: tl.constexpr = 2 * half
    total: tl.constexpr = (heads + 2 * shared) * width
    at, lane, wide = tl.arange(0, side), tl.arange(0, half), tl.arange(0, width)
    there = (at < length)[:, None]
    place = (row * length + at)[:, None]
    c = tl.load(cos + at[:, None] * half + lane[None, :], mask=there, other=0.0)
    s = tl.load(sin + at[:, None] * half + lane[None, :], mask=there, other=0.0)
    wa, wb = tl.load(k_weight + lane).to(tl.float32), tl.load(k_weight + half + lane).to(tl.float32)
    a, b = _read(joint, place, (heads + key) * width, there, total, half)
    a, b, inverse = _normed(a, b, k_eps, half)
    ka, kb = _turned(a, b, wa, wb, c, s, kind)
    v = tl.load(joint + place * total + (heads + shared + key) * width + wide[None, :], mask=there, other=0.0)
    return place, there, c, s, a, b, inverse, wa, wb, ka, kb, v


@triton.jit
def _forward(
    joint, cos, sin, q_weight, k_weight, out, q_eps, k_eps, scale,
    length: tl.constexpr, side: tl.constexpr, heads: tl.constexpr, shared: tl.constexpr, half: tl.constexpr,
):  # fmt: skip
    """One row and one key head, with all query heads that read it."""
    row, key = tl.program_id(0).to(tl.int64), tl.program_id(1)
    kind = joint.dtype.element_ty
    width: tl.constexpr = 2 * half
    total: tl.constexpr = (heads + 2 * shared) * width
    groups: tl.constexpr = heads // shared
    lane, wide = tl.arange(0, half), tl.arange(0, width)
    place, there, c, s, _, _, _, _, _, ka, kb, v = _opened(joint, cos, sin, k_weight, k_eps, row, key, length, side, heads, shared, half)
    wa, wb = tl.load(q_weight + lane).to(tl.float32), tl.load(q_weight + half + lane).to(tl.float32)
    for group in tl.static_range(groups):
        head = key * groups + group
        a, b = _read(joint, place, head * width, there, total, half)
        a, b, _ = _normed(a, b, q_eps, half)
        qa, qb = _turned(a, b, wa, wb, c, s, kind)
        mixed = tl.dot(_shares(qa, qb, ka, kb, scale, side).to(kind), v)
        tl.store(out + place * (heads * width) + head * width + wide[None, :], mixed.to(kind), mask=there)


@triton.jit
def _backward(
    joint, cos, sin, q_weight, k_weight, pull, for_joint, for_q, for_k,
    q_eps, k_eps, scale,
    length: tl.constexpr, side: tl.constexpr, heads: tl.constexpr, shared: tl.constexpr, half: tl.constexpr,
):  # fmt: skip
    """The same; `for_q` and `for_k` take every program's part of the norms' gradients."""
    row, key = tl.program_id(0).to(tl.int64), tl.program_id(1)
    kind = joint.dtype.element_ty
    width: tl.constexpr = 2 * half
    total: tl.constexpr = (heads + 2 * shared) * width
    groups: tl.constexpr = heads // shared
    lane, wide = tl.arange(0, half), tl.arange(0, width)
    place, there, c, s, k_a, k_b, k_inverse, k_wa, k_wb, ka, kb, v = _opened(
        joint, cos, sin, k_weight, k_eps, row, key, length, side, heads, shared, half
    )
    wa, wb = tl.load(q_weight + lane).to(tl.float32), tl.load(q_weight + half + lane).to(tl.float32)
    for_ka, for_kb = tl.zeros((side, half), tl.float32), tl.zeros((side, half), tl.float32)
    for_v = tl.zeros((side, width), tl.float32)
    sum_a, sum_b = tl.zeros((half,), tl.float32), tl.zeros((half,), tl.float32)
    # every query head of this key head: its own gradient is stored, that of key and value is summed
    for group in tl.static_range(groups):
        head = key * groups + group
        a, b = _read(joint, place, head * width, there, total, half)
        a, b, inverse = _normed(a, b, q_eps, half)
        qa, qb = _turned(a, b, wa, wb, c, s, kind)
        share = _shares(qa, qb, ka, kb, scale, side)
        grad = tl.load(pull + place * (heads * width) + head * width + wide[None, :], mask=there, other=0.0)
        for_v += tl.dot(tl.trans(share.to(kind)), grad)
        by_share = tl.dot(grad, tl.trans(v))
        by_score = (share * (by_share - tl.sum(share * by_share, 1)[:, None]) * scale).to(kind)
        for_ka += tl.dot(tl.trans(by_score), qa)
        for_kb += tl.dot(tl.trans(by_score), qb)
        a, b, part_a, part_b = _turned_back(tl.dot(by_score, ka), tl.dot(by_score, kb), a, b, inverse, wa, wb, c, s)
        sum_a += part_a
        sum_b += part_b
        to = for_joint + place * total + head * width + lane[None, :]
        tl.store(to, a.to(kind), mask=there)
        tl.store(to + half, b.to(kind), mask=there)
    # then the key, through its rotation and norm, and the value
    a, b, part_a, part_b = _turned_back(for_ka, for_kb, k_a, k_b, k_inverse, k_wa, k_wb, c, s)
    to = for_joint + place * total + (heads + key) * width + lane[None, :]
    tl.store(to, a.to(kind), mask=there)
    tl.store(to + half, b.to(kind), mask=there)
    tl.store(for_joint + place * total + (heads + shared + key) * width + wide[None, :], for_v.to(kind), mask=there)
    # norms' weights are shared by all rows: each program stores its part
    mine = (row * shared + key) * width + lane
    tl.store(for_q + mine, sum_a)
    tl.store(for_q + mine + half, sum_b)
    tl.store(for_k + mine, part_a)
    tl.store(for_k + mine + half, part_b)


def _sizes(joint: torch.Tensor, q_weight: torch.Tensor, heads: int, length: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Programs, and what a kernel is compiled for."""
    width = len(q_weight)
    shared = (joint.shape[1] // width - heads) // 2
    side = max(LEAST, triton.next_power_of_2(length))
    return (len(joint) // length, shared), {"length": length, "side": side, "heads": heads, "shared": shared, "half": width // 2}


@torch.library.custom_op("qrecipe::short", mutates_args=())
def _op(
    joint: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    q_eps: float,
    k_eps: float,
    heads: int,
    length: int,
    scale: float,
) -> torch.Tensor:
    joint = joint.contiguous()
    programs, sizes = _sizes(joint, q_weight, heads, length)
    out = joint.new_empty(len(joint), heads * len(q_weight))
    _forward[programs](joint, cos.contiguous(), sin.contiguous(), q_weight, k_weight, out, q_eps, k_eps, scale, **sizes, num_warps=4)
    return out


@torch.library.custom_op("qrecipe::short_backward", mutates_args=())
def _op_backward(
    pull: torch.Tensor,
    joint: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    q_weight: torch.Tensor,
    k_weight: torch.Tensor,
    q_eps: float,
    k_eps: float,
    heads: int,
    length: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    joint = joint.contiguous()
    programs, sizes = _sizes(joint, q_weight, heads, length)
    for_joint = torch.empty_like(joint)
    for_q, for_k = (torch.empty(*programs, len(w), dtype=torch.float32, device=joint.device) for w in (q_weight, k_weight))
    inputs = (joint, cos.contiguous(), sin.contiguous(), q_weight, k_weight, pull.contiguous())
    _backward[programs](*inputs, for_joint, for_q, for_k, q_eps, k_eps, scale, **sizes, num_warps=4)
    return for_joint, for_q.sum((0, 1)).to(q_weight.dtype), for_k.sum((0, 1)).to(k_weight.dtype)


@_op.register_fake
def _like(joint: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, q_weight: torch.Tensor, *rest: Any) -> torch.Tensor:
    return joint.new_empty(joint.shape[0], rest[3] * q_weight.shape[0])


@_op_backward.register_fake
def _like_all(
    pull: torch.Tensor, joint: torch.Tensor, cos: Any, sin: Any, q_weight: torch.Tensor, k_weight: torch.Tensor, *rest: Any
) -> Any:
    return joint.new_empty(joint.shape), torch.empty_like(q_weight), torch.empty_like(k_weight)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.settings = inputs[5:]


def _pulled(ctx: Any, pull: torch.Tensor) -> Any:
    for_joint, for_q, for_k = _op_backward(pull, *ctx.saved_tensors, *ctx.settings)
    return (for_joint, None, None, for_q, for_k, *(None for _ in ctx.settings))


_op.register_autograd(_pulled, setup_context=_keep)


def attend(
    joint: torch.Tensor,
    rotation: tuple[torch.Tensor, torch.Tensor],
    norms: tuple[tuple[torch.Tensor, float], tuple[torch.Tensor, float]],
    heads: int,
    length: int,
    scale: float,
) -> torch.Tensor:
    """Causal attention within rows of one length: -> [n, heads x width].

    Args:
        joint: [n, (heads + 2 key heads) x width], queries, keys and values side by side.
        rotation: cosines and sines, [n, 1, width / 2] float32, the same in every row.
        norms: weight and epsilon, of queries and of keys.
    """
    (q_weight, q_eps), (k_weight, k_eps) = norms
    out: torch.Tensor = _op(joint, *rotation, q_weight, k_weight, q_eps, k_eps, heads, length, scale)
    return out
