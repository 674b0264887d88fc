"""The divergence from the base's own distribution of code 0 at frames that the base spoke."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from qrecipe.data.speech import SoftTargets

TINY = 1e-9
"""Below this, what a distribution leaves over is rounding."""


def divergence(logits: torch.Tensor, targets: SoftTargets) -> torch.Tensor:
    """KL(base || student) at every label, [labels], nats.

    Outcomes are the codes that the targets name and, as one, all others, so that this is at most the divergence over the
    whole vocabulary. `logits` are the student's, [labels, vocabulary].
    """
    codes, theirs = targets.codes.to(logits.device), targets.logs.to(logits.device)
    mine = torch.log_softmax(logits.float(), 1).gather(1, codes)
    divergence = (theirs.exp() * (theirs - mine)).sum(1)
    rest = targets.left_over.to(logits.device)
    others = (1.0 - mine.exp().sum(1)).clamp(min=TINY)
    return divergence + torch.where(rest > TINY, rest * (rest.clamp(min=TINY).log() - others.log()), torch.zeros_like(rest))


def total(logits: torch.Tensor, labels: Sequence[int], targets: Sequence[SoftTargets | None]) -> torch.Tensor | None:
    """Sum over the rows of a batch that have soft targets; None if none has. `labels` are the labels of each row, in order."""
    starts = accumulate(labels, initial=0)
    soft = [(torch.arange(start, start + n), t) for start, n, t in zip(starts, labels, targets) if t is not None]
    if not soft:
        return None
    at = torch.cat([where for where, _ in soft]).to(logits.device)
    joined = SoftTargets(torch.cat([t.codes for _, t in soft]), torch.cat([t.logs for _, t in soft]))
    return divergence(logits[at], joined).sum()
