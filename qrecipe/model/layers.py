"""The stock decoder layers over rows laid end to end: no padding, and nothing computed that no one reads.

The modules and weights are the stock ones, low-rank deltas included; what is written here is the order in which they
are called. `tests/model/test_layers.py` holds them to the stock forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from qrecipe.errors import EngineError
from qrecipe.model import fused
from qrecipe.model.stock import silence

Keep = Callable[[torch.Tensor], torch.Tensor]
"""[n, width] -> [kept, width]: the positions whose result is read."""


SHORT = 32
"""Rows of one length up to this attend by plain matrix products on a GPU: a kernel made for long rows computes a tile of 128 for each."""


ON_A_CPU = 400
"""Frames that are computed at once on a CPU: what more of them keep its caches do not hold, and a sixth of the time is waiting for memory."""


@dataclass
class Rows:
    """Rows laid end to end."""

    lengths: Sequence[int]
    device: torch.device

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
        return F.pad(torch.tensor(self.lengths).cumsum(0), (1, 0)).to(self.device, torch.int32, non_blocking=True)


def decode(
    model: Any,
    x: torch.Tensor,
    rows: Rows,
    keep: Keep | None = None,
    start: int = 0,
    stop: int | None = None,
    recompute: bool = False,
) -> torch.Tensor:
    """Runs decoder layers, and the final norm after the last.

    Args:
        model: the stock `Qwen3TTSTalkerModel` or `Qwen3TTSTalkerCodePredictorModel`.
        x: [n, hidden] what enters layer `start`.
        keep: which positions are read afterwards; the last layer computes no others beyond its attention.
        stop: the layer before which to stop; what would enter it is returned, for all positions.
        recompute: keep each layer's input alone and compute the layer again in the backward pass.
    """
    require_known(model.config)
    cos, sin = _rotation(model, rows, x)
    last = len(model.layers) - 1
    for i, layer in enumerate(model.layers[start:stop], start=start):
        settings = (layer, x, cos, sin, rows, keep if i == last else None)
        again = recompute and torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in layer.parameters()))
        x = checkpoint(_layer, *settings, use_reentrant=False, preserve_rng_state=False) if again else _layer(*settings)
    if stop is not None:
        return x
    return _norm(model.norm, x if start <= last or keep is None else keep(x))


def require_known(config: Any) -> None:
    """Raises `EngineError` for attention that is not computed here."""
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if sliding or getattr(config, "sliding_window", None) is not None:
        raise EngineError("this base attends through a sliding window, which qrecipe does not train")


def _rotation(model: Any, rows: Rows, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of every position, [n, 1, head width / 2] float32. The talker's three position ids are always equal."""
    grid = torch.arange(rows.longest, device=x.device).unsqueeze(0)
    if model.rotary_emb.inv_freq.shape[0] * 2 != model.config.head_dim:
        raise EngineError("this base rotates a part of each head, which qrecipe does not train")
    multimodal = hasattr(model, "text_embedding")
    found = model.rotary_emb(x.new_empty(0, dtype=torch.float32), grid.unsqueeze(0).expand(3, -1, -1) if multimodal else grid)
    cos, sin = ((part[0, 0] if multimodal else part[0])[:, : model.config.head_dim // 2] for part in found)
    return cos[rows.position].unsqueeze(1), sin[rows.position].unsqueeze(1)


def _norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    return fused.rms_norm(x, module.weight, module.variance_epsilon)


def _layer(layer: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rows: Rows, keep: Keep | None) -> torch.Tensor:
    attention = layer.self_attn
    h = _norm(layer.input_layernorm, x)
    heads = (-1, attention.head_dim)
    q, k = (
        fused.norm_rotate(project(h).unflatten(-1, heads), norm.weight, norm.variance_epsilon, cos, sin)
        for project, norm in ((attention.q_proj, attention.q_norm), (attention.k_proj, attention.k_norm))
    )
    v = attention.v_proj(h).unflatten(-1, heads)
    attended = attend(q, k, v, rows, attention.scaling).flatten(-2)
    if keep is not None:
        x, attended = keep(x), keep(attended)
    after = layer.post_attention_layernorm
    x, h = fused.add_norm(x, attention.o_proj(attended), after.weight, after.variance_epsilon)
    mlp = layer.mlp
    gate, up = mlp.gate_proj(h), mlp.up_proj(h)
    down: torch.Tensor = mlp.down_proj(fused.swiglu(gate, up) if mlp.config.hidden_act == "silu" else mlp.act_fn(gate) * up)
    return x + down


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows, scale: float) -> torch.Tensor:
    """Causal attention within each row: [n, heads, width], twice [n, key heads, width] -> [n, heads, width]."""
    on_gpu = q.device.type == "cuda"
    if rows.alike:
        return _alike(q, k, v, rows, scale, by_products=on_gpu and rows.longest <= SHORT)
    if on_gpu and (flash := _flash()) is not None:
        bounds = {"cu_seqlens_q": rows.bounds, "cu_seqlens_k": rows.bounds, "max_seqlen_q": rows.longest, "max_seqlen_k": rows.longest}
        found: torch.Tensor = flash(q, k, v, **bounds, softmax_scale=scale, causal=True)
        return found
    if on_gpu:
        return _padded(q, k, v, rows, scale)
    sizes = list(rows.lengths)
    parts = zip(torch.split(q, sizes), torch.split(k, sizes), torch.split(v, sizes), strict=True)
    return torch.cat([_sdpa(a.unsqueeze(0), b.unsqueeze(0), c.unsqueeze(0), scale).squeeze(0) for a, b, c in parts])


@cache
def _flash() -> Any:
    """`flash_attn_varlen_func` where the package is installed: attention over rows end to end. None elsewhere."""
    with suppress(ImportError), silence():
        from flash_attn import flash_attn_varlen_func

        return flash_attn_varlen_func
    return None


def _alike(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows, scale: float, by_products: bool) -> torch.Tensor:
    q, k, v = (t.view(len(rows.lengths), rows.longest, *t.shape[1:]) for t in (q, k, v))
    return (_products(q, k, v, scale) if by_products else _sdpa(q, k, v, scale)).flatten(0, 1)


def _products(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """[rows, length, heads, width] each; the query heads of one key head are one matrix."""
    count, length, heads, width = q.shape
    shared = k.shape[2]
    q = q.view(count, length, shared, heads // shared, width).permute(0, 2, 3, 1, 4).reshape(count * shared, -1, width)
    k, v = (t.transpose(1, 2).reshape(count * shared, length, width) for t in (k, v))
    later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1).repeat(heads // shared, 1)
    scores = (torch.bmm(q, k.transpose(1, 2)).float() * scale).masked_fill(later, -torch.inf).softmax(-1)
    found = torch.bmm(scores.to(v.dtype), v)
    return found.view(count, heads, length, width).transpose(1, 2)


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """[rows, length, heads, width] each; on the CPU key heads are repeated to as many as there are query heads."""
    groups = q.shape[2] // k.shape[2]
    if groups > 1 and q.device.type == "cpu":
        k, v = (t.unsqueeze(3).expand(-1, -1, -1, groups, -1).flatten(2, 3) for t in (k, v))
        groups = 1
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=groups > 1).transpose(1, 2)


def _padded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: Rows, scale: float) -> torch.Tensor:
    """Pads to the longest row for the kernel alone: attention is causal and padding stands on the right, so nothing reads it."""
    q, k, v = (_Pad.apply(t, *rows.grid).view(len(rows.lengths), rows.longest, *t.shape[1:]) for t in (q, k, v))
    found: torch.Tensor = _Unpad.apply(_sdpa(q, k, v, scale).flatten(0, 1), *rows.grid)
    return found


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
        found = gradient.new_zeros(ctx.size)
        found[back] = gradient
        return found, None, None
