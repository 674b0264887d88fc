"""The stock decoder layers over rows laid end to end: no padding, and no results that nobody reads.

The modules and weights are the stock ones, low-rank deltas included; only the order of calls is written here.
 `tests/model/test_layers.py` holds them to the stock forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from qrecipe.errors import EngineError
from qrecipe.model.kernels import fused
from qrecipe.model.kernels.flash import Kernel, traceable, varlen
from qrecipe.model.lora import Linear, apply, apply_all, joint, linear
from qrecipe.model.stock import silence

Keep = Callable[[torch.Tensor], torch.Tensor]
"""[n, width] -> [kept, width]: the positions whose result is read."""


SHORT = 32
"""Rows of a fixed length up to this attend by plain matrix products on a GPU: a kernel made for long rows computes a tile of 128 for each."""


BLOCK = 4
"""Layers that are compiled as one: a call costs the host as much for one layer as for several, and a compiler works longer on more."""


KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Of padded attention on a GPU."""


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


Norm = tuple[torch.Tensor, float]
"""Weight and epsilon."""
Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of every position, [n, 1, head width / 2] float32 each."""
AllInOne = Callable[[torch.Tensor, Rotation, tuple[Norm, Norm], int, int, float], torch.Tensor]
"""`short_attention.attend`: norms, rotation and attention of a layer in one kernel, for rows of one short length."""


class AttnWeights(NamedTuple):
    """Weights of a layer up to its attention; the norms are of its input, of queries and of keys."""

    q: Linear
    k: Linear
    v: Linear
    norm: Norm
    q_norm: Norm
    k_norm: Norm

    @classmethod
    def of(cls, layer: Any) -> AttnWeights:
        """Those of a stock layer."""
        attention = layer.self_attn
        q, k, v = map(linear, (attention.q_proj, attention.k_proj, attention.v_proj))
        return cls(q, k, v, *((m.weight, m.variance_epsilon) for m in (layer.input_layernorm, attention.q_norm, attention.k_norm)))


class MlpWeights(NamedTuple):
    """Weights of a layer after its attention; `act` is an activation other than SiLU."""

    o: Linear
    gate: Linear
    up: Linear
    down: Linear
    norm: Norm
    act: Callable[..., Any] | None

    @classmethod
    def of(cls, layer: Any) -> MlpWeights:
        """Those of a stock layer."""
        mlp, norm = layer.mlp, layer.post_attention_layernorm
        o, gate, up, down = map(linear, (layer.self_attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        return cls(o, gate, up, down, (norm.weight, norm.variance_epsilon), None if mlp.config.hidden_act == "silu" else mlp.act_fn)


class Attention(NamedTuple):
    """How a compiled layer attends."""

    scale: float
    kernel: Kernel
    length: int | None
    """Of rows that have one, a number that never varies."""
    all_in_one: AllInOne | None


def decode(
    model: Any, x: torch.Tensor, rows: PackedRows, keep: Keep | None = None, span: slice = slice(None), recompute: bool = False
) -> torch.Tensor:
    """Runs decoder layers, and the final norm after the last.

    Args:
        model: the stock `Qwen3TTSTalkerModel` or `Qwen3TTSTalkerCodePredictorModel`.
        x: [n, hidden] what enters the first of these layers.
        keep: which positions are read afterwards; the last layer computes no others beyond its attention.
        span: which layers. With an end, what would enter the layer there is returned, for all positions.
        recompute: keep each layer's input alone and compute the layer again in the backward pass.
    """
    require_known(model.config)
    rotation = _rotation(model, rows, x)
    last, start = len(model.layers) - 1, span.start or 0
    layers = list(enumerate(model.layers[span], start=start))
    ahead = [layer for i, layer in layers if i < last or keep is None]
    recompute = recompute and torch.is_grad_enabled()
    for block in _blocks(ahead, BLOCK if fused.compiling() and not recompute else 1):
        x = _checkpointed(recompute, block, _block, x, rotation, rows)
    if len(ahead) < len(layers):
        x = _checkpointed(recompute, [model.layers[last]], _layer, x, rotation, rows, keep)
    if span.stop is not None:
        return x
    return _norm(model.norm, x if start <= last or keep is None else keep(x))


def _checkpointed(on: bool, layers: list[Any], run: Callable[..., torch.Tensor], x: torch.Tensor, *settings: Any) -> torch.Tensor:
    """Runs layers; with `on`, keeps only their input and computes them again in the backward pass."""
    if on and (x.requires_grad or any(p.requires_grad for layer in layers for p in layer.parameters())):
        out: torch.Tensor = checkpoint(run, layers, x, *settings, use_reentrant=False, preserve_rng_state=False)
        return out
    return run(layers, x, *settings)


def _blocks(layers: list[Any], most: int) -> list[list[Any]]:
    """Layers in blocks of one size, so that they are compiled once; of two sizes where only small ones would divide them."""
    count = len(layers)
    even = max((size for size in range(1, most + 1) if count % size == 0), default=1)
    size = even if 2 * even > most else -(-count // max(1, -(-count // most)))
    return [layers[i : i + size] for i in range(0, count, max(1, size))]


def _kernel(x: torch.Tensor, rows: PackedRows) -> Kernel | None:
    """Attention of all rows in one call; None where no kernel does that."""
    return _short if by_products(rows, x.device) else varlen(x)


def _all_in_one(rows: PackedRows, x: torch.Tensor, width: int) -> AllInOne | None:
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


def require_known(config: Any) -> None:
    """Raises `EngineError` for attention that is not computed here."""
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if sliding or getattr(config, "sliding_window", None) is not None:
        raise EngineError("this base attends through a sliding window, which qrecipe does not train")


def _rotation(model: Any, rows: PackedRows, x: torch.Tensor) -> Rotation:
    """The rotation of a model. The talker's three position ids are always equal."""
    grid = torch.arange(rows.longest, device=x.device).unsqueeze(0)
    if model.rotary_emb.inv_freq.shape[0] * 2 != model.config.head_dim:
        raise EngineError("this base rotates a part of each head, which qrecipe does not train")
    multimodal = hasattr(model, "text_embedding")
    parts = model.rotary_emb(x.new_empty(0, dtype=torch.float32), grid.unsqueeze(0).expand(3, -1, -1) if multimodal else grid)
    cos, sin = ((part[0, 0] if multimodal else part[0])[:, : model.config.head_dim // 2] for part in parts)
    return cos[rows.position].unsqueeze(1), sin[rows.position].unsqueeze(1)


def _norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    return fused.rms_norm(x, module.weight, module.variance_epsilon)


def _block(layers: list[Any], x: torch.Tensor, rotation: Rotation, rows: PackedRows) -> torch.Tensor:
    """Whole layers, for all positions."""
    kernel = _kernel(x, rows) if fused.compiling() else None
    if kernel is None or not traceable(kernel):
        for layer in layers:
            x = _layer([layer], x, rotation, rows, None)
        return x
    weights = tuple((AttnWeights.of(layer), MlpWeights.of(layer)) for layer in layers)
    length = rows.longest if kernel is _short else None
    how = Attention(layers[0].self_attn.scaling, kernel, length, _all_in_one(rows, x, 2 * rotation[0].shape[-1]))
    out: torch.Tensor = fused.whole(_piece, (x, rotation, rows.bounds, rows.ruler), (weights, how))
    return out


def _piece(
    x: torch.Tensor, rotation: Rotation, bounds: torch.Tensor, ruler: torch.Tensor, layers: tuple[Any, ...], how: Attention
) -> torch.Tensor:
    """`_block` in terms of tensors alone."""
    for attn, mlp in layers:
        attended = _attended(x, rotation, bounds, attn, how, ruler.shape[0] if how.length is None else how.length)
        x = _out_and_mlp(x, attended, mlp)
    return x


def _attended(x: torch.Tensor, rotation: Rotation, bounds: torch.Tensor, attn: AttnWeights, how: Attention, length: int) -> torch.Tensor:
    """Attention output of a layer, [n, heads x width]."""
    weight = joint((attn.q, attn.k, attn.v), x) if how.all_in_one is not None else None
    if how.all_in_one is None or weight is None:
        return how.kernel(*_qkv_proj(x, rotation, attn), bounds, length, how.scale).flatten(-2)
    side_by_side = F.linear(fused.rms_norm(x, *attn.norm), weight)
    heads = len(attn.q[0]) // len(attn.q_norm[0])  # type: ignore[arg-type]  # no weight is a number
    return how.all_in_one(side_by_side, rotation, (attn.q_norm, attn.k_norm), heads, length, how.scale)


def _layer(layers: list[Any], x: torch.Tensor, rotation: Rotation, rows: PackedRows, keep: Keep | None) -> torch.Tensor:
    """One layer; after its attention only what is kept."""
    (layer,) = layers
    scale = layer.self_attn.scaling
    all_in_one = _all_in_one(rows, x, 2 * rotation[0].shape[-1]) if fused.compiling() else None
    if all_in_one is not None:
        how = Attention(scale, _short, rows.longest, all_in_one)
        attended = fused.whole(_attended, (x, rotation, rows.bounds), (AttnWeights.of(layer), how, rows.longest))
    else:
        q, k, v = fused.whole(_qkv_proj, (x, rotation), (AttnWeights.of(layer),))
        attended = attend(q, k, v, rows, scale).flatten(-2)
    if keep is not None:
        x, attended = keep(x), keep(attended)
    out: torch.Tensor = fused.whole(_out_and_mlp, (x, attended), (MlpWeights.of(layer),))
    return out


def _qkv_proj(x: torch.Tensor, rotation: Rotation, attn: AttnWeights) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of a layer, [n, heads, width] each, rotated to their positions."""
    h = fused.rms_norm(x, *attn.norm)
    heads = (len(x), -1, 2 * rotation[0].shape[-1])
    queries, keys, values = (part.view(heads) for part in apply_all((attn.q, attn.k, attn.v), h))
    queries, keys = fused.rms_norm(queries, *attn.q_norm), fused.rms_norm(keys, *attn.k_norm)
    return fused.rotate(queries, *rotation), fused.rotate(keys, *rotation), values


def _out_and_mlp(x: torch.Tensor, attended: torch.Tensor, mlp: MlpWeights) -> torch.Tensor:
    """The output projection and the MLP: layer input `x` [n, hidden] and attention output [n, heads x width] -> [n, hidden]."""
    x = x + apply(mlp.o, attended)
    h = fused.rms_norm(x, *mlp.norm)
    g, u = apply_all((mlp.gate, mlp.up), h)
    return x + apply(mlp.down, fused.swiglu(g, u) if mlp.act is None else mlp.act(g) * u)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: PackedRows, scale: float) -> torch.Tensor:
    """Causal attention within each row: [n, heads, width], twice [n, key heads, width] -> [n, heads, width]."""
    kernel = _kernel(q, rows)
    if kernel is _short:
        out: torch.Tensor = fused.whole(_short, (q, k, v, rows.bounds), (rows.longest, scale))
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


def by_products(rows: PackedRows, device: torch.device) -> bool:
    """Whether rows attend by plain matrix products."""
    return device.type == "cuda" and rows.fixed and rows.longest <= SHORT


def _short(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, length: int, scale: float) -> torch.Tensor:
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
