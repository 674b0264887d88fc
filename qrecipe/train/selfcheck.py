"""Before anything trains: on the recipe's own recordings the aligned losses must be lower than those one frame off.

A misaligned engine must not train. A base that predicts codes no better than chance cannot tell, and the check says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from qrecipe.errors import EngineError
from qrecipe.model import forward, prompt
from qrecipe.model.load import LoadedBase

ROWS = 16
"""Recordings that are read."""
CHANCE_MARGIN = 0.25
"""Nats: where both losses are this close to uniform or above it, the base predicts by chance."""
LEVEL = 3.0
"""Standard errors by which the aligned loss must be lower."""


@dataclass(frozen=True)
class Alignment:
    """One of the two losses, aligned and one off, mean over recordings, in nats."""

    name: str
    aligned: float
    shifted: float
    error: float
    """Standard error of the paired difference."""
    uniform: float
    """Loss of a uniform guess among the codes of one codebook."""

    @property
    def verdict(self) -> str:
        """`passed`, `failed`, or `skipped` where the base predicts too little to tell."""
        gap = self.shifted - self.aligned
        if min(self.aligned, self.shifted) > self.uniform - CHANCE_MARGIN:
            return "skipped"
        if gap > LEVEL * self.error and gap > 0:
            return "passed"
        return "failed" if gap <= 0 else "skipped"

    def __str__(self) -> str:
        return f"{self.name} {self.aligned:.2f} aligned, {self.shifted:.2f} one off (uniform {self.uniform:.2f})"


def measure(opened: LoadedBase, tables: forward.Tables, examples: list[prompt.Example]) -> list[Alignment]:
    """Both losses on recordings, aligned and one off: the talker's by a frame, the predictor's by a codebook."""
    ids = prompt.ControlIds.of(opened.config)
    pairs: dict[str, list[tuple[float, float]]] = {"talker": [], "predictor": []}
    uniform = {"talker": 0.0, "predictor": 0.0}
    for example in examples[:ROWS]:
        if example.codes.shape[0] < 3:
            continue
        batch = prompt.collate([example], ids).to(opened.device)
        with torch.no_grad(), opened.autocast():
            logits = forward.speech_logits(tables, batch, opened.compute_dtype)
        assert logits.talker is not None
        n = example.codes.shape[0]
        codes = batch.frame_codes
        aligned = F.cross_entropy(logits.talker[: n - 1], codes[: n - 1, 0])
        shifted = F.cross_entropy(logits.talker[: n - 1], codes[1:, 0])
        pairs["talker"].append((float(aligned), float(shifted)))
        assert logits.predictor is not None
        heads = logits.predictor[:, :-1].flatten(0, 1)
        pairs["predictor"].append(
            (float(F.cross_entropy(heads, codes[:, 1:-1].reshape(-1))), float(F.cross_entropy(heads, codes[:, 2:].reshape(-1))))
        )
        uniform = dict.fromkeys(uniform, math.log(heads.shape[-1]))
    return [_alignment(name, values, uniform[name]) for name, values in pairs.items() if values]


def _alignment(name: str, values: list[tuple[float, float]], uniform: float) -> Alignment:
    n = len(values)
    gaps = [s - a for a, s in values]
    mean = sum(gaps) / n
    variance = sum((g - mean) ** 2 for g in gaps) / max(1, n - 1)
    return Alignment(name, sum(a for a, _ in values) / n, sum(s for _, s in values) / n, math.sqrt(variance / n), uniform)


def require(alignments: list[Alignment]) -> None:
    """Raises `EngineError` for a loss that is lower one off than aligned."""
    failed = [a for a in alignments if a.verdict == "failed"]
    if failed:
        raise EngineError("the losses are not aligned with this base, so nothing is trained: " + "; ".join(map(str, failed)))
