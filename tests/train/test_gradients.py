"""Gradients that travel between ranks while the backward pass goes on."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from qrecipe.data.batches import Item
from qrecipe.data.speech import SpeechData
from qrecipe.model.load import LoadedBase
from qrecipe.train.objectives.speech import SpeechObjective
from tests.support.training import learner_of, speech_stage

EVERYTHING = {"match": "talker", "lr": 1e-4}
PREDICTOR = {"match": "talker.code_predictor", "except": ["talker.code_predictor.model.codec_embedding"], "lr": 1e-4}


@pytest.mark.parametrize("train", [EVERYTHING, PREDICTOR], ids=["everything", "predictor"])
def test_gradients_are_complete_about_in_the_order_in_which_they_travel(opened: LoadedBase, own: SpeechData, train: Any) -> None:
    """One that is complete last and stands first would hold all others back."""
    stage = speech_stage(train)
    learner, _ = learner_of(opened, stage)
    order = list(reversed(learner.in_order()))
    complete: list[int] = []
    hooks = [p.register_post_accumulate_grad_hook(partial(lambda i, _: complete.append(i), i)) for i, p in enumerate(order)]
    try:
        objective = SpeechObjective(stage, opened, learner.tables, {own.name: own}, seed=0)
        batch = [Item(own.name, 0, own.rows[0].frames)]
        sum(objective.loss_sums(batch, 1).values()).backward()  # type: ignore[union-attr]
    finally:
        for hook in hooks:
            hook.remove()
        learner.close()
    # how many could have been sent, each after those before it, when half of them were complete
    half = set(complete[: len(complete) // 2])
    sent = next(i for i in range(len(order)) if i not in half)
    assert len(complete) == len(order)
    assert sent > 0.3 * len(order)
