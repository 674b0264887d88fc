"""Low-rank deltas of linear layers (LoRA) by peft, on the stock modules while a stage trains."""

from __future__ import annotations

from typing import Any

import torch

from qrecipe.recipe.stage import Lora


class LowRank:
    """The linear layers of one entry, each with a low-rank delta: W + alpha / rank * B A (Hu et al. 2021, arXiv:2106.09685).

    W stands still. A is [rank, inputs], drawn from torch's generator; B is [outputs, rank] and starts at zero, so that
    the first step begins at W. Both are float32 whatever the modules are.
    """

    def __init__(self, net: Any, tensors: tuple[str, ...], lora: Lora, adapter: str) -> None:
        """`tensors` name weights of `torch.nn.Linear` modules; `adapter` is a name of its own for every entry."""
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
        found = {}
        for name, module in self._layers.items():
            layer = self._net.get_submodule(module)
            weight = start.get(name, layer.get_base_layer().weight).detach().to("cpu", torch.float32)
            found[name] = weight + layer.get_delta_weight(self._adapter).to("cpu", torch.float32)
        return found

    def close(self) -> None:
        """Puts the stock modules back, as they were."""
        for module in self._layers.values():
            parent, _, child = module.rpartition(".")
            layer = self._net.get_submodule(module)
            setattr(self._net.get_submodule(parent), child, layer.get_base_layer())
