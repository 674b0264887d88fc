"""AdamW over what learns, and its schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from qrecipe.model.weights import Learner, LearningGroup
from qrecipe.recipe.stage import Stage
from qrecipe.train.compact import CompactAdamW

BETAS, EPS = (0.9, 0.95), 1e-8
"""Of AdamW."""


def lr_scale(step: int, total: int, stage: Stage) -> float:
    """Share of the peak learning rate at a step from 1 to `total`: warm-up, then the schedule."""
    warmup = max(0, math.ceil(stage.warmup * total))
    if step <= warmup:
        return step / warmup
    if stage.schedule == "constant":
        return 1.0
    remaining = (total - step) / max(1, total - warmup)
    return remaining if stage.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * remaining))


def skips_on_device(device: torch.device) -> bool:
    """Whether AdamW is one fused kernel, which itself skips a step that is not finite, so that the host need not wait."""
    return device.type == "cuda"


def make_optimizer(stage: Stage, learner: Learner, device: torch.device, seed: int) -> torch.optim.AdamW:
    """AdamW over everything that learns, in the memory that the stage's `moments` and `masters` choose."""
    groups = [{"params": g.parameters, "lr": g.lr, "weight_decay": g.weight_decay} for g in learner.groups]
    if stage.moments == stage.masters == "float32":
        return torch.optim.AdamW(groups, betas=BETAS, eps=EPS, fused=skips_on_device(device))
    return CompactAdamW(groups, learner.linear, stage, seed, betas=BETAS, eps=EPS)


def set_learning_rates(optimizer: torch.optim.Optimizer, groups: Sequence[LearningGroup], scale: float) -> None:
    """Sets every group's rate to a share of its peak."""
    for target, group in zip(optimizer.param_groups, groups, strict=True):
        target["lr"] = group.lr * scale


def step_unless_non_finite(optimizer: torch.optim.Optimizer, numbers: torch.Tensor) -> None:
    """Moves the weights, unless one of the step's numbers, [n] on the device and the same on all ranks, is not finite."""
    non_finite = (~numbers.isfinite()).any().float()
    if optimizer.defaults["fused"]:
        optimizer.found_inf = non_finite  # type: ignore[attr-defined]  # torch's gradient scaler passes it this way, too
    elif non_finite:
        return
    optimizer.step()
