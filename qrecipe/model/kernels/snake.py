"""The codec decoder's activation as one Triton kernel. Only imported where triton is."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

BLOCK = 1024
"""Samples that one program computes."""


@triton.jit
def _snake(x_at, alpha_at, beta_at, out_at, channels, length, least, block: tl.constexpr):
    row, lane = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    real = lane < length
    channel = row % channels
    alpha, beta = tl.exp(tl.load(alpha_at + channel)), tl.exp(tl.load(beta_at + channel))
    x = tl.load(x_at + row * length + lane, mask=real, other=0.0)
    wave = tl.sin(x * alpha)
    tl.store(out_at + row * length + lane, x + wave * wave / (beta + least), mask=real)


def activated(activation: Any, x: torch.Tensor) -> torch.Tensor:
    """x + sin²(x exp(alpha)) / exp(beta) by channels (Ziyin et al. 2020, arXiv:2006.08195): [n, channels, length] float32."""
    x = x.contiguous()
    out = torch.empty_like(x)
    n, channels, length = x.shape
    grid = (n * channels, triton.cdiv(length, BLOCK))
    _snake[grid](x, activation.alpha, activation.beta, out, channels, length, activation.no_div_by_zero, block=BLOCK, num_warps=4)
    return out
