"""The comparison of choices itself: right on either side of a tie, and nowhere else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from qrecipe.model.load import LoadedBase
from tests.support import ties


@pytest.fixture
def logits() -> torch.Tensor:
    """Two hundred choices among fifty; at the first, the two best are a third of the margin apart."""
    drawn = torch.randn(200, 50, generator=torch.Generator().manual_seed(0))
    drawn[:, 7] = 9.0
    drawn[0, 3] = 9.0 - ties.LOGITS / 3
    return drawn


def test_the_largest_and_the_other_side_of_a_tie_are_right(logits: torch.Tensor) -> None:
    chosen = logits.argmax(-1)
    ties.assert_best(chosen, logits)
    chosen[0] = 3
    ties.assert_best(chosen, logits)


@pytest.mark.parametrize(("place", "code"), [(0, 4), (1, 3), (199, 8)])
def test_a_planted_code_is_not(place: int, code: int, logits: torch.Tensor) -> None:
    """At a tie a third one, and elsewhere any other."""
    chosen = logits.argmax(-1)
    chosen[place] = code
    with pytest.raises(AssertionError, match=rf"not the best at \[\[{place}\]\]"):
        ties.assert_best(chosen, logits)


def test_ties_everywhere_are_no_chance(logits: torch.Tensor) -> None:
    """A reference that says nothing holds nothing to anything."""
    with pytest.raises(AssertionError, match="at ties"):
        ties.assert_best(torch.full((200,), 3), logits * 1e-7)
    logits[:10, 3] = 9.0 - ties.LOGITS / 3
    with pytest.raises(AssertionError, match="10 of 200"):
        ties.assert_best(torch.full((200,), 3).where(torch.arange(200) < 10, 7), logits)


FRAME, NEAR, FAR = 5, 1, 2
"""A frame, the codebook where its choice is made a tie, and the one after."""


@pytest.fixture
def quantised(opened: LoadedBase) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Codes [frames, codebooks], what they are of, and a quantiser with an entry as near to it as another, on its other side."""
    quantizer = copy.deepcopy(opened.net.speech_tokenizer.model.encoder.quantizer)
    part = quantizer.acoustic_residual_vector_quantizer
    latent = torch.randn(part.input_proj.in_channels, 60, generator=torch.Generator().manual_seed(0))
    left = part.input_proj(latent.unsqueeze(0))[0, :, FRAME]
    nearest, *_, farthest = torch.cdist(left.unsqueeze(0), part.layers[0].codebook.embed)[0].argsort().tolist()
    part.layers[0].codebook.embed[farthest] = 2 * left - part.layers[0].codebook.embed[nearest]
    return quantizer.encode(latent.unsqueeze(0))[:, 0].T.contiguous(), latent, quantizer


@torch.no_grad()
def test_codes_are_judged_by_what_those_before_them_leave(quantised: tuple[torch.Tensor, torch.Tensor, Any]) -> None:
    """On the other side of the tie other codes follow, and they are right; those that followed on this side are not."""
    codes, latent, quantizer = quantised
    ties.assert_nearest(codes, latent, quantizer)
    part = quantizer.acoustic_residual_vector_quantizer
    left = part.input_proj(latent.unsqueeze(0))[0, :, FRAME]
    _, other = sorted(torch.cdist(left.unsqueeze(0), part.layers[0].codebook.embed)[0].argsort()[:2].tolist(), key=codes[FRAME, NEAR].ne)
    chosen = codes.clone()
    chosen[FRAME, NEAR] = other
    with pytest.raises(AssertionError, match=rf"not the best at \[\[{FRAME}\]\]"):
        ties.assert_nearest(chosen, latent, quantizer)
    left = left - part.layers[0].codebook.embed[other]
    for book, layer in enumerate(part.layers[1:], start=FAR):
        chosen[FRAME, book] = layer.codebook.quantize(left.unsqueeze(0))[0]
        left = left - layer.codebook.embed[chosen[FRAME, book]]
    ties.assert_nearest(chosen, latent, quantizer)
    assert not torch.equal(chosen[FRAME, FAR:], codes[FRAME, FAR:])


@pytest.mark.parametrize("book", [0, 1, 7])
def test_a_planted_code_of_a_recording_is_wrong(book: int, opened: LoadedBase, voice: Any) -> None:
    codes = voice.codes.clone()
    ties.assert_encoded(codes, opened.net.speech_tokenizer, voice.samples)
    codes[3, book] = (codes[3, book] + 1) % 512
    with pytest.raises(AssertionError, match=r"not the best at \[\[3\]\]"):
        ties.assert_encoded(codes, opened.net.speech_tokenizer, voice.samples)
