"""The silence that a language begins every sentence with, so that text which comes one token a frame runs ahead of what is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from qrecipe.data.speech import SoftTargets, SpeechData
from qrecipe.model.load import LoadedBase
from qrecipe.qwen3 import FRAMES_PER_SECOND

IMPOSSIBLE = -40.0
"""Log probability of what is not said: finite, so that its product with a probability of 0 is 0."""


def with_lead(opened: LoadedBase, data: SpeechData, frames: int) -> SpeechData:
    """Rows after so many frames of silence, as the base's own tokenizer encodes it."""
    if not frames:
        return data
    (silence,) = opened.encode([np.zeros(frames * opened.samples_per_frame, dtype=np.float32)])
    return after_silence(data, silence)


def after_silence(data: SpeechData, silence: torch.Tensor) -> SpeechData:
    """Rows that begin with silence. Distributions are sure of its code 0.

    Args:
        silence: codes, [frames, codebooks] int64.
    """
    rows = []
    for row in data.rows:
        targets = None if row.soft_targets is None else _sure_first(silence[:, 0], row.soft_targets)
        seconds = row.seconds + len(silence) / FRAMES_PER_SECOND
        rows.append(replace(row, codes=torch.cat([silence, row.codes]), seconds=seconds, soft_targets=targets))
    return replace(data, rows=rows)


def _sure_first(first: torch.Tensor, targets: SoftTargets) -> SoftTargets:
    """Distributions that are sure of codes 0, [frames], before those of a row."""
    others = torch.arange(targets.codes.shape[1] - 1).expand(len(first), -1)
    others = others + (others >= first[:, None])  # no code twice
    codes = torch.cat([first[:, None], others], 1)
    logs = torch.full(codes.shape, IMPOSSIBLE)
    logs[:, 0] = 0.0
    return SoftTargets(torch.cat([codes, targets.codes]), torch.cat([logs, targets.logs]))
