"""On a GPU in bfloat16, compiled or not, losses and gradients are those of float32 on the CPU within bfloat16's rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import synthetic
from qrecipe.model import attention, forward, prompt
from qrecipe.model.kernels import flash, fused
from qrecipe.model.load import LoadedBase

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

WATCHED = (
    "text_projection.linear_fc1.weight",
    "model.layers.1.self_attn.k_proj.weight",
    "code_predictor.model.layers.0.mlp.up_proj.weight",
)


LEARNED = (
    "code_predictor.model.layers.0.self_attn.q_proj.weight",
    "code_predictor.model.layers.0.self_attn.k_proj.weight",
    "code_predictor.model.layers.0.self_attn.v_proj.weight",
    "code_predictor.model.layers.0.self_attn.q_norm.weight",
    "code_predictor.model.layers.0.self_attn.k_norm.weight",
    "code_predictor.model.layers.0.mlp.gate_proj.weight",
    "code_predictor.model.layers.1.mlp.down_proj.weight",
)
"""Of a predictor whose layers are float32 masters, as in a stage that trains it."""


def computed(opened: LoadedBase, compiled: bool, names: tuple[str, ...] = WATCHED) -> tuple[list[float], list[torch.Tensor]]:
    data = synthetic.clips(opened, 6)
    examples = [data.example(r, synthetic.LANGUAGE_ROW, "streaming", "x_vector", opened.tokenizer) for r in data.rows]
    batch = prompt.collate(examples, prompt.ControlIds.of(opened.config)).to(opened.device)
    watched: list[Any] = [opened.talker.get_parameter(name) for name in names]
    for parameter in watched:
        parameter.requires_grad_(True)
    with fused.compiled(compiled), opened.autocast():
        logits = forward.speech_logits(forward.Tables(opened.talker), batch, opened.compute_dtype)
        talker, predictor = forward.talker_nll(logits, batch).mean(), forward.predictor_nll(logits, batch).mean()
    gradients = torch.autograd.grad(talker + predictor, watched)
    return [talker.item(), predictor.item()], [g.float().cpu().flatten() for g in gradients]


@pytest.mark.parametrize("names", [WATCHED, LEARNED], ids=["weights", "masters"])
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_losses_and_gradients_are_those_of_float32(compiled: bool, names: tuple[str, ...]) -> None:
    if compiled:
        assert fused.trouble(torch.device("cuda")) is None
    cpu = synthetic.model("mini", torch.device("cpu"), torch.float32)
    gpu = synthetic.model("mini", torch.device("cuda"))
    for name, parameter in gpu.net.named_parameters():  # the generators of the two devices differ
        cpu.net.get_parameter(name).data.copy_(parameter.data.float().cpu())
    if names is LEARNED:
        gpu.talker.code_predictor.model.layers.float().requires_grad_(True)
    expected, gradients = computed(cpu, False, names)
    found, ours = computed(gpu, compiled, names)
    assert fused.refused() is None
    assert found == pytest.approx(expected, rel=5e-3)
    for name, a, b in zip(names, ours, gradients, strict=True):
        assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.99, name
        assert float(a.norm() / b.norm()) == pytest.approx(1.0, rel=0.05), name


def test_a_kernel_attends_over_rows_end_to_end_and_is_compiled_with_its_layer() -> None:
    """Without one everything still runs, padded and piece by piece, and the host takes several times as long."""
    kernel = flash.varlen(torch.zeros(1, device="cuda", dtype=torch.bfloat16))
    assert kernel is not None
    assert flash.traceable(kernel)


def test_one_kernel_does_all_between_the_projections_of_the_predictor() -> None:
    """Of the published shapes, and of the embedded base's. Without it everything still runs, in a dozen kernels."""
    assert attention._tried(128, 16) is not None
    assert attention._tried(64, 8) is not None


def test_many_rows_and_few_are_compiled_once() -> None:
    """How many rows the first batch had decides nothing that another batch would be compiled anew for."""

    def gradients(count: int) -> None:
        x, weight = (torch.ones(*size, 1024, device="cuda", requires_grad=True) for size in ((count,), ()))
        torch.autograd.grad(fused.rms_norm(x, weight, 1e-6).sum(), (x, weight))

    with fused.compiled(True):
        gradients(20_000)
        with torch._dynamo.config.patch(error_on_recompile=True):
            gradients(1_000)
    assert fused.refused() is None


@pytest.mark.parametrize("lengths", [(16,) * 40, (70, 20, 133, 41)], ids=["predictor", "talker"])
def test_attention_is_that_of_the_cpu(lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(sum(lengths), heads, 64, requires_grad=True) for heads in (8, 4, 4))
    pull = torch.randn(sum(lengths), 8, 64)
    found = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        given = [t.detach().to(device, dtype).requires_grad_() for t in (q, k, v)]
        out = attention.attend(
            given[0], given[1], given[2], attention.PackedRows(lengths, torch.device(device), len(set(lengths)) == 1), 0.125
        )
        found.append([t.float().cpu() for t in (out, *torch.autograd.grad(out, given, pull.to(device, dtype)))])
    for a, b in zip(*found, strict=True):
        assert float((a - b).norm() / a.norm()) < 2e-2
