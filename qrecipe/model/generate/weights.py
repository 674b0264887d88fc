"""The weights of talker and code predictor as decoding reads them: products of one input side by side, tables joined.

What is put together is a copy, which `refresh` brings up to date with the modules; all else are the modules' own tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from qrecipe.errors import EngineError
from qrecipe.model import layers
from qrecipe.model.load import LoadedBase

TOKENS_AT_ONCE = 64
"""Text tokens that are projected at once. Always as many: how a matrix product rounds depends on its shape."""


class Layer(NamedTuple):
    """One decoder layer. Products are [outputs, inputs]."""

    input_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    head_norms: torch.Tensor
    """[query heads + key heads, width]: the norm of each head."""
    o: torch.Tensor
    o_bias: torch.Tensor | None
    post_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


@dataclass(frozen=True)
class Stack:
    """The layers of the talker or of the code predictor."""

    layers: list[Layer]
    norm: torch.Tensor
    heads: int
    kv_heads: int
    width: int
    """Of a head."""
    hidden: int
    eps: float
    frequencies: torch.Tensor
    """[width / 2] float32, of the rotation."""
    activation: Callable[[torch.Tensor], torch.Tensor] | None
    """None for SiLU."""


class DecodingWeights:
    """All that a frame needs of a model."""

    def __init__(self, opened: LoadedBase) -> None:
        net = opened.net
        self._net = net
        self.device, self.dtype = opened.device, opened.compute_dtype
        self.config = opened.config.talker_config
        self.groups = opened.groups
        self._derived: list[tuple[torch.Tensor, Callable[[], torch.Tensor]]] = []
        self._own: list[Callable[[], torch.Tensor]] = []
        talker, predictor = net.talker, net.talker.code_predictor
        self.talker = self._stack(talker.model)
        self.predictor = self._stack(predictor.model)
        self.project = predictor.small_to_mtp_projection
        self.codec_head = self._tensor(lambda: talker.codec_head.weight)
        self.heads = [self._tensor(lambda h=h: h.weight) for h in predictor.lm_head]  # type: ignore[misc]
        self.codec = self._tensor(lambda: talker.model.codec_embedding.weight)
        self.tables = self._copy(lambda: torch.cat([e.weight.to(self.dtype) for e in predictor.model.codec_embedding]))
        self.codebook = len(self.tables) // len(self.heads)
        # what the predictor reads of an embedding is its projection, which never varies
        self.codec_in = self._copy(lambda: self.project(self.codec))
        self.tables_in = self._copy(lambda: self.project(self.tables))
        self._sources = self._places()

    def _stack(self, model: Any) -> Stack:
        c = model.config
        layers.require_known(c)
        if model.rotary_emb.inv_freq.shape[0] * 2 != c.head_dim:
            raise EngineError("this base rotates a part of each head, which qrecipe does not speak with")
        stack = [self._layer(layer, c) for layer in model.layers]
        norm = self._tensor(lambda: model.norm.weight)
        act = None if c.hidden_act == "silu" else model.layers[0].mlp.act_fn
        frequencies = model.rotary_emb.inv_freq.detach().float()
        return Stack(stack, norm, c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.hidden_size, c.rms_norm_eps, frequencies, act)

    def _layer(self, layer: Any, c: Any) -> Layer:
        a, m = layer.self_attn, layer.mlp
        projections = (a.q_proj, a.k_proj, a.v_proj)
        biased = a.q_proj.bias is not None
        heads, kv = c.num_attention_heads, c.num_key_value_heads
        return Layer(
            self._tensor(lambda: layer.input_layernorm.weight),
            self._copy(lambda: torch.cat([p.weight for p in projections])),
            self._copy(lambda: torch.cat([p.bias for p in projections])) if biased else None,
            self._copy(lambda: torch.cat([a.q_norm.weight.expand(heads, -1), a.k_norm.weight.expand(kv, -1)])),
            self._tensor(lambda: a.o_proj.weight),
            self._tensor(lambda: a.o_proj.bias) if a.o_proj.bias is not None else None,
            self._tensor(lambda: layer.post_attention_layernorm.weight),
            self._copy(lambda: torch.cat([m.gate_proj.weight, m.up_proj.weight])),
            self._tensor(lambda: m.down_proj.weight),
        )

    def _copy(self, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            made = make().detach().to(self.device, self.dtype)
        self._derived.append((made, make))
        return made

    def _tensor(self, get: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The module's own tensor, or a copy where it learns in another number format."""
        tensor = get().detach()
        if tensor.dtype != self.dtype:
            return self._copy(get)
        self._own.append(get)
        return tensor

    def _places(self) -> list[tuple[int, torch.dtype]]:
        return [(get().data_ptr(), get().dtype) for get in self._own]

    @torch.no_grad()
    def refresh(self) -> bool:
        """Brings copies up to date. False if the modules' own tensors are others than before: then everything is made anew."""
        if self._places() != self._sources:
            return False
        for copy, make in self._derived:
            copy.copy_(make())
        return True

    @torch.no_grad()
    def text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Projected text embeddings: [n] on the device -> [n, hidden], in blocks of one size."""
        talker = self._net.talker
        padded = F.pad(tokens, (0, -len(tokens) % TOKENS_AT_ONCE))
        parts = [talker.text_projection(talker.model.text_embedding(part)) for part in torch.split(padded, TOKENS_AT_ONCE)]
        table: torch.Tensor = torch.cat(parts)[: len(tokens)].to(self.dtype)
        return table

    def rotation(self, stack: Stack, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of `count` positions, [count, width] each: both halves of a head are turned by the same angles."""
        positions = torch.arange(count, device=self.device, dtype=torch.float32)
        angle = torch.outer(positions, stack.frequencies.to(self.device)).repeat(1, 2)
        return angle.cos().to(self.dtype), angle.sin().to(self.dtype)
