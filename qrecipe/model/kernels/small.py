"""The layers of a small model on a CPU as one call, compiled by numba: torch takes longer to start its operations than they take.

All sums of a token have one order, whatever is computed beside it. Python's other threads run meanwhile.
"""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np
import torch

from qrecipe.model.dsp import compile_apart

PANEL = 32
"""Outputs of a product that are computed together."""
Layers = namedtuple("Layers", "input_norm qkv head_norms o post_norm gate_up down norm")
"""Arrays of all layers of a stack, as `weights.Layer` names them, products as panels; `norm` comes after the last layer."""

numba = compile_apart()
compiled = numba.njit(nogil=True, cache=True, fastmath={"contract"})


def panels(weight: torch.Tensor) -> torch.Tensor:
    """[..., outputs, inputs] -> [..., outputs / PANEL, inputs, PANEL]."""
    return weight.view(*weight.shape[:-2], -1, PANEL, weight.shape[-1]).transpose(-1, -2).contiguous()


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc"})
def _dot(a, b):
    total = np.float32(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@compiled
def product(x, weight, out):
    """[n, inputs] by panels into [n, outputs], four rows at a time: where there are fewer, the last one again."""
    sums, last = np.empty((4, PANEL), np.float32), len(x) - 1
    for p in range(len(weight)):
        w = weight[p]
        for m in range(0, len(x), 4):
            a, b, c, d = x[m], x[min(m + 1, last)], x[min(m + 2, last)], x[min(m + 3, last)]
            sums[:] = 0
            for k in range(0, len(w), 4):
                a0, a1, a2, a3, b0, b1, b2, b3 = a[k], a[k + 1], a[k + 2], a[k + 3], b[k], b[k + 1], b[k + 2], b[k + 3]
                c0, c1, c2, c3, d0, d1, d2, d3 = c[k], c[k + 1], c[k + 2], c[k + 3], d[k], d[k + 1], d[k + 2], d[k + 3]
                for n in range(PANEL):
                    w0, w1, w2, w3 = w[k, n], w[k + 1, n], w[k + 2, n], w[k + 3, n]
                    sums[0, n] = sums[0, n] + a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3
                    sums[1, n] = sums[1, n] + b0 * w0 + b1 * w1 + b2 * w2 + b3 * w3
                    sums[2, n] = sums[2, n] + c0 * w0 + c1 * w1 + c2 * w2 + c3 * w3
                    sums[3, n] = sums[3, n] + d0 * w0 + d1 * w1 + d2 * w2 + d3 * w3
            for i in range(min(4, len(x) - m)):
                for n in range(PANEL):
                    out[m + i, p * PANEL + n] = sums[i, n]


@compiled
def _norm(x, weight, eps, out):
    """RMS norm of rows."""
    for m in range(len(x)):
        scale = np.float32(1) / np.sqrt(_dot(x[m], x[m]) / np.float32(x.shape[1]) + eps)
        for i in range(x.shape[1]):
            out[m, i] = x[m, i] * scale * weight[i]


@compiled
def _rotate(x, cos, sin):
    """Heads [heads, width] of one token turned to its position, in place."""
    half = x.shape[1] // 2
    for h in range(len(x)):
        for i in range(half):
            one, two = x[h, i], x[h, half + i]
            x[h, i], x[h, half + i] = one * cos[i] - two * sin[i], two * cos[i] + one * sin[i]


@compiled
def _attend(q, k, v, row, shared, scores, out):
    """Attention of one query [width] to a row and key head of a layer's cache, to as many places as there are scores."""
    chunk, scale, best = k.shape[3], np.float32(len(q) ** -0.5), np.float32(-np.inf)
    for t in range(len(scores)):
        scores[t] = _dot(q, k[t // chunk, row, shared, t % chunk]) * scale
        best = max(best, scores[t])
    total = np.float32(0)
    out[:] = 0
    for t in range(len(scores)):
        weight, value = math.exp(scores[t] - best), v[t // chunk, row, shared, t % chunk]
        total += weight
        for i in range(len(q)):
            out[i] += weight * value[i]
    for i in range(len(q)):
        out[i] /= total


@compiled
def through(x, rows, positions, k, v, layers, cos, sin, eps, out):
    """All layers and the last norm, of tokens whose keys and values come into the cache. A row's tokens see those before them.

    Args:
        x: [n, hidden] what enters the first layer, changed in place.
        rows: [n] in the cache; positions: [n] in the row.
        k, v: [layers, chunks, rows, key heads, chunk, width].
        cos, sin: [positions, width].
        out: [n, hidden].
    """
    n, (kv, chunk, width) = len(x), k.shape[3:]
    heads = layers.head_norms.shape[1] - kv
    h, delta, attended = np.empty_like(x), np.empty_like(x), np.empty((n, heads, width), np.float32)
    qkv, scores = np.empty((n, heads + 2 * kv, width), np.float32), np.empty(len(cos), np.float32)
    gate_up = np.empty((n, 2, layers.down.shape[2]), np.float32)
    gated = np.empty((n, layers.down.shape[2]), np.float32)
    for i in range(len(k)):
        _norm(x, layers.input_norm[i], eps, h)
        product(h, layers.qkv[i], qkv.reshape(n, -1))
        for m in range(n):
            row, p = rows[m], positions[m]
            for j in range(heads + kv):
                _norm(qkv[m, j : j + 1], layers.head_norms[i, j], eps, qkv[m, j : j + 1])
            _rotate(qkv[m, : heads + kv], cos[p], sin[p])
            for j in range(kv):
                for s in range(width):
                    k[i, p // chunk, row, j, p % chunk, s] = qkv[m, heads + j, s]
                    v[i, p // chunk, row, j, p % chunk, s] = qkv[m, heads + kv + j, s]
            for j in range(heads):
                _attend(qkv[m, j], k[i], v[i], row, j * kv // heads, scores[: p + 1], attended[m, j])
        product(attended.reshape(n, -1), layers.o[i], delta)
        x += delta
        _norm(x, layers.post_norm[i], eps, h)
        product(h, layers.gate_up[i], gate_up.reshape(n, -1))
        for m in range(n):
            for j in range(gated.shape[1]):
                gated[m, j] = gate_up[m, 0, j] / (np.float32(1) + math.exp(-gate_up[m, 0, j])) * gate_up[m, 1, j]
        product(gated, layers.down[i], delta)
        x += delta
    _norm(x, layers.norm, eps, out)
