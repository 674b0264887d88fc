"""On a GPU sounds and speaker vectors are those of stock's own layers within float32's rounding."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from qrecipe.inputs.bases import BaseInfo
from qrecipe.model.kernels import codec
from qrecipe.model.load import open_model
from qrecipe.model.speak import sound

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def test_activations_are_one_kernel_and_stock_s(mini: BaseInfo) -> None:
    on_gpu = open_model(mini, torch.device("cuda"))
    decoder = on_gpu.net.speech_tokenizer.model
    activations = [m for m in decoder.modules() if type(m).__name__ == "SnakeBeta"]
    assert activations
    assert all("forward" in vars(m) for m in activations)
    codes = [torch.randint(0, on_gpu.codebook_size, (n, on_gpu.groups), generator=torch.Generator().manual_seed(n)) for n in (3, 40, 61)]
    fused = sound(on_gpu, codes)
    for module in activations:
        del module.forward
    for (ours, _), (stock, _) in zip(fused, sound(on_gpu, codes), strict=True):
        # cuDNN's convolutions round what they read to TF32's eleven bits, and carry a last digit of an activation as far
        np.testing.assert_allclose(ours, stock, rtol=0, atol=1e-3 * float(np.abs(stock).max()))
    codec.fuse_activations(decoder, on_gpu.device)
    on_gpu.close()


def test_speaker_vectors_are_stock_s(mini: BaseInfo) -> None:
    on_gpu = open_model(mini, torch.device("cuda"))
    stock = copy.deepcopy(on_gpu.net.speaker_encoder).float()
    mel = torch.randn(1, 333, 128, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    ours = copy.deepcopy(stock)
    codec.convolutions_as_products(ours)
    with torch.inference_mode():
        torch.testing.assert_close(ours(mel), stock(mel), rtol=1e-3, atol=1e-3 * float(stock(mel).abs().max()))
    on_gpu.close()


def test_speaker_vectors_do_not_depend_on_what_is_beside_them(mini: BaseInfo) -> None:
    on_gpu = open_model(mini, torch.device("cuda"))
    random = np.random.default_rng(0)
    sounds = [(0.1 * random.standard_normal(1920 * n)).astype(np.float32) for n in (20, 31, 20, 2, *[20] * 40)]
    together = on_gpu.x_vectors(sounds)
    alone = [on_gpu.x_vectors([s])[0] for s in sounds]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    for vector, sound_ in zip(together, sounds, strict=True):
        assert float(torch.nn.functional.cosine_similarity(vector, on_gpu.x_vector(sound_), dim=0)) > 1 - 1e-5
    on_gpu.close()
