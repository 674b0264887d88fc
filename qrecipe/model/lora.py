"""Low-rank deltas of linear layers (LoRA) by peft, on the stock modules while a stage trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from qrecipe.model.stock import silence
from qrecipe.recipe.stage import Lora

Linear = tuple[torch.Tensor | float | None, ...]
"""A linear layer as numbers: weight, bias or None, and for every low-rank delta A, B and alpha / rank."""


def linear(module: Any) -> Linear:
    """The weights of a linear layer, stock or with low-rank deltas."""
    base = module
    deltas: list[torch.Tensor | float] = []
    if hasattr(module, "lora_A"):
        base = module.get_base_layer()
        for name in module.active_adapters:
            deltas += (module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name])
    return (base.weight, base.bias, *deltas)


def apply(layer: Linear, x: torch.Tensor) -> torch.Tensor:
    """x W' + b, and alpha / rank x A' B' for every delta: [..., inputs] -> [..., outputs]."""
    weight, bias, *deltas = layer
    out: torch.Tensor = F.linear(x, weight, bias)  # type: ignore[arg-type]
    for a, b, scale in zip(deltas[::3], deltas[1::3], deltas[2::3], strict=True):
        out = out + scale * F.linear(F.linear(x, a), b)  # type: ignore[arg-type, operator]
    return out


def joint(layers: Sequence[Linear], x: torch.Tensor) -> torch.Tensor | None:
    """The weights of layers that read `x` as one, in a compiled function where all of them learn; else None.

    They are copied into `x`'s number format in any case: into one, that is no more. A gradient of a narrow weight alone leaves
    most of a GPU idle, and what comes back to `x` is one sum instead of several that are added.
    """
    whole = [one[0] for one in layers if len(one) == 2 and one[1] is None and isinstance(one[0], torch.Tensor) and one[0].dtype != x.dtype]
    if not torch.compiler.is_compiling() or len(whole) < len(layers):
        return None
    return torch.cat([w.to(x.dtype) for w in whole])


def apply_all(layers: Sequence[Linear], x: torch.Tensor) -> Sequence[torch.Tensor]:
    """`apply` of several layers to one input, as one product where they have a joint weight."""
    weight = joint(layers, x)
    if weight is None:
        return [apply(one, x) for one in layers]
    return torch.split(F.linear(x, weight), [len(one[0]) for one in layers], -1)  # type: ignore[arg-type]  # no weight is a number


class LowRank:
    """The linear layers of one entry, each with a low-rank delta: W + alpha / rank * B A (Hu et al. 2021, arXiv:2106.09685).

    W stands still. A is [rank, inputs], drawn from torch's generator; B is [outputs, rank] and starts at zero, so that
    the first step begins at W. Both are float32 whatever the modules are.
    """

    def __init__(self, net: Any, tensors: tuple[str, ...], lora: Lora, adapter: str) -> None:
        """`tensors` name weights of `torch.nn.Linear` modules; `adapter` is a name of its own for every entry."""
        with silence():  # peft loads torchao, where it is installed, and torch warns about that
            from peft import LoraConfig, inject_adapter_in_model

        self._net = net
        self._adapter = adapter
        self._layers = {name: name.removesuffix(".weight") for name in tensors}
        """Weight -> module."""
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            target_modules=list(self._layers.values()),
            lora_dropout=0.0,
            bias="none",
            init_lora_weights=True,
        )
        inject_adapter_in_model(config, net, adapter_name=adapter)
        if hasattr(net, "peft_config"):  # what peft remembers on the module; another entry's adapter would trip over it
            del net.peft_config
        self.parameters: list[torch.nn.Parameter] = []
        """A and B of every layer."""
        for module in self._layers.values():
            layer = net.get_submodule(module)
            for side in (layer.lora_A, layer.lora_B):
                parameter = side[adapter].weight
                parameter.data = parameter.data.float()
                self.parameters.append(parameter)

    @torch.no_grad()
    def merged(self, start: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Every weight with its delta added, float32 on the CPU. `start` holds unrounded weights of the stages before."""
        merged = {}
        for name, module in self._layers.items():
            layer = self._net.get_submodule(module)
            weight = start.get(name, layer.get_base_layer().weight).detach().to("cpu", torch.float32)
            merged[name] = weight + layer.get_delta_weight(self._adapter).to("cpu", torch.float32)
        return merged

    @contextmanager
    def exported(self, start: dict[str, torch.Tensor], export_dtype: torch.dtype) -> Iterator[None]:
        """The layers hold for a while the merged weights as files do, and add no deltas. `start` as for `merged`."""
        layers = {name: self._net.get_submodule(module) for name, module in self._layers.items()}
        before = {name: layer.get_base_layer().weight.data for name, layer in layers.items()}
        merged = self.merged(start)
        with self.off():
            try:
                for name, values in merged.items():
                    layers[name].get_base_layer().weight.data = values.to(export_dtype).to(before[name])
                yield
            finally:
                for name, layer in layers.items():
                    layer.get_base_layer().weight.data = before[name]

    @contextmanager
    def off(self) -> Iterator[None]:
        """The layers add no deltas for a while."""
        layers = [self._net.get_submodule(module) for module in self._layers.values()]
        for layer in layers:
            layer.set_scale(self._adapter, 0.0)
        try:
            yield
        finally:
            for layer in layers:
                layer.set_scale(self._adapter, 1.0)

    def close(self) -> None:
        """Puts the stock modules back, as they were."""
        for module in self._layers.values():
            parent, _, child = module.rpartition(".")
            layer = self._net.get_submodule(module)
            setattr(self._net.get_submodule(parent), child, layer.get_base_layer())
