"""Layers of the codec and of the speaker encoder that wait on a GPU, done without the wait; everything else of them is stock's.

cuDNN plans a convolution anew for every length that it has not met: 20 ms a recording, of which the GPU computes for less
than one. And the decoder's activation is six passes over the longest tensors there are, more than its convolutions take.
"""

from __future__ import annotations

import importlib.util
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def convolutions_as_products(module: nn.Module) -> None:
    """Makes every convolution of one dimension below a module one matrix product, which needs no plan for its length."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv1d):
            conv.forward = MethodType(convolved, conv)  # type: ignore[method-assign]


def convolved(conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
    """A convolution with `same` padding by reflection, stride 1 and one group: [n, channels, length] -> [n, out channels, length]."""
    assert (conv.padding, conv.padding_mode, conv.stride, conv.groups) == ("same", "reflect", (1,), 1)
    (size,), (dilation,), length = conv.kernel_size, conv.dilation, x.shape[-1]
    if size > 1:
        around = dilation * (size - 1)
        x = F.pad(x, (around // 2, around - around // 2), mode="reflect")
        x = torch.cat([x[..., i * dilation : i * dilation + length] for i in range(size)], dim=1)
    out = conv.weight.transpose(1, 2).flatten(1) @ x
    return out if conv.bias is None else out + conv.bias[:, None]


def fuse_activations(decoder: nn.Module, device: torch.device) -> None:
    """Makes each of the decoder's snake activations one kernel, where Triton is and gives what stock gives."""
    if importlib.util.find_spec("triton") is None:
        return
    from qrecipe.model.kernels import snake

    activations = [m for m in decoder.modules() if type(m).__name__ == "SnakeBeta"]
    if activations and agrees(snake.activated, activations[0], device):
        for activation in activations:
            activation.forward = MethodType(snake.activated, activation)


def agrees(ours: Any, activation: Any, device: torch.device) -> bool:
    """Whether a kernel gives what the formula gives; whatever a GPU's compiler cannot do counts as no."""
    x = torch.linspace(-20, 20, 3 * len(activation.alpha) * 70, device=device).view(3, len(activation.alpha), 70)
    try:
        with torch.inference_mode():
            return torch.allclose(ours(activation, x), activation(x), rtol=1e-5, atol=1e-5)
    except Exception:  # a compiler that is not there raises whatever it likes
        return False
