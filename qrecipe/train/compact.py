"""AdamW in less memory: moments of 8 bits and bfloat16 masters, for the weights of linear layers.

Moments are kept in blocks of 256 numbers: each is one of 256 values times the largest of its block, by torchao's
functions (Dettmers et al. 2022, arXiv:2110.02861). A step computes in float32.

A bfloat16 master is rounded to one of its two neighbours at random, to the nearer one more often, so that it is
right in the mean; rounded to the nearest, most steps would change nothing. The draws follow from seed, parameter
and step alone: a resumed stage and all ranks make the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.nn import Parameter

from qrecipe.files import digest
from qrecipe.model.kernels import fused
from qrecipe.model.stock import silence
from qrecipe.plan.trainable import BLOCK
from qrecipe.recipe.stage import Stage

CHUNK = 1 << 15
"""Blocks that are computed at a time, so that what a step needs beside its results stays small."""
Moment = tuple[torch.Tensor, ...]
"""[n, 256] float32; or [n, 256] codes of 8 bits and [n] scales."""


class Quantiser(NamedTuple):
    """Numbers in blocks as codes of 8 bits and back."""

    signed: torch.Tensor
    """[256] values of codes, -1 to 1, for the first moment."""
    unsigned: torch.Tensor
    """[256] values of codes, 0 to 1, for the second."""
    scaled: Callable[..., Any]
    encoded: Callable[..., Any]
    decoded: Callable[..., Any]

    @classmethod
    def on(cls, device: torch.device) -> Quantiser:
        """torchao's, with its tables on a device."""
        with silence():  # torch's warnings about how torchao is written
            from torchao.optim import quant_utils as ao
        signed, unsigned = (torch.tensor(ao.create_dynamic_map(signed), device=device) for signed in (True, False))
        return cls(signed, unsigned, ao.scale_tensor, ao.quantize_8bit_with_qmap, ao.dequant_with_qmap)


class _Rule(NamedTuple):
    """How one parameter moves in one step."""

    numbers: torch.Tensor
    """[3] factor of weight decay, rate over its bias correction, factor of the second moment's root; other ones in every step."""
    beta1: float
    beta2: float
    eps: float
    quantiser: Quantiser | None


class CompactAdamW(torch.optim.AdamW):
    """AdamW with a stage's choice of `moments` and `masters` for the weights of linear layers, and torch's for all else."""

    def __init__(self, groups: list[dict[str, Any]], linear: Iterable[Parameter], stage: Stage, seed: int, **settings: Any) -> None:
        """
        Args:
            groups: as `torch.optim.AdamW` takes them.
            linear: parameters that the choices are about; their sizes are multiples of `BLOCK`.
            settings: `betas` and `eps`.
        """
        super().__init__(groups, **settings)
        self._linear = {id(p) for p in linear}
        self._rounds = stage.masters == "bfloat16"
        self._seed = seed
        device = self.param_groups[0]["params"][0].device
        self._quantiser = Quantiser.on(device) if stage.moments == "8bit" else None
        self._generator = torch.Generator(device)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Moves every parameter that has a gradient, and drops the gradients of linear layers as it goes."""
        place = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                place += 1
                if parameter.grad is not None and id(parameter) in self._linear:
                    self._move(parameter, group, place)
                    parameter.grad = None
        super().step(closure)

    def _move(self, parameter: Parameter, group: dict[str, Any], place: int) -> None:
        """One parameter, `CHUNK` blocks at a time."""
        state = self.state[parameter]
        if not state:
            state.update(self._zeros(parameter))
        state["step"] += 1
        count = int(state["step"])
        (beta1, beta2), rate = group["betas"], group["lr"]
        numbers = [1 - rate * group["weight_decay"], rate / (1 - beta1**count), 1 / math.sqrt(1 - beta2**count)]
        rule = _Rule(torch.tensor(numbers, device=parameter.device), beta1, beta2, group["eps"], self._quantiser)
        self._generator.manual_seed(int(digest([self._seed, place, count])[:15], 16))
        assert parameter.grad is not None
        weights, gradients = parameter.detach().view(-1, BLOCK), parameter.grad.reshape(-1, BLOCK)
        moments = [state[name] for name in sorted(state) if name != "step"]
        for start in range(0, len(weights), CHUNK):
            part = slice(start, start + CHUNK)
            rows = (weights[part], gradients[part], tuple(m[part] for m in moments), self._noise(weights[part]))
            fused.whole(_update, rows, (rule,))

    def _zeros(self, parameter: Parameter) -> dict[str, torch.Tensor]:
        """The state before the first step, its names those of torch's AdamW."""
        blocks, device = parameter.numel() // BLOCK, parameter.device
        state = {"step": torch.tensor(0.0)}
        for name in ("exp_avg", "exp_avg_sq"):
            if self._quantiser is None:
                state[name] = torch.zeros(blocks, BLOCK, device=device)
            else:
                state[f"{name}-codes"] = torch.zeros(blocks, BLOCK, dtype=torch.uint8, device=device)
                state[f"{name}-scales"] = torch.zeros(blocks, device=device)
        return state

    def _noise(self, weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[n, 256] all numbers of 16 bits alike, for masters that are rounded; nothing for others."""
        if not self._rounds:
            return ()
        noise = torch.empty(weights.shape, dtype=torch.int16, device=weights.device)
        return (noise.random_(-(1 << 15), 1 << 15, generator=self._generator),)


def _update(weights: torch.Tensor, gradients: torch.Tensor, moments: Moment, noise: tuple[torch.Tensor, ...], rule: _Rule) -> None:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) of blocks, in place: [n, 256] weights and gradients.

    `moments` are the tensors of the first moment, then those of the second.
    """
    half, gradient = len(moments) // 2, gradients.float()
    signed, unsigned = (rule.quantiser.signed, rule.quantiser.unsigned) if rule.quantiser is not None else (None, None)
    mean = _wide(moments[:half], signed, rule.quantiser).lerp(gradient, 1 - rule.beta1)
    square = _wide(moments[half:], unsigned, rule.quantiser).lerp(gradient.square(), 1 - rule.beta2)
    _store(moments[:half], mean, signed, rule.quantiser)
    _store(moments[half:], square, unsigned, rule.quantiser)
    decay, rate, root = rule.numbers.unbind()
    moved = weights.float() * decay - rate * mean / (square.sqrt() * root + rule.eps)
    weights.copy_(rounded(moved, *noise) if noise else moved)


def rounded(values: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """float32 values, each as one of its two neighbours in bfloat16, by int16 `noise` of the same shape.

    Noise is added to the 16 bits that bfloat16 lacks, which are then cut off: a carry is as likely as they are large.
    """
    bits = values.view(torch.int32) + (noise.int() & 0xFFFF)
    return (bits & -0x10000).view(torch.float32)


def _wide(moment: Moment, table: torch.Tensor | None, quantiser: Quantiser | None) -> torch.Tensor:
    if quantiser is None:
        return moment[0]
    wide: torch.Tensor = quantiser.decoded(moment[0], table, moment[1])
    return wide


def _store(moment: Moment, values: torch.Tensor, table: torch.Tensor | None, quantiser: Quantiser | None) -> None:
    if quantiser is None:
        moment[0].copy_(values)
        return
    scaled, scales = quantiser.scaled(values, BLOCK)
    moment[0].copy_(quantiser.encoded(scaled, table))
    moment[1].copy_(scales)
