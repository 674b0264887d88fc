"""Moments of 8 bits and bfloat16 masters: little memory, right in the mean, near the losses of float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qrecipe.data.batches import Sampler
from qrecipe.data.speech import SpeechData
from qrecipe.model.load import LoadedBase
from qrecipe.plan.trainable import BLOCK
from qrecipe.recipe.stage import SpeechStage
from qrecipe.train import compact
from qrecipe.train.compact import CompactAdamW, rounded
from qrecipe.train.loop import Hooks, train_stage
from qrecipe.train.objectives.speech import SpeechObjective
from qrecipe.train.optimizer import BETAS, EPS, make_optimizer
from tests.support.training import LANGUAGE, PROJECTION, Recorder, learner_of, speech_stage

ALL_NOISE = torch.arange(-(1 << 15), 1 << 15).to(torch.int16)
"""Every number of 16 bits, once."""


def stage(moments: str = "float32", masters: str = "float32") -> SpeechStage:
    return speech_stage(PROJECTION, moments=moments, masters=masters)


def optimizer(parameter: torch.nn.Parameter, how: SpeechStage, lr: float = 1e-3, seed: int = 0, decay: float = 0.0) -> CompactAdamW:
    return CompactAdamW([{"params": [parameter], "lr": lr, "weight_decay": decay}], [parameter], how, seed, betas=BETAS, eps=EPS)


@pytest.mark.parametrize("value", [1.0, -1.0, 0.1, -0.1, 1.001, -3.14159, 1e-30, 6.5e4, 0.0])
def test_rounding_is_right_in_the_mean(value: float) -> None:
    """Over all noise there is; both neighbours are within one unit of bfloat16, and its own values stay."""
    exact = torch.full(ALL_NOISE.shape, value)
    results = rounded(exact, ALL_NOISE)
    assert torch.equal(results.bfloat16().float(), results)
    assert results.double().mean().item() == pytest.approx(float(exact[0].double()), rel=1e-9)
    assert len(results.unique()) == (1 if exact[0].bfloat16().float() == exact[0] else 2)
    assert ((results - exact).abs() <= abs(value) * 2**-7).all()


def test_steps_too_small_for_bfloat16_arrive_in_the_mean() -> None:
    """Half a unit below 1 is 0.002: to the nearest, 20 steps of 0.0001 would change nothing."""
    master = torch.nn.Parameter(torch.ones(256, BLOCK))
    mover = optimizer(master, stage(masters="bfloat16"), lr=1e-4)
    for _ in range(20):
        master.grad = torch.ones_like(master)
        mover.step()
    assert torch.equal(master.bfloat16().float(), master)
    assert float(1 - master.detach().mean()) == pytest.approx(20 * 1e-4, rel=0.05)


def test_float32_moments_are_those_of_adamw() -> None:
    """In float32 throughout, the step is torch's own: momentum, bias corrections and decay."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(8, BLOCK, generator=generator)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    mover = optimizer(ours, stage(), decay=0.1)
    expected = torch.optim.AdamW([{"params": [theirs], "lr": 1e-3, "weight_decay": 0.1}], betas=BETAS, eps=EPS)
    for _ in range(5):
        ours.grad = torch.randn(start.shape, generator=generator)
        theirs.grad = ours.grad.clone()
        mover.step()
        expected.step()
        assert ours.grad is None, "dropped as soon as it was used"
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.allclose(mover.state[ours]["exp_avg"], expected.state[theirs]["exp_avg"], atol=1e-6)


