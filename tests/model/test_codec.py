"""Layers that replace stock's on a GPU give what stock's give; the kernel itself is tried on one."""

from __future__ import annotations

import copy

import pytest
import torch

from qrecipe.model.kernels import codec
from qrecipe.model.load import LoadedBase


def test_convolutions_as_products_are_stock_s(opened: LoadedBase) -> None:
    """Every kernel size and dilation of the speaker encoder, at lengths down to the shortest that stock takes."""
    stock = opened.net.speaker_encoder
    ours = copy.deepcopy(stock)
    codec.convolutions_as_products(ours)
    generator = torch.Generator().manual_seed(0)
    for frames in (9, 57, 300):
        mel = torch.randn(2, frames, 128, generator=generator)
        with torch.inference_mode():
            expected, vector = stock(mel), ours(mel)
        assert not torch.equal(expected, torch.zeros_like(expected))
        torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_other_convolutions_are_refused() -> None:
    with pytest.raises(AssertionError):
        codec.convolved(torch.nn.Conv1d(4, 4, 3, padding=1), torch.zeros(1, 4, 9))


def test_a_kernel_that_errs_is_not_used() -> None:
    class SnakeBeta(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alpha = torch.nn.Parameter(torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.sin(x) ** 2

    stock, cpu = SnakeBeta(), torch.device("cpu")
    assert codec.agrees(lambda module, x: module(x), stock, cpu)
    assert not codec.agrees(lambda module, x: module(x) + 1e-3, stock, cpu)
    assert not codec.agrees(lambda module, x: 1 / 0, stock, cpu)
