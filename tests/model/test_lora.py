"""Low-rank deltas: what peft computes is what the formula says, and nothing else of the model changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from qrecipe.errors import Place
from qrecipe.model import forward, prompt
from qrecipe.model.load import LoadedBase
from qrecipe.model.weights import Delta, Guard, Learner, apply, parameters
from qrecipe.plan import trainable
from qrecipe.source.reader import Node
from tests.support import training

RANK, ALPHA = 3, 12.0
LORA = {"rank": RANK, "alpha": ALPHA}
LAYERS = {"match": "talker.model.layers", "lr": 1e-3, "lora": LORA}
Q = "talker.model.layers.0.self_attn.q_proj.weight"


def loss_of(opened: LoadedBase, tables: forward.Tables, rows: list[prompt.Example]) -> torch.Tensor:
    batch = prompt.collate(rows, prompt.ControlIds.of(opened.config))
    logits = forward.speech_logits(tables, batch, opened.compute_dtype)
    return forward.talker_nll(logits, batch).sum()


@pytest.fixture
def rows(fresh: LoadedBase, example: Callable[..., prompt.Example]) -> list[prompt.Example]:
    return [example(1), example(2, layout="non_streaming")]


def learner(opened: LoadedBase, *train: dict[str, Any], start: Delta | None = None) -> tuple[Learner, trainable.Trainable]:
    stage = training.speech_stage(*train)
    tensors = {k: tuple(v.shape) for k, v in parameters(opened.net).items()}
    found, problems = trainable.resolve(stage, Node({}, Place("r.yaml")), tensors, {"malay": training.ROW}, None)
    assert not problems
    return Learner(opened.net, found, start or Delta()), found


def factors(learned: Learner, opened: LoadedBase) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    """A and B of one projection."""
    layer = opened.net.get_submodule(Q.removesuffix(".weight"))
    (adapter,) = layer.lora_A.keys()
    return layer.lora_A[adapter].weight, layer.lora_B[adapter].weight


def test_gradients_are_those_of_the_formula(fresh: LoadedBase, rows: list[prompt.Example]) -> None:
    """For W + s B A: dL/dB = s dL/dW A^T and dL/dA = s B^T dL/dW, with dL/dW of the merged, ordinary model."""
    torch.manual_seed(0)
    learned, _ = learner(fresh, LAYERS)
    a, b = factors(learned, fresh)
    with torch.no_grad():
        b.copy_(torch.randn_like(b) * 0.05)
    loss = loss_of(fresh, learned.tables, rows)
    loss.backward()
    assert a.grad is not None
    assert b.grad is not None
    factor_gradients, merged = (a.grad.clone(), b.grad.clone(), a.detach().clone(), b.detach().clone()), learned.snapshot()
    learned.close()
    scale = ALPHA / RANK
    before = parameters(fresh.net)[Q].detach().clone()
    assert torch.allclose(merged.whole[Q], before + scale * factor_gradients[3] @ factor_gradients[2], atol=1e-6)
    apply(fresh.net, merged, torch.float32)
    weight = parameters(fresh.net)[Q].requires_grad_(True)
    plain = loss_of(fresh, forward.Tables(fresh.talker), rows)
    plain.backward()
    assert weight.grad is not None
    assert float(plain.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert torch.allclose(factor_gradients[1], scale * weight.grad @ factor_gradients[2].T, rtol=1e-3, atol=1e-5)
    assert torch.allclose(factor_gradients[0], scale * factor_gradients[3].T @ weight.grad, rtol=1e-3, atol=1e-5)


def test_it_begins_at_the_model_and_leaves_it_as_it_was(fresh: LoadedBase, rows: list[prompt.Example]) -> None:
    before = {k: v.detach().clone() for k, v in parameters(fresh.net).items()}
    modules = {k: type(m) for k, m in fresh.net.named_modules()}
    at_base = float(loss_of(fresh, forward.Tables(fresh.talker), rows))
    learned, found = learner(fresh, LAYERS)
    assert loss_of(fresh, learned.tables, rows).item() == pytest.approx(at_base, rel=1e-6)
    marked = [p for p in fresh.net.parameters() if p.requires_grad]
    assert {id(p) for p in marked} == {id(p) for p in learned.parameters()}
    assert all(p.dtype == torch.float32 for p in marked)
    assert sum(p.numel() for p in learned.parameters()) == found.parameters
    learned.close()
    after = parameters(fresh.net)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert {k: type(m) for k, m in fresh.net.named_modules()} == modules
    assert not any(p.requires_grad for p in fresh.net.parameters())
    assert not hasattr(fresh.net, "peft_config")


def test_steps_change_linear_layers_by_low_rank_and_nothing_else(fresh: LoadedBase, rows: list[prompt.Example]) -> None:
    base = {k: v.detach().clone() for k, v in parameters(fresh.net).items()}
    stage = (LAYERS, training.LANGUAGE, {"match": "talker.text_projection", "lr": 1e-3})
    learned, found = learner(fresh, *stage)
    optimizer = torch.optim.AdamW([{"params": g.parameters, "lr": g.lr, "weight_decay": 0.0} for g in learned.groups])
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(fresh, learned.tables, rows).backward()
        optimizer.step()
    delta = learned.snapshot()
    learned.close()
    linear = [n for n in delta.whole if ".layers." in n]
    assert linear
    assert all(".layers." in n or "text_projection" in n for n in delta.whole)
    assert not [n for n in linear if "norm" in n or n.endswith(".bias")]
    for name in linear:
        change = (delta.whole[name] - base[name]).double()
        singular = torch.linalg.svdvals(change)
        assert float(singular[0]) > 0, name
        assert float(singular[RANK]) < 1e-5 * float(singular[0]) + 1e-7, name
    guard = Guard(fresh.net, found)
    apply(fresh.net, delta, torch.float32)
    guard.check(fresh.net)


def test_it_goes_on_from_unrounded_weights(fresh: LoadedBase) -> None:
    start = Delta(whole={Q: parameters(fresh.net)[Q].detach().clone() + 1e-4})
    learned, _ = learner(fresh, LAYERS, start=start)
    merged = learned.snapshot()
    learned.close()
    assert torch.equal(merged.whole[Q], start.whole[Q])


def test_entries_of_different_rank(fresh: LoadedBase) -> None:
    other = {"match": "talker.codec_head", "lr": 1e-3, "lora": {"rank": 2, "alpha": 2}}
    learned, found = learner(fresh, LAYERS, other)
    assert [sum(p.numel() for p in g.parameters) for g in learned.groups] == [g.parameters for g in found.groups]
    learned.close()
    assert isinstance(fresh.talker.codec_head, torch.nn.Linear)
    assert type(fresh.talker.codec_head) is torch.nn.Linear
