"""The policy gradient on cases whose answer is known: one code is drawn and rewarded, so expectations are sums over the codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from qrecipe.data.batches import Item, Sampler
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.errors import EngineError
from qrecipe.model import forward, generate, prompt
from qrecipe.model.generate.sampling import CONTROL_ROWS
from qrecipe.model.load import LoadedBase
from qrecipe.model.weights import Delta, Learner, LearningGroup
from qrecipe.recipe.stage import Batch, RewardStage
from qrecipe.report.console import STAGE_LINES
from qrecipe.train.checkpoints import Every, StageCheckpoints
from qrecipe.train.loop import Hooks, train_stage
from qrecipe.train.objectives import reward
from qrecipe.train.objectives.reward import RewardObjective, Rollout, Score
from qrecipe.train.objectives.speech import SpeechObjective
from qrecipe.train.progress import HeldOut
from tests.support import recipes
from tests.support.training import LANGUAGE, Recorder, learner_of

HEAD = {"match": "talker.codec_head", "lr": 2e-2}
HOT = 5.0
"""Temperature at which the first code is not nearly certain."""


@dataclass
class Ears:
    """A rewarder that needs no sound."""

    learner: Learner
    worth: Callable[[Rollout], float]
    frames: int = 1
    """Frames at which samples are cut."""
    reports: list[dict[str, Any]] = field(default_factory=list)

    def policy(self) -> AbstractContextManager[None]:
        return self.learner.exported(torch.float32)

    def reference(self) -> AbstractContextManager[None]:
        return self.learner.started()

    def cap(self, row: SpeechRow, language: str) -> int:
        return self.frames

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        return [Score(self.worth(r), {"cer": self.worth(r)}) for r in rollouts]

    def report(self, step: int, fields: dict[str, Any]) -> None:
        self.reports.append({"step": step, **fields})


def stage_of(*train: dict[str, Any], **changes: Any) -> RewardStage:
    fields: dict[str, Any] = {"id": "ear", "objective": "reward", "data": ["text"], "steps": 3, "warmup": 0.0, "schedule": "constant"}
    fields |= {"reward": [{"metric": "cer"}], "layout": "non_streaming", "kl_weight": 0.0, "batch": {"frames": 1}, "train": list(train)}
    return RewardStage.model_validate(fields | changes)


def sentences(opened: LoadedBase, voice: Any, count: int = 1) -> SpeechData:
    rows = [SpeechRow.of_text(i, t, *opened.tokenizer.assistant(t), 1, opened.groups) for i, t in enumerate(recipes.MALAY[:count], 1)]
    return SpeechData("text", "malay", rows, x_vectors={Path("a.wav"): voice.x_vector})


def probability(opened: LoadedBase, objective: RewardObjective, codes: set[int]) -> float:
    """Of drawing one of these codes first."""
    with torch.no_grad():
        return float(first_code(opened, objective)[list(codes)].exp().sum())


@pytest.fixture
def make(opened: LoadedBase, voice: Any) -> Iterator[Callable[..., tuple[RewardObjective, Learner, Ears]]]:
    """An objective with its learner and ears; the modules are as before afterwards."""
    learners: list[Learner] = []

    def made(stage: RewardStage, worth: Callable[[Rollout], float], count: int = 1, frames: int = 1) -> Any:
        learner, _ = learner_of(opened, stage)
        learners.append(learner)
        ears = Ears(learner, worth, frames)
        return RewardObjective(stage, opened, learner.tables, {"text": sentences(opened, voice, count)}, 0, ears), learner, ears

    yield made
    for learner in learners:
        learner.close()


def train(opened: LoadedBase, objective: RewardObjective, learner: Learner, hooks: Hooks | None = None) -> Any:
    stage = objective.stage
    sampler = Sampler(objective.lengths(), {}, stage.batch, 0, objective.updates)
    return train_stage(stage, opened, learner, objective, sampler, hooks)


def first_code(opened: LoadedBase, objective: RewardObjective, step: int = 1) -> torch.Tensor:
    """Log-probabilities of code 0 of the first frame, [codes], by the stock head and the definition of what is barred; with gradient."""
    rollout = objective._rollout(Item("text", 0, 0), step)
    batch = prompt.collate([objective._example(rollout)], objective.ids)
    # the prompt's last position predicts the first frame; the batch has no label, so it is asked for here
    hidden = _last(opened, objective.tables, batch)
    scores = opened.talker.codec_head(hidden)
    allowed = torch.arange(scores.shape[-1]) < scores.shape[-1] - CONTROL_ROWS
    return F.log_softmax(scores[allowed] / objective.stage.temperature, -1)


def _last(opened: LoadedBase, tables: forward.Tables, batch: prompt.SpeechBatch) -> torch.Tensor:
    x = forward.input_embeddings(tables, batch, torch.float32)
    return opened.talker.model(inputs_embeds=x.unsqueeze(0), use_cache=False).last_hidden_state[0, -1]


def likely(opened: LoadedBase, objective: RewardObjective, share: float) -> set[int]:
    """The likeliest codes that together have at least this probability."""
    with torch.no_grad():
        order = first_code(opened, objective).exp().sort(descending=True)
    return set(order.indices[: int((order.values.cumsum(0) < share).sum()) + 1].tolist())


def test_advantages_gains_and_divergences_by_their_definitions() -> None:
    rewards = torch.tensor([0.2, 0.9, 0.4])
    assert torch.allclose(reward.leave_one_out(rewards), torch.tensor([0.2 - 0.65, 0.9 - 0.3, 0.4 - 0.55]))
    now, drawn = torch.tensor([0.5, 0.1, 0.24, 0.2]).log(), torch.full((4,), 0.2).log()
    assert torch.allclose(reward.clipped_gain(now, drawn, 2.0, 0.2), torch.tensor([2.4, 1.0, 2.4, 2.0]))
    assert torch.allclose(reward.clipped_gain(now, drawn, -2.0, 0.2), torch.tensor([-5.0, -1.6, -2.4, -2.0]))
    mine, theirs = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.3, 0.6])
    expected = (mine * reward.divergence(mine.log(), theirs.log())).sum()  # its mean over what is drawn is the divergence
    assert torch.allclose(expected, F.kl_div(theirs.log(), mine, reduction="sum"))


def test_the_gradient_is_that_of_the_expected_reward(opened: LoadedBase, make: Any) -> None:
    """Samples of the engine, against the sum over all codes; and no further from it than plain REINFORCE with as many draws."""
    stage = stage_of(LANGUAGE, samples=128, temperature=HOT)
    objective, learner, _ = make(stage, lambda r: float(int(r.codes[0, 0]) in wanted))
    objective.terms = ("talker",)  # the other codes are worth nothing, which takes many samples to see
    wanted = likely(opened, objective, 0.3)
    (row,) = learner.parameters()
    mean, plain = torch.zeros_like(row), torch.zeros_like(row)
    steps = 3
    exact = torch.zeros_like(row)
    for step in range(1, steps + 1):
        logs = first_code(opened, objective, step)
        (gradient,) = torch.autograd.grad(logs[list(wanted)].exp().sum(), row, retain_graph=True)
        exact += gradient / steps
        # an independent estimate: codes by torch, the probability itself as the baseline
        generator = torch.Generator().manual_seed(step)
        drawn = torch.multinomial(logs.detach().exp(), 128, replacement=True, generator=generator)
        worth = torch.tensor([float(int(c) in wanted) for c in drawn]) - float(logs.detach()[list(wanted)].exp().sum())
        plain += torch.autograd.grad((worth * logs[drawn]).mean(), row)[0] / steps
        item = Item("text", 0, objective.lengths()["text"][0])
        objective.begin_step([[item]], step)
        loss = objective.loss_sums([item], step)["policy"]
        mean -= torch.autograd.grad(loss, row)[0] / 128 / steps
    norm = exact.norm()
    assert float((mean * exact).sum() / norm**2) == pytest.approx(1.0, abs=0.25)
    assert float((mean - exact).norm()) < 2.0 * float((plain - exact).norm())
    assert float(F.cosine_similarity(mean, exact).squeeze()) > 0.9


def drawing(objective: RewardObjective, opened: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has torch draw the first code, from what the stock head says, in place of the engine: a step takes a moment."""
    steps = iter(range(1, 10_000))

    def drawn(_: LoadedBase, prompts: Sequence[Any], __: Any) -> list[torch.Tensor]:
        step = next(steps)
        with torch.no_grad():
            probabilities = first_code(opened, objective).exp()
        codes = torch.zeros(len(prompts), 1, opened.groups, dtype=torch.int64)
        codes[:, 0, 0] = torch.multinomial(probabilities, len(prompts), True, generator=torch.Generator().manual_seed(step))
        return list(codes)

    monkeypatch.setattr(generate, "generate", drawn)


