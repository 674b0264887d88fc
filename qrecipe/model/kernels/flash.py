"""Attention over rows end to end by one kernel: torch's own, else the package flash-attn's. Nothing is padded.

A kernel is tried once on rows whose result is known, since what it takes differs by version and by GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import accumulate
from typing import Any, cast

import torch
import torch.nn.functional as F

from qrecipe.model.stock import silence

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, float], torch.Tensor]
"""Queries [n, heads, width], keys and values [n, key heads, width], bounds [rows + 1] int32, the longest row, scale -> [n, heads, width]."""


def varlen(x: torch.Tensor) -> Kernel | None:
    """The kernel for tensors like `x`; None where there is none: on a CPU, and in float32."""
    return _kernel() if x.device.type == "cuda" and x.dtype in (torch.bfloat16, torch.float16) else None


@cache
def _kernel() -> Kernel | None:
    for made in _candidates():
        with suppress(Exception), silence():  # whatever a kernel that does not run here makes of it
            if _right(made):
                return made
    return None


@cache
def traceable(kernel: Kernel) -> bool:
    """Whether what calls a kernel can be compiled, for any number of rows. The first answer takes seconds."""
    if kernel is not _kernel():
        return True  # made of plain operations

    def between(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, ruler: torch.Tensor) -> torch.Tensor:
        return 2.0 * kernel(2.0 * q, k, v, bounds, ruler.shape[0], 0.125)

    compiled = torch.compile(between, fullgraph=True)

    def called(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, longest: int, scale: float) -> torch.Tensor:
        inputs = (0.5 * q, k, v, bounds, torch.empty(longest, device=q.device))
        for tensor in inputs:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return 0.5 * compiled(*inputs)

    with suppress(Exception), silence():  # whatever a compiler makes of a kernel that it does not know
        return _right(called) and _right(called, (9, 33, 200))
    return False


def _candidates() -> Iterator[Kernel]:
    with suppress(ImportError):
        from torch.nn.attention.varlen import varlen_attn

        takes = inspect.signature(varlen_attn).parameters
        causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in takes else {"is_causal": True}
        grouped = {"enable_gqa": True} if "enable_gqa" in takes else {}

        def native(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, longest: int, scale: float, **more: Any
        ) -> torch.Tensor:
            out: Any = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scale, **causal, **more)
            return cast(torch.Tensor, out)

        def shared(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, longest: int, scale: float) -> torch.Tensor:
            return native(q, k, v, bounds, longest, scale, **grouped)

        def repeated(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, longest: int, scale: float) -> torch.Tensor:
            groups = q.shape[1] // k.shape[1]
            return native(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), bounds, longest, scale)

        yield from (shared, repeated)
    with suppress(ImportError):
        with silence():
            from flash_attn import flash_attn_varlen_func

        def package(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, longest: int, scale: float) -> torch.Tensor:
            out: torch.Tensor = flash_attn_varlen_func(q, k, v, bounds, bounds, longest, longest, softmax_scale=scale, causal=True)
            return out

        yield package


def _right(kernel: Kernel, lengths: tuple[int, ...] = (5, 70), device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> bool:
    """Whether a kernel gives the attention of rows, and its derivative, with two query heads to a key head; asked anywhere."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
        return _agrees(kernel, lengths, device, dtype)


def _agrees(kernel: Kernel, lengths: tuple[int, ...], device: str, dtype: torch.dtype) -> bool:
    scale = 0.125
    drawn = torch.Generator().manual_seed(0)
    inputs = [torch.randn(sum(lengths), heads, 64, generator=drawn).to(device, dtype).requires_grad_() for heads in (4, 2, 2)]
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    out = kernel(inputs[0], inputs[1], inputs[2], bounds, max(lengths), scale)
    q, k, v = (t.detach().float().requires_grad_() for t in inputs)
    parts = []
    for a, b, c in zip(*(torch.split(t, list(lengths)) for t in (q, k, v)), strict=True):
        b, c = (t.repeat_interleave(2, 1).transpose(0, 1) for t in (b, c))
        parts.append(F.scaled_dot_product_attention(a.transpose(0, 1), b, c, is_causal=True, scale=scale).transpose(0, 1))
    known = torch.cat(parts)
    pull = torch.randn(known.shape, generator=drawn).to(device)
    ours = (out, *torch.autograd.grad(out, inputs, pull.to(dtype)))
    theirs = (known, *torch.autograd.grad(known, (q, k, v), pull))
    return all(bool((a.float() - b).norm() < 0.03 * b.norm()) for a, b in zip(ours, theirs, strict=True))
