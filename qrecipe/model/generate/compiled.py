"""Decoding of a small model on a CPU: all layers are one compiled call, and only rows in use are computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qrecipe.model.generate.decoder import Decoder, Shape
from qrecipe.model.generate.sampling import Sampling
from qrecipe.model.generate.weights import DecodingWeights, Stack
from qrecipe.model.kernels import small
from qrecipe.model.load import LoadedBase


def suits(opened: LoadedBase, weights: DecodingWeights) -> bool:
    """Whether this is a small model on a CPU, whose layers are all of the kind that is compiled."""
    stacks = (weights.talker, weights.predictor)
    products = [p for s in stacks for layer in s.layers for p in (layer.qkv, layer.o, layer.gate_up, layer.down)]
    even = opened.small and all(size % small.PANEL == 0 for p in (*products, *_outside(weights)) for size in p.shape)
    return even and all(s.activation is None and layer.qkv_bias is layer.o_bias is None for s in stacks for layer in s.layers)


def _outside(weights: DecodingWeights) -> list[torch.Tensor]:
    """Products that no layer has."""
    return [weights.codec_head, *weights.heads, *(p for p in weights.project.parameters() if p.dim() == 2)]


class CompiledWeights:
    """A model's products as panels, made once for all decoders of a task."""

    def __init__(self, weights: DecodingWeights) -> None:
        self.layers = {id(stack): self._stacked(stack) for stack in (weights.talker, weights.predictor)}
        self.panels = {id(p): small.panels(p).numpy() for p in _outside(weights)}

    @staticmethod
    def _stacked(stack: Stack) -> small.Layers:
        arrays = {}
        for name in small.Layers._fields[:-1]:
            tensors = torch.stack([getattr(layer, name) for layer in stack.layers])
            arrays[name] = (tensors if "norm" in name else small.panels(tensors)).numpy()
        return small.Layers(**arrays, norm=stack.norm.numpy())


class CompiledDecoder(Decoder):
    """A decoder that is as wide as it has rows."""

    def __init__(self, opened: LoadedBase, weights: DecodingWeights, sampling: Sampling, shape: Shape, compiled: CompiledWeights) -> None:
        super().__init__(opened, weights, sampling, shape)
        self._compiled = compiled
        self._arrays: dict[int, tuple[Any, ...]] = {}
        for stack in (weights.talker, weights.predictor):
            caches = self._caches.pop(id(stack))
            k, v = torch.stack([c.k for c in caches]).numpy(), torch.stack([c.v for c in caches]).numpy()
            cos, sin = (table.numpy() for table in self._rotation[id(stack)])
            self._arrays[id(stack)] = (k, v, compiled.layers[id(stack)], cos, sin, np.float32(stack.eps))

    def _through(self, stack: Stack, x: torch.Tensor, rows: Any, positions: Any) -> torch.Tensor:
        out = torch.empty_like(x)
        small.through(x.numpy(), rows, positions, *self._arrays[id(stack)], out.numpy())
        return out

    def _hidden(self, stack: Stack, x: torch.Tensor, tokens: range | None = None) -> torch.Tensor:
        count = 1 if tokens is None else len(tokens)
        positions = self.position.numpy() if tokens is None else np.tile(np.array(tokens), self.shape.rows)
        return self._through(stack, x, self._rows.numpy().repeat(count), positions)[count - 1 :: count].contiguous()

    def _fill_caches(self, x: torch.Tensor, where: torch.Tensor) -> None:
        count, length = x.shape[:2]
        self._through(self._w.talker, x.flatten(0, 1), where.numpy().repeat(length), np.tile(np.arange(length), count))

    def _project(self, hidden: torch.Tensor) -> torch.Tensor:
        project = self._w.project
        return self._linear(hidden, project.weight) + project.bias if hasattr(project, "weight") else hidden

    def _linear(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        out = x.new_empty(len(x), len(weight))
        small.product(x.numpy(), self._compiled.panels[id(weight)], out.numpy())
        return out
