"""Which rows make which step."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qrecipe.data.batches import Item, Micro, Sampler, part_of
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.model.load import LoadedBase
from qrecipe.model.weights import Delta, Learner
from qrecipe.plan.trainable import Group, Trainable
from qrecipe.recipe.stage import Batch, SpeechStage, Train
from qrecipe.train.objectives.speech import SpeechObjective
from qrecipe.world import World
from tests.support import audio

OWN = [11 + 7 * i % 60 for i in range(40)]
OTHERS = [13 + 5 * i % 50 for i in range(25)]


def sampler(share: float | None = None, seed: int = 0, **batch: int) -> Sampler:
    sources = {"own": OWN, "others": OTHERS} if share else {"own": OWN}
    return Sampler(sources, {"others": share} if share else {}, Batch(**{"frames": 200, **batch}), seed)


def items(epoch: list[list[Micro]]) -> list[Item]:
    return [item for step in epoch for micro in step for item in micro]


@pytest.mark.parametrize("number", [0, 1, 5])
@pytest.mark.parametrize("share", [None, 0.3])
def test_every_own_row_comes_once_an_epoch(number: int, share: float | None) -> None:
    own = [i.index for i in items(sampler(share).epoch(number)) if i.dataset == "own"]
    assert sorted(own) == list(range(len(OWN)))


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.8])
def test_shares_are_shares_of_frames(share: float) -> None:
    """Within a row over any number of epochs, whatever the sizes of the datasets."""
    it = sampler(share)
    frames: Counter[str] = Counter()
    for number in range(4):
        for item in items(it.epoch(number)):
            frames[item.dataset] += item.length
        expected = share / (1 - share) * frames["own"]
        assert abs(frames["others"] - expected) <= 2 * max(OTHERS), number


def test_a_small_share_goes_through_the_whole_dataset_over_epochs() -> None:
    it = sampler(0.1)
    drawn = Counter(i.index for number in range(20) for i in items(it.epoch(number)) if i.dataset == "others")
    assert set(drawn) == set(range(len(OTHERS)))
    assert max(drawn.values()) - min(drawn.values()) <= 1


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=80),
    frames=st.integers(1, 400),
    accumulate=st.integers(1, 4),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_the_budget_holds_and_is_used(lengths: list[int], frames: int, accumulate: int, seed: int) -> None:
    epoch = Sampler({"d": lengths}, {}, Batch(frames=frames, accumulate=accumulate), seed).epoch(0)
    for step in epoch:
        assert 1 <= len(step) <= accumulate
        for micro in step:
            assert micro
            assert len(micro) == 1 or sum(i.length for i in micro) <= frames
    assert sorted(i.index for i in items(epoch)) == list(range(len(lengths)))
    # Each was closed by a row that it did not hold, so two that followed each other are more than one budget together.
    assert sum(map(len, epoch)) <= 1 + 2 * sum(lengths) / frames


def test_batches_are_full_and_their_rows_alike() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(20, 250) for _ in range(500)]
    micro = [m for step in Sampler({"d": lengths}, {}, Batch(frames=2000), 0).epoch(0) for m in step]
    assert sum(lengths) / (2000 * len(micro)) > 0.93
    spreads = sorted(max(i.length for i in m) - min(i.length for i in m) for m in micro)
    assert spreads[len(spreads) // 2] < 60  # of 230


def test_the_same_seed_gives_the_same_batches() -> None:
    assert sampler(0.2).epoch(3) == sampler(0.2).epoch(3)
    assert sampler(0.2).epoch(3) != sampler(0.2).epoch(4)
    assert sampler(0.2, seed=1).epoch(3) != sampler(0.2).epoch(3)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_ranks_divide_the_micro_batches(size: int) -> None:
    """Every row once, in as many micro-batches or in parts of them, and no rank much longer than another."""
    for accumulate in (1, 4):
        for step in sampler(0.2, accumulate=accumulate).epoch(0):
            parts = [part_of(step, World(rank, size)) for rank in range(size)]
            items = sorted((i for micro in step for i in micro), key=str)
            assert items == sorted((i for part in parts for micro in part for i in micro), key=str)
            lengths = [sum(i.length for micro in part for i in micro) for part in parts]
            longest = max(sum(i.length for i in m) for m in step) if len(step) % size == 0 else max(i.length for i in items)
            assert max(lengths) - min(lengths) <= longest


def test_epochs_in_steps() -> None:
    it = sampler()
    one, two = len(it.epoch(0)), len(it.epoch(1))
    assert it.steps(None, 7) == 7
    assert it.steps(1.0, None) == one
    assert it.steps(2.0, None) == one + two
    assert it.steps(1.5, None) == one + round(0.5 * two)
    assert it.steps(0.001, None) == 1
    batches = it.batches()
    assert [next(batches) for _ in range(one + two)] == it.epoch(0) + it.epoch(1)


def test_splitting_a_batch_changes_no_gradient(opened: LoadedBase, voice: Any) -> None:
    """Sums over labels divided by the labels of the whole batch, through the real objective: rows alone or together."""
    texts = ["Saya suka makan nasi.", "Adik pergi.", "Ibu memasak di dapur hari ini."]
    rows = []
    for i, text in enumerate(texts):
        role, body = opened.tokenizer.assistant(text)
        codes = opened.encode([audio.speech(i, 0.4 + 0.4 * i)])[0]
        rows.append(SpeechRow(i + 1, text, role, body, codes, 1.0, 0.0, "", "ref", None, cut=i == 1))  # type: ignore[arg-type]
    data = SpeechData("d", "english", rows, x_vectors={"ref": voice.x_vector})  # type: ignore[dict-item]
    whole = [Item("d", i, r.frames) for i, r in enumerate(rows)]
    name = "talker.text_projection.linear_fc1.weight"
    train = Train(match=name, lr=1e-3)
    stage = SpeechStage.model_validate(
        {"id": "s", "objective": "speech", "data": ["d"], "steps": 1, "train": [train.model_dump(by_alias=True)]}
    )

    def gradient(split: list[Micro]) -> torch.Tensor:
        learner = Learner(opened.net, Trainable([Group(train, (name,), None, True, None, 0)]), Delta())
        objective = SpeechObjective(stage, opened, learner.tables, {"d": data}, seed=0)
        labels = objective.count_labels(split)
        for micro in split:
            found = objective.loss_sums(micro, 1)
            sum(objective.weights[t] * v / labels[t] for t, v in found.items()).backward()  # type: ignore[union-attr]
        (parameter,) = learner.parameters()
        assert parameter.grad is not None
        grad = parameter.grad.clone()
        learner.close()
        return grad

    together = gradient([whole])
    assert together.abs().max() > 1e-4
    for split in ([[i] for i in whole], [whole[:2], whole[2:]], [whole[2:], whole[1:2], whole[:1]]):
        assert torch.allclose(gradient(split), together, atol=1e-7, rtol=1e-4)