def test_a_rewarded_code_is_learned(opened: LoadedBase, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_of(HEAD, samples=16, steps=25, schedule="linear", temperature=HOT)
    objective, learner, ears = make(stage, lambda r: float(int(r.codes[0, 0]) in wanted))
    wanted = likely(opened, objective, 0.1)
    before = probability(opened, objective, wanted)
    drawing(objective, opened, monkeypatch)
    train(opened, objective, learner)
    assert ears.reports[0]["reward"] == pytest.approx(before, abs=0.2)
    assert probability(opened, objective, wanted) > 0.9


class OneNumber:
    """A learner of one number, by which the scores of some codes are raised: a model of two outcomes."""

    def __init__(self, opened: LoadedBase, codes: set[int], lr: float) -> None:
        self.number = torch.nn.Parameter(torch.zeros(()))
        self.groups = [LearningGroup("number", lr, 0.0, [self.number])]
        self.raised = torch.zeros(opened.talker.codec_head.out_features)
        self.raised[list(codes)] = 1.0
        self.hook = opened.talker.codec_head.register_forward_hook(lambda _, __, scores: scores + self.number * self.raised)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        yield self.number

    def in_order(self) -> list[torch.nn.Parameter]:
        return [self.number]

    def snapshot(self) -> Delta:
        return Delta()

    def exported(self, _: torch.dtype) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def started(self) -> Iterator[None]:
        before = self.number.data
        self.number.data = torch.zeros(())
        yield
        self.number.data = before


def test_the_divergence_holds_back_as_computed_by_hand(opened: LoadedBase, voice: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With probability p of being worth 1, p0 at the start, the reward pulls p's logit by p (1 - p) and the divergence by
    kl_weight (p - p0): learning ends where they are equal, p p + (kl_weight - 1) p - kl_weight p0 = 0."""
    kl_weight = 0.5
    stage = stage_of(HEAD, samples=16, kl_weight=kl_weight, steps=40, schedule="linear", temperature=HOT)
    ears = Ears(None, lambda r: float(int(r.codes[0, 0]) in wanted))  # type: ignore[arg-type]  # set below
    tables = forward.Tables(opened.talker)
    objective = RewardObjective(stage, opened, tables, {"text": sentences(opened, voice)}, 0, ears)
    objective.terms = ("talker",)
    wanted = likely(opened, objective, 0.15)
    before = probability(opened, objective, wanted)
    learner: Any = OneNumber(opened, wanted, 0.2 * HOT)
    ears.learner = learner
    try:
        drawing(objective, opened, monkeypatch)
        train(opened, objective, learner)
        after = probability(opened, objective, wanted)
    finally:
        learner.hook.remove()
    b = 1.0 - kl_weight
    assert after == pytest.approx((b + (b * b + 4 * kl_weight * before) ** 0.5) / 2, abs=0.06)


def test_clipping_bounds_what_further_updates_take_from_the_same_samples(opened: LoadedBase, make: Any) -> None:
    """Three updates read one batch and speak once; what was drawn stays the measure."""
    stage = stage_of(HEAD, samples=4, updates=3, steps=6, clip_ratio=0.1, temperature=HOT)
    objective, learner, ears = make(stage, lambda r: float(r.codes[:, 0].sum() % 7), count=2)
    steps = Recorder()
    train(opened, objective, learner, Hooks(observer=steps))
    assert [r["step"] for r in ears.reports] == [1, 4]
    assert len(steps.steps) == 6
    losses = [s.losses["policy"] for s in steps.steps[:3]]
    assert losses[0] > losses[1] + 1e-3  # likelier where it is worth more


def test_samples_that_are_all_worth_the_same_teach_nothing(opened: LoadedBase, make: Any) -> None:
    objective, learner, ears = make(stage_of(HEAD, samples=2, epochs=1.0, steps=None), lambda r: 0.5, count=2)
    with pytest.raises(EngineError, match="gets no gradient"):
        train(opened, objective, learner)
    assert (ears.reports[0]["dropped"], ears.reports[0]["groups"], ears.reports[0]["spread"]) == (1, 1, 0.0)
    # a divergence still holds the weights back
    objective, learner, _ = make(stage_of(HEAD, samples=2, kl_weight=1.0), lambda r: 0.5)
    item = Item("text", 0, 4)
    objective.begin_step([[item]], 1)
    assert objective.loss_sums([item], 1).keys() == {"policy", "divergence"}


def test_a_stage_that_another_ear_stops_says_how_its_reward_went(opened: LoadedBase, make: Any) -> None:
    select = {"metric": "mos", "data": "dev", "every": 1, "patience": 2}
    stage = stage_of(HEAD, samples=2, kl_weight=1.0, steps=9, select=select)
    objective, learner, _ = make(stage, lambda r: 0.1 * len(objective.history) + 1e-5 * float(r.codes.sum() % 701))
    recorder = Recorder()
    held_out = {0: 3.0, 1: 2.0, 2: 2.5, 3: 2.8, 4: 2.9}
    train(opened, objective, learner, Hooks(lambda step: HeldOut(held_out[step], held_out[step]), observer=recorder))
    (stopped,) = recorder.of("stopped_early")
    # best after step 1; after the steps 2 and 3 another ear heard nothing better
    assert stopped == {
        "event": "stopped_early",
        "step": 3,
        "best_step": 1,
        "reward_before": pytest.approx(0.0, abs=0.01),
        "reward_since": pytest.approx(0.15, abs=0.01),
    }
    assert "the ear that rewards is pleased" in STAGE_LINES["stopped_early"](stopped)
    assert "the ear" not in STAGE_LINES["stopped_early"]({"step": 3, "best_step": 1})


def test_what_is_spoken_is_what_learns(opened: LoadedBase, make: Any) -> None:
    """Rows and low-rank deltas are in the samples: the codes are the likeliest that the loss's own forward pass knows."""
    lora = {"match": "talker.model.layers.*.mlp", "lr": 1e-3, "lora": {"rank": 2, "alpha": 4.0}}
    objective, learner, _ = make(stage_of(LANGUAGE, lora, samples=2, temperature=1e-4), lambda r: 0.0, frames=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    (group,) = objective._speak([Item("text", 0, 0)], 1)
    assert torch.equal(group[0].codes, group[1].codes)
    with torch.no_grad():
        (mine,) = objective._log_probs(group[:1], learner.tables)
        with objective.rewarder.reference():
            (before,) = objective._log_probs(group[:1], forward.Tables(opened.talker))
    assert mine.talker is not None
    assert mine.predictor is not None
    assert before.predictor is not None
    assert (mine.talker > -0.7).all()
    assert (mine.predictor > -0.7).all()
    assert (before.predictor < -10).any()


def test_layouts_and_voices_are_drawn_by_turns_and_always_the_same(opened: LoadedBase, make: Any) -> None:
    objective, _, _ = make(stage_of(LANGUAGE, layout="mixed"), lambda r: 0.0)
    vectors = objective.prompts["text"].x_vectors
    vectors[Path("b.wav")] = vectors[Path("a.wav")]
    ways = [objective._rollout(Item("text", 0, 0), step) for step in range(1, 30)]
    assert {r.layout for r in ways} == {"non_streaming"}  # the text has more tokens than frames
    assert len({r.row.reference for r in ways}) == 2
    again = objective._rollout(Item("text", 0, 0), 7)
    assert (again.layout, again.row.reference) == (ways[6].layout, ways[6].row.reference)


@pytest.mark.parametrize("stopped_after", [2, 3])
def test_a_stopped_stage_goes_on_as_if_undisturbed(opened: LoadedBase, make: Any, tmp_path: Path, stopped_after: int) -> None:
    """In the middle of the updates on one batch of samples, and between two."""
    stage = stage_of(LANGUAGE, samples=3, updates=3, kl_weight=0.5, steps=5)

    def run(folder: Path | None, stop: int | None) -> Any:
        objective, learner, ears = make(stage, lambda r: float(r.codes[:, 0].sum() % 7) / 7, frames=2)

        def stopping(report: Any) -> None:
            if report.step == stop:
                raise KeyboardInterrupt

        checkpoints = None if folder is None else StageCheckpoints(folder, {}, Every(minutes=1000))
        try:
            return train(opened, objective, learner, Hooks(observer=Recorder(stopping), checkpoints=checkpoints)), ears
        finally:
            learner.close()

    whole, ears = run(None, None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stopped_after)
    resumed, later = run(tmp_path, None)
    (_, mine), (_, theirs) = resumed.delta.rows.popitem(), whole.delta.rows.popitem()
    assert torch.equal(mine[1] if isinstance(mine, tuple) else mine, theirs[1] if isinstance(theirs, tuple) else theirs)
    assert [r["step"] for r in ears.reports] == [1, 4]
    assert [r["step"] for r in later.reports] == [4]


def test_batches_are_repeated_for_every_update() -> None:
    batch = Batch(frames=4)
    once = Sampler({"text": [4] * 5}, {}, batch, 3)
    twice = Sampler({"text": [4] * 5}, {}, batch, 3, updates=2)
    assert twice.steps(1.0, None) == 2 * once.steps(1.0, None)
    plain, repeated = once.batches(), twice.batches()
    expected = [b for _ in range(7) for b in [next(plain)] * 2]
    assert [next(repeated) for _ in range(14)] == expected
    later = twice.batches(start=3)
    assert [next(later) for _ in range(11)] == expected[3:]


def test_replayed_rows_learn_beside_the_reward(opened: LoadedBase, make: Any, english: SpeechData) -> None:
    stage = stage_of(LANGUAGE, {"match": "talker.text_projection", "lr": 1e-3}, samples=2, replay_weight=0.5)
    objective, learner, _ = make(stage, lambda r: float(r.codes.sum() % 701))
    objective.replay = SpeechObjective(stage, opened, learner.tables, {"english": english}, 0)
    objective.weights |= {t: w * 0.5 for t, w in objective.replay.weights.items()}
    items = [Item("text", 0, objective.lengths()["text"][0]), Item("english", 1, english.rows[1].frames)]
    objective.begin_step([items], 1)
    sums = objective.loss_sums(items, 1)
    assert torch.allclose(sums["talker"], objective.replay.loss_sums(items[1:], 1)["talker"])
    assert objective.count_labels([items]).keys() == {"policy", "talker", "predictor"} == sums.keys()
    assert objective.weights["talker"] == 0.5
    assert [objective.name(i) for i in items] == ["text:1", "malay:2" if english.name == "malay" else "english:2"]
