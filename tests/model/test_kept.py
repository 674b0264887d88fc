"""What a layer keeps for its backward pass is what the plan counts."""

from __future__ import annotations

import pytest
import torch

from qrecipe.model import attention, layers
from qrecipe.model.load import LoadedBase
from qrecipe.plan.compute import _Decoder
from qrecipe.qwen3 import PREDICTOR_LAYERS


@pytest.mark.parametrize("trains", [False, True], ids=["frozen", "trained"])
def test_a_layer_keeps_what_the_plan_says(opened: LoadedBase, trains: bool) -> None:
    """Counted as distinct memory that autograd holds, less weights; in numbers, so that the format does not matter."""
    model = opened.talker.code_predictor.model
    shapes = {f"talker.code_predictor.model.{k}": tuple(v.shape) for k, v in model.state_dict().items()}
    decoder = _Decoder.of(shapes, PREDICTOR_LAYERS)
    count, length = 64, 8
    x = torch.randn(count * length, decoder.hidden, requires_grad=True)
    held: dict[int, int] = {}

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    model.layers.requires_grad_(trains)
    try:
        with torch.autograd.graph.saved_tensors_hooks(hold, lambda t: t):
            out = layers.decode(model, x, attention.PackedRows((length,) * count, x.device))
    finally:
        model.layers.requires_grad_(False)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found = sum(n for pointer, n in held.items() if pointer not in weights) / (count * length)
    expected = decoder.layers * decoder.saved(trains) / 2
    assert out.shape == x.shape
    assert found == pytest.approx(expected, rel=0.1)
