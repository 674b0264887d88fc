"""Causal attention of rows laid end to end, each within itself: the ways to compute it, and which of them a machine can take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from qrecipe.model.kernels import fused
from qrecipe.model.kernels.flash import Kernel, varlen
from qrecipe.model.stock import silence

SHORT = 32
"""Rows of a fixed length up to this attend by plain matrix products on a GPU: a kernel made for long rows computes a tile of 128 for each."""
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Of padded attention on a GPU."""
Norm = tuple[torch.Tensor, float]
"""Weight and epsilon."""
Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of every position, [n, 1, head width / 2] float32 each."""
AllInOne = Callable[[torch.Tensor, Rotation, tuple[Norm, Norm], int, int, float], torch.Tensor]
"""`short_attention.attend`: norms, rotation and attention of a layer in one kernel, for rows of one short length."""


@dataclass
class PackedRows:
    """Rows laid end to end."""

    lengths: Sequence[int]
    device: torch.device
    fixed: bool = False
    """Whether all have one length, which never varies: then what is compiled is compiled for it."""

    @cached_property
    def alike(self) -> bool:
        """Whether all rows have one length."""
        return len(set(self.lengths)) == 1

    @cached_property
    def longest(self) -> int:
        """Positions of the longest row."""
        return max(self.lengths)

    @cached_property
    def position(self) -> torch.Tensor:
        """[n] where each position stands in its row."""
        if self.alike:
            return torch.arange(self.longest, device=self.device).repeat(len(self.lengths))
        sizes = torch.tensor(self.lengths)
        starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        return (torch.arange(len(starts)) - starts).to(self.device, non_blocking=True)

    @cached_property
    def grid(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[rows x longest] position of each place of a padded grid (a row's last one beyond its end), and [n] place of each position."""
        sizes = torch.tensor(self.lengths).unsqueeze(1)
        places = torch.arange(self.longest)
        there = (sizes.cumsum(0) - sizes + torch.minimum(places, sizes - 1)).flatten()
        back = torch.nonzero((places < sizes).flatten()).squeeze(-1)
        return there.to(self.device, non_blocking=True), back.to(self.device, non_blocking=True)

    @cached_property
    def bounds(self) -> torch.Tensor:
        """[rows + 1] int32: where rows begin and end."""
        if self.alike:
            return torch.arange(len(self.lengths) + 1, dtype=torch.int32, device=self.device) * self.longest
        return F.pad(torch.tensor(self.lengths).cumsum(0), (1, 0)).to(torch.int32).to(self.device, non_blocking=True)

    @cached_property
    def ruler(self) -> torch.Tensor:
        """[longest] nothing: its length says how long the longest row is to what is compiled for any."""
        return torch.empty(self.longest, device=self.device)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: PackedRows, scale: float) -> torch.Tensor:
    """Causal attention within each row: [n, heads, width], twice [n, key heads, width] -> [n, heads, width]."""
    kernel = kernel_for(q, rows)
    if kernel is short:
        out: torch.Tensor = fused.whole(short, (q, k, v, rows.bounds), (rows.longest, scale))
        return out
    if kernel is not None:
        return kernel(q, k, v, rows.bounds, rows.longest, scale)
    if rows.alike:
        q, k, v = (t.view(-1, rows.longest, *t.shape[1:]) for t in (q, k, v))
        return _sdpa(q, k, v, scale).flatten(0, 1)
    if q.device.type == "cuda":
        return _padded(q, k, v, rows, scale)
    sizes = list(rows.lengths)
    parts = zip(torch.split(q, sizes), torch.split(k, sizes), torch.split(v, sizes), strict=True)
    return torch.cat([_sdpa(a.unsqueeze(0), b.unsqueeze(0), c.unsqueeze(0), scale).squeeze(0) for a, b, c in parts])


def kernel_for(x: torch.Tensor, rows: PackedRows) -> Kernel | None:
    """Attention of all rows in one call; None where no kernel does that."""
    return short if by_products(rows, x.device) else varlen(x)


def by_products(rows: PackedRows, device: torch.device) -> bool:
    """Whether rows attend by plain matrix products."""
    return device.type == "cuda" and rows.fixed and rows.longest <= SHORT


def short(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, length: int, scale: float) -> torch.Tensor:
    """For rows of one length."""
    q, k, v = (t.view(-1, length, *t.shape[1:]) for t in (q, k, v))
    return _products(q, k, v, scale).flatten(0, 1)


