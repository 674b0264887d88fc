"""The divergence from the base's own distribution of code 0 at frames that the base spoke."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from qrecipe.data.taught import Guide

TINY = 1e-9
"""Below this, what a distribution leaves over is rounding."""


def divergence(logits: torch.Tensor, guide: Guide) -> torch.Tensor:
    """KL(base || student) at every label, [labels], nats.

    Outcomes are the codes that the guide names and, as one, all others, so that this is at most the divergence over the
    whole vocabulary. `logits` are the student's, [labels, vocabulary].
    """
    codes, theirs = guide.codes.to(logits.device), guide.logs.to(logits.device)
    mine = torch.log_softmax(logits.float(), 1).gather(1, codes)
    divergence = (theirs.exp() * (theirs - mine)).sum(1)
    rest = guide.left_over.to(logits.device)
    others = (1.0 - mine.exp().sum(1)).clamp(min=TINY)
    return divergence + torch.where(rest > TINY, rest * (rest.clamp(min=TINY).log() - others.log()), torch.zeros_like(rest))


def total(logits: torch.Tensor, labels: Sequence[int], guides: Sequence[Guide | None]) -> torch.Tensor | None:
    """Sum over the rows of a batch that have a guide; None if none has. `labels` are the labels of each row, in order."""
    starts = accumulate(labels, initial=0)
    guided = [(torch.arange(start, start + n), g) for start, n, g in zip(starts, labels, guides) if g is not None]
    if not guided:
        return None
    at = torch.cat([where for where, _ in guided]).to(logits.device)
    guide = Guide(torch.cat([g.codes for _, g in guided]), torch.cat([g.logs for _, g in guided]))
    return divergence(logits[at], guide).sum()
