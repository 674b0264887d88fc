"""How codes are drawn: stock's logits processors and warpers in stock's order, then the inverse of the distribution function.

Stock is `transformers.generate` with its repetition penalty, minimum length, suppressed ids, temperature, top-k and top-p.
Only the last step differs: stock draws from one global generator, here every number belongs to a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

MIN_FRAMES = 2
"""Frames before which stock bars the end."""
CONTROL_ROWS = 1024
"""Rows at the end of the codec vocabulary that stock suppresses, the end itself excepted."""


@dataclass(frozen=True)
class Draw:
    """How one code is drawn from its scores."""

    sample: bool = True
    """False takes the best."""
    temperature: float = 0.9
    top_k: int = 50
    """0 for no limit."""
    top_p: float = 1.0


@dataclass(frozen=True)
class Sampling:
    """How a model speaks: code 0 by the talker, the others by the code predictor."""

    talker: Draw = Draw()
    predictor: Draw = Draw()
    repetition_penalty: float = 1.05
    """Of code 0, over the codes 0 that the utterance holds already."""
    min_frames: int = MIN_FRAMES
    max_frames: int = 2047

    @classmethod
    def of(cls, wrapper: Any, **arguments: Any) -> Sampling:
        """The sampling settings of this wrapper's stock `generate_voice_clone`: arguments, then generation_config, then its defaults.

        Raises `ValueError` for a temperature, top-p or penalty that transformers refuses.
        """
        min_frames = arguments.pop("min_frames", MIN_FRAMES)
        merged = wrapper._merge_generate_kwargs(**arguments)
        talker, predictor = (
            Draw(
                bool(merged[f"{prefix}{sample}"]),
                float(merged[f"{prefix}temperature"]),
                int(merged[f"{prefix}top_k"] or 0),
                float(merged[f"{prefix}top_p"]),
            )
            for prefix, sample in (("", "do_sample"), ("subtalker_", "dosample"))
        )
        penalty = float(merged["repetition_penalty"])
        if penalty <= 0 or any(d.temperature <= 0 or d.top_k < 0 or not 0 < d.top_p <= 1 for d in (talker, predictor) if d.sample):
            raise ValueError(f"sampling needs a positive temperature and penalty, and top_p in (0, 1]: {merged}")
        # the last token's frame is never completed
        return cls(talker, predictor, penalty, min_frames, max(1, int(merged["max_new_tokens"]) - 1))


def penalize(scores: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Scores [n, codes] with those of `seen` [n, codes] pulled away from being chosen again."""
    if penalty == 1.0:
        return scores
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def warp(scores: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Scores [n, codes] float32 by temperature, top-k (ties of the k-th stay) and top-p, as transformers has them."""
    if draw.temperature != 1.0:
        scores = scores / draw.temperature
    if draw.top_k:
        least = scores.topk(min(draw.top_k, scores.shape[-1]), -1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if draw.top_p < 1.0:
        ascending, order = scores.sort(-1)
        dropped = ascending.softmax(-1).cumsum(-1) <= 1 - draw.top_p
        dropped[:, -1] = False
        scores = scores.masked_fill(torch.zeros_like(dropped).scatter(1, order, dropped), -torch.inf)
    return scores


def invert(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The first index whose cumulated probability exceeds a share of the whole: [n, codes] and [n] in [0, 1) -> [n]."""
    cumulated = probabilities.cumsum(-1)
    above = (cumulated > uniforms[:, None] * cumulated[:, -1:]) & (probabilities > 0)
    return above.to(torch.int32).argmax(-1)


def choose(scores: torch.Tensor, uniforms: torch.Tensor, draw: Draw) -> torch.Tensor:
    """One code a row: [n, codes] float32 and [n] -> [n]."""
    return invert(warp(scores, draw).softmax(-1), uniforms) if draw.sample else scores.argmax(-1)
