"""The stock decoder layers over rows laid end to end: no padding, and no results that nobody reads.

The modules and weights are the stock ones, low-rank deltas included; only the order of calls is written here.
`tests/model/test_layers.py` holds them to the stock forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from qrecipe.errors import EngineError
from qrecipe.model import attention
from qrecipe.model.attention import AllInOne, Norm, PackedRows, Rotation
from qrecipe.model.kernels import fused
from qrecipe.model.kernels.flash import Kernel, traceable
from qrecipe.model.lora import Linear, apply, apply_all, joint, linear

Keep = Callable[[torch.Tensor], torch.Tensor]
"""[n, width] -> [kept, width]: the positions whose result is read."""


BLOCK = 4
"""Layers that are compiled as one: a call costs the host as much for one layer as for several, and a compiler works longer on more."""


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
        own = layer.self_attn
        q, k, v = map(linear, (own.q_proj, own.k_proj, own.v_proj))
        return cls(q, k, v, *((m.weight, m.variance_epsilon) for m in (layer.input_layernorm, own.q_norm, own.k_norm)))


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
    kernel = attention.kernel_for(x, rows) if fused.compiling() else None
    if kernel is None or not traceable(kernel):
        for layer in layers:
            x = _layer([layer], x, rotation, rows, None)
        return x
    weights = tuple((AttnWeights.of(layer), MlpWeights.of(layer)) for layer in layers)
    length = rows.longest if kernel is attention.short else None
    how = Attention(layers[0].self_attn.scaling, kernel, length, attention.all_in_one_for(rows, x, 2 * rotation[0].shape[-1]))
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
    all_in_one = attention.all_in_one_for(rows, x, 2 * rotation[0].shape[-1]) if fused.compiling() else None
    if all_in_one is not None:
        how = Attention(scale, attention.short, rows.longest, all_in_one)
        attended = fused.whole(_attended, (x, rotation, rows.bounds), (AttnWeights.of(layer), how, rows.longest))
    else:
        q, k, v = fused.whole(_qkv_proj, (x, rotation), (AttnWeights.of(layer),))
        attended = attention.attend(q, k, v, rows, scale).flatten(-2)
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
