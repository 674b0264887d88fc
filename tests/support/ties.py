"""Choices of the largest or the nearest, compared between two computations that differ by rounding.

Two orders of summation give logits that differ in their last digits, and so does one order on two processors. Where a
reference's best two are nearer than that, rounding decides which one is chosen, and either is right. Everywhere else
the choice is held exactly.
"""

from __future__ import annotations

from typing import Any

import torch

LOGITS = 2e-4
"""Logits nearer than this are a tie. The tests hold logits of two computations in float32 within 1e-4 of each other (5e-5
is the largest difference measured, on logits up to 21, one digit of which is 1.9e-6, behind six layers), so the best two
may change places where they are nearer than twice that."""

DISTANCES = 2e-5
"""Squared distances to two codes that differ by less than this share of |x|^2 + |code|^2 are a tie. What a recording's
encoding differs by in a batch was measured at 5e-7 of it; behind the codebooks before, a tenth of it may be left over,
from which that is 5e-6. Stock computes in float32, as that sum minus 2 <x, code>, so some units of 1.2e-7 come on top."""

FEW = 0.02
"""More choices than this share at ties would be no chance: a computation that is wrong, or a reference that says nothing."""


def assert_best(chosen: torch.Tensor, logits: torch.Tensor, margin: float = LOGITS) -> None:
    """Asserts that `chosen` [...] int64 are the largest of a reference's `logits` [..., classes], or tie with it.

    `logits` are those that the reference computed behind its own choices: a choice that is compared must have been
    computed behind the same ones, so that another side of a tie changes nothing after it.
    """
    short = logits.amax(-1) - logits.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
    _assert_ties(short, short > margin)


def assert_nearest(chosen: torch.Tensor, latent: torch.Tensor, quantizer: Any, margin: float = DISTANCES) -> None:
    """Asserts that `chosen` [frames, codebooks] int64 are the codes of a reference's `latent` [hidden, frames], ties aside.

    `quantizer` is stock's `MimiSplitResidualVectorQuantizer`. What a codebook leaves over goes to the next one, so each
    code is judged by what the codes before it in `chosen` leave: another side of a tie changes those after it rightly.
    """
    semantic = quantizer.num_semantic_quantizers
    parts = (
        (quantizer.semantic_residual_vector_quantizer, chosen[:, :semantic]),
        (quantizer.acoustic_residual_vector_quantizer, chosen[:, semantic:]),
    )
    for part, codes in parts:
        projected = latent.unsqueeze(0) if part.input_proj is None else part.input_proj(latent.unsqueeze(0))
        residual = projected[0].T.double()
        for layer, code in zip(part.layers, codes.T, strict=False):
            table = layer.codebook.embed.double()
            squares = residual.square().sum(1, keepdim=True) + table.square().sum(1)
            distances = squares - 2 * residual @ table.T
            nearest = distances.amin(1)
            at = code.unsqueeze(1)
            short = (distances.gather(1, at).squeeze(1) - nearest) / squares.gather(1, at).squeeze(1)
            _assert_ties(short, short > margin)
            residual = residual - table[code]


def assert_encoded(ours: torch.Tensor, tokenizer: Any, samples: Any, rate: int = 24_000) -> None:
    """Asserts that `ours` [frames, codebooks] int64 are the codes of one recording by stock's `tokenizer`, ties aside.

    `samples` are what stock's `encode` takes: [samples] float32, or a path.
    """
    quantizer, latents = tokenizer.model.encoder.quantizer, []
    encode = quantizer.encode

    def watched(latent: torch.Tensor, *more: Any) -> torch.Tensor:
        latents.append(latent[0])
        found: torch.Tensor = encode(latent, *more)
        return found

    quantizer.encode = watched
    try:
        with torch.inference_mode():
            theirs = tokenizer.encode(samples, sr=rate).audio_codes[0].cpu().to(torch.int64)
    finally:
        del quantizer.encode
    (latent,) = latents
    assert ours.shape == theirs.shape
    with torch.inference_mode():
        for codes in (theirs, ours):
            assert_nearest(codes, latent[:, : len(codes)], quantizer)
    assert float((ours != theirs).any(1).float().mean()) <= max(FEW, 1 / len(ours)), "frames differ, too many for ties"


def _assert_ties(short: torch.Tensor, wrong: torch.Tensor) -> None:
    """`short` [...] is how far each choice falls short of the best one, `wrong` [...] where that is no tie."""
    places = wrong.nonzero().tolist()
    assert not places, f"not the best at {places[:5]}, by {short[wrong].tolist()[:5]}"
    ties = int((short > 0).sum())
    assert ties <= max(1, FEW * short.numel()), f"{ties} of {short.numel()} choices are at ties"