def test_moments_of_8_bits_take_a_quarter_and_move_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a tensor is computed in several pieces, the last of them a short one."""
    monkeypatch.setattr(compact, "CHUNK", 5)
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.zeros(8, BLOCK)) for _ in range(2))
    mover, expected = optimizer(ours, stage("8bit")), optimizer(theirs, stage())
    for _ in range(20):
        gradient = torch.randn(8, BLOCK, generator=generator) * torch.logspace(-3, 0, 8).unsqueeze(1)
        ours.grad, theirs.grad = gradient, gradient.clone()
        mover.step()
        expected.step()
    state = {k: v for k, v in mover.state[ours].items() if k != "step"}
    assert sum(v.numel() * v.element_size() for v in state.values()) == 2 * (8 * BLOCK + 8 * 4)
    assert (ours - theirs).norm() < 0.03 * theirs.norm()
    for row in range(8):  # each has a scale of its own
        assert (ours[row] - theirs[row]).norm() < 0.05 * theirs[row].norm()


def test_draws_follow_from_seed_parameter_and_step() -> None:
    def after(seed: int, steps: int = 2) -> torch.Tensor:
        master = torch.nn.Parameter(torch.full((4, BLOCK), 0.3))
        mover = optimizer(master, stage(masters="bfloat16"), seed=seed)
        for _ in range(steps):
            master.grad = torch.ones_like(master)
            torch.rand(3)  # what others draw changes nothing
            mover.step()
        return master.detach()

    assert torch.equal(after(1), after(1))
    assert not torch.equal(after(1), after(2))
    assert not torch.equal(after(1), after(1, steps=1))


def test_only_weights_of_linear_layers_are_narrow(opened: LoadedBase) -> None:
    """Biases, rows and low-rank deltas keep float32; the result and what a bundle holds are bfloat16 values."""
    low_rank = {"match": "talker.codec_head", "lr": 1e-3, "lora": {"rank": 2, "alpha": 4}}
    how = speech_stage(LANGUAGE, PROJECTION, low_rank, masters="bfloat16", moments="8bit")
    learner, _ = learner_of(opened, how)
    try:
        narrow = {id(p) for p in learner.linear}
        assert {tuple(p.shape) for p in learner.linear} == {
            tuple(w.shape) for w in opened.talker.text_projection.parameters() if w.ndim == 2
        }
        mover = make_optimizer(how, learner, opened.device, 0)
        assert not mover.defaults["fused"], "no kernel of torch's leaves a step out by itself"
        for parameter in learner.parameters():
            torch.nn.init.normal_(parameter)
            parameter.grad = torch.ones_like(parameter)
        mover.step()
        for parameter in learner.parameters():
            assert torch.equal(parameter.bfloat16().float(), parameter) == (id(parameter) in narrow)
            assert ("exp_avg-codes" in mover.state[parameter]) == (id(parameter) in narrow)
    finally:
        learner.close()


def losses(opened: LoadedBase, data: SpeechData, **choices: Any) -> list[float]:
    """Of 12 steps on a layer of the talker, its head and the text projection."""
    train = [{"match": m, "lr": 1e-3} for m in ("talker.model.layers.5", "talker.codec_head")]
    fields = {"steps": 12, "layout": "streaming", "batch": {"frames": 16}, "predictor_weight": 0.0}
    how = speech_stage(PROJECTION, *train, **fields, **choices)
    learner, _ = learner_of(opened, how)
    objective = SpeechObjective(how, opened, learner.tables, {"malay": data}, seed=0, terms=("talker",))
    recorder = Recorder()
    try:
        train_stage(how, opened, learner, objective, Sampler(objective.lengths(), {}, how.batch, 0), Hooks(observer=recorder))
    finally:
        learner.close()
    return [r.losses["talker"] for r in recorder.steps]


@pytest.mark.slow
def test_losses_are_near_those_of_float32(opened: LoadedBase, own: SpeechData) -> None:
    """The same steps on the same data, each within hundredths of what is learned."""
    expected = losses(opened, own)
    learned = expected[0] - expected[-1]
    assert learned > 1.0, "the steps are long enough to tell"
    found = losses(opened, own, moments="8bit", masters="bfloat16")
    assert found != expected
    assert found == pytest.approx(expected, abs=0.03 * learned)
