"""Twenty steps give the losses that the plainest loop gives: stock modules with padding, torch's cross-entropy, AdamW by itself."""

from __future__ import annotations

import pytest
import torch

from qrecipe.data.batches import Sampler
from qrecipe.data.speech import SpeechData
from qrecipe.model.load import LoadedBase
from qrecipe.recipe.stage import SpeechStage
from qrecipe.train.loop import Hooks, train_stage
from qrecipe.train.objectives.speech import SpeechObjective
from qrecipe.train.optimizer import lr_scale
from tests.support import reference
from tests.support.training import PROJECTION, ROW, Recorder, learner_of, speech_stage

STEPS = 20
TOLERANCE = 2e-4
"""Nats. Both compute in float32; only the order of sums differs, and AdamW's division by small second moments spreads it."""

TRAIN = (
    PROJECTION,
    {"match": "talker.model.layers.5", "lr": 3e-4, "weight_decay": 0.01},
    {"match": "talker.codec_head", "lr": 3e-4},
    {"match": "talker.code_predictor.model.layers.2", "lr": 3e-4},
)


@pytest.mark.slow
def test_twenty_steps_are_those_of_the_plain_loop(opened: LoadedBase, own: SpeechData) -> None:
    stage = speech_stage(*TRAIN, steps=STEPS, layout="streaming", batch={"frames": 8, "accumulate": 2}, warmup=0.1, schedule="cosine")
    learner, _ = learner_of(opened, stage)
    objective = SpeechObjective(stage, opened, learner.tables, {"malay": own}, seed=0)
    sampler = Sampler(objective.lengths(), {}, stage.batch, 0)
    recorder = Recorder()
    try:
        train_stage(stage, opened, learner, objective, sampler, Hooks(observer=recorder))
    finally:
        learner.close()
    expected, gradients = _plain(opened, own, stage, sampler)
    for step, (ours, theirs) in enumerate(zip([r.losses for r in recorder.steps], expected, strict=True), start=1):
        assert ours == pytest.approx(theirs, abs=TOLERANCE), f"step {step}"
    assert [r.gradient_norm for r in recorder.steps] == pytest.approx(gradients, rel=1e-2)
    assert expected[-1]["talker"] < expected[0]["talker"] - 1.0, "the steps are long enough to tell"


def _plain(opened: LoadedBase, own: SpeechData, stage: SpeechStage, sampler: Sampler) -> tuple[list[dict[str, float]], list[float]]:
    learner, _ = learner_of(opened, stage)
    optimizer = torch.optim.AdamW(
        [{"params": g.parameters, "lr": g.lr, "weight_decay": g.weight_decay} for g in learner.groups], betas=(0.9, 0.95), eps=1e-8
    )
    peaks = [g.lr for g in learner.groups]
    losses, norms = [], []
    batches = sampler.batches()
    try:
        for step in range(1, STEPS + 1):
            rows = [own.rows[item.index] for micro in next(batches) for item in micro]
            examples = [own.example(r, ROW, "streaming", "x_vector", opened.tokenizer) for r in rows]
            found = reference.losses(opened.talker, opened.config, examples)
            frames = sum(r.frames for r in rows)
            talker = found.talker / (frames + len(rows))
            predictor = found.predictor / (frames * (opened.groups - 1))
            optimizer.zero_grad()
            (talker + 0.3 * predictor).backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(list(learner.parameters()), 1.0)))
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * lr_scale(step, STEPS, stage)
            optimizer.step()
            losses.append({"talker": float(talker.detach()), "predictor": float(predictor.detach())})
    finally:
        learner.close()
    return losses, norms