def _products(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """[rows, length, heads, width] each; the query heads of one key head are one matrix."""
    count, length, heads, width = q.shape
    shared = k.shape[2]
    q = q.view(count, length, shared, heads // shared, width).permute(0, 2, 3, 1, 4).reshape(count * shared, -1, width)
    k, v = (t.transpose(1, 2).reshape(count * shared, length, width) for t in (k, v))
    later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1).repeat(heads // shared, 1)
    scores = (torch.bmm(q, k.transpose(1, 2)).float() * scale).masked_fill(later, -torch.inf).softmax(-1)
    out = torch.bmm(scores.to(v.dtype), v)
    return out.view(count, heads, length, width).transpose(1, 2)


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """[rows, length, heads, width] each; on the CPU key heads are repeated to as many as there are query heads.

    On a GPU not by cudnn, which plans anew for every size that it has not seen: 1.3 ms of the host's time for a call of 27 us.
    """
    groups = q.shape[2] // k.shape[2]
    if groups > 1 and q.device.type == "cpu":
        k, v = (t.unsqueeze(3).expand(-1, -1, -1, groups, -1).flatten(2, 3) for t in (k, v))
        groups = 1
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    with sdpa_kernel(KERNELS) if q.device.type == "cuda" else nullcontext():
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=groups > 1)
    return out.transpose(1, 2)


def _padded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: PackedRows, scale: float) -> torch.Tensor:
    """Pads to the longest row for the kernel alone: attention is causal and padding stands on the right, so nothing reads it."""
    q, k, v = (_Pad.apply(t, *rows.grid).view(len(rows.lengths), rows.longest, *t.shape[1:]) for t in (q, k, v))
    out: torch.Tensor = _Unpad.apply(_sdpa(q, k, v, scale).flatten(0, 1), *rows.grid)
    return out


class _Pad(torch.autograd.Function):
    """Rows end to end -> a grid; what stands beyond a row's end repeats its last position and is never read."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, there: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back)
        return x[there]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return gradient[back], None, None


class _Unpad(torch.autograd.Function):
    """The other way round."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, there: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back)
        ctx.size = x.shape
        return x[back]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (back,) = ctx.saved_tensors
        unpadded = gradient.new_zeros(ctx.size)
        unpadded[back] = gradient
        return unpadded, None, None


def all_in_one_for(rows: PackedRows, x: torch.Tensor, width: int) -> AllInOne | None:
    """The kernel for all between the projections, for rows of one short length and heads of this width; None without one."""
    return _tried(width, rows.longest) if by_products(rows, x.device) and x.dtype == torch.bfloat16 else None


@cache
def _tried(width: int, length: int) -> AllInOne | None:
    """The kernel, if it gives here what separate operations give, and their derivative."""
    with suppress(Exception), silence():  # whatever a GPU, or a triton that is not there, makes of it
        from qrecipe.model.kernels import short_attention

        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cuda", enabled=False), fused.compiled(False):
            if agrees(short_attention.attend, width, length, torch.device("cuda"), torch.bfloat16):
                return short_attention.attend
    return None


def agrees(all_in_one: AllInOne, width: int, length: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a kernel gives what separate operations give in float32, with two query heads to a key head."""
    drawn = torch.Generator().manual_seed(0)
    side_by_side = torch.randn(3 * length, 8 * width, generator=drawn).to(device, dtype).requires_grad_()
    angle = torch.randn(length, 1, width // 2, generator=drawn).to(device).repeat(3, 1, 1)
    weights = [(0.5 + torch.rand(width, generator=drawn)).to(device).requires_grad_() for _ in range(2)]
    pull = torch.randn(3 * length, 4 * width, generator=drawn).to(device)
    results = []
    for attend_qkv, qkv in ((all_in_one, side_by_side), (_one_by_one, side_by_side.detach().float().requires_grad_())):
        out = attend_qkv(qkv, (angle.cos(), angle.sin()), ((weights[0], 1e-6), (weights[1], 1e-6)), 4, length, width**-0.5)
        results.append((out, *torch.autograd.grad(out, (qkv, *weights), pull.to(out.dtype))))
    return all(bool((a.float() - b).norm() < 0.03 * b.norm()) for a, b in zip(*results, strict=True))


def _one_by_one(
    side_by_side: torch.Tensor, rotation: Rotation, norms: tuple[Norm, Norm], heads: int, length: int, scale: float
) -> torch.Tensor:
    """`AllInOne` as separate operations."""
    parts = side_by_side.view(len(side_by_side), -1, len(norms[0][0]))
    shared = (parts.shape[1] - heads) // 2
    q, k, v = torch.split(parts, [heads, shared, shared], 1)
    q, k = (fused.rotate(fused.rms_norm(t, *norm), *rotation) for t, norm in zip((q, k), norms, strict=True))
    q, k, v = (t.reshape(-1, length, *t.shape[1:]) for t in (q, k, v))
    return _products(q, k, v, scale).flatten(0, 1).flatten(-2)
