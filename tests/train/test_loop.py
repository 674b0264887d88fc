"""The loop of one stage: it learns, it selects, and it refuses to go on in silence."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from qrecipe.data.batches import Item, Sampler, part_of
from qrecipe.data.speech import SpeechData
from qrecipe.data.text import TextData
from qrecipe.errors import EngineError
from qrecipe.evaluate.measure import teacher_forced
from qrecipe.model import forward, prompt
from qrecipe.model.load import LoadedBase
from qrecipe.model.weights import Guard, Learner
from qrecipe.qwen3 import CODEC_TABLE, TEXT_TABLE
from qrecipe.recipe.stage import SpeechStage, TextLmStage
from qrecipe.train.loop import Hooks, StageResult, train_stage
from qrecipe.train.objectives.speech import SpeechObjective
from qrecipe.train.objectives.text_lm import TextLmObjective
from qrecipe.train.optimizer import lr_scale
from qrecipe.train.progress import HeldOut
from qrecipe.world import World
from tests.support import recipes
from tests.support.training import LANGUAGE, PROJECTION, ROW, Recorder, learner_of, speech_stage


class Run(StageResult):
    """A stage's result with what was reported on the way."""

    steps_seen: list[Any]
    selected: list[tuple[int, float, bool]]


@pytest.fixture
def train(opened: LoadedBase) -> Callable[..., Run]:
    """Trains a stage on datasets and gives the modules their weights back."""

    def go(stage: SpeechStage, *data: SpeechData, evaluate: Callable[[Learner], float | HeldOut] | None = None, wrap: Any = None) -> Run:
        """`evaluate` gives a likelihood, which is its own score, or a value with a score."""

        def held_out(step: int) -> HeldOut:
            assert evaluate is not None
            value = evaluate(learner)
            return value if isinstance(value, HeldOut) else HeldOut(value, value)

        learner, _ = learner_of(opened, stage, sorted({t for d in data if d.language == "malay" for r in d.rows for t in r.body}))
        objective: Any = SpeechObjective(stage, opened, learner.tables, {d.name: d for d in data}, seed=0)
        if wrap is not None:
            objective = wrap(objective)
        shares = {u.use: u.share for u in stage.uses if u.share is not None}
        recorder = Recorder()
        try:
            result = train_stage(
                stage,
                opened,
                learner,
                objective,
                Sampler(objective.lengths(), shares, stage.batch, 0),
                Hooks(None if evaluate is None else held_out, observer=recorder),
            )
        finally:
            learner.close()
        run = Run(**vars(result))
        object.__setattr__(run, "steps_seen", recorder.steps)
        object.__setattr__(run, "selected", recorder.selections)
        return run

    return go


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 0.75, 0.5, 0.25, 0.0]),
        ("cosine", [0.5, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0]),
    ],
)
def test_the_rate_rises_and_falls(schedule: str, expected: list[float]) -> None:
    """Two of six steps warm up: half the peak, then the peak."""
    stage = speech_stage(PROJECTION, warmup=2 / 6, schedule=schedule)
    assert [lr_scale(step, 6, stage) for step in range(1, 7)] == pytest.approx(expected)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert lr_scale(1, 10, speech_stage(PROJECTION, warmup=0.0, schedule="constant")) == 1.0
    assert 0.9 < lr_scale(1, 10, speech_stage(PROJECTION, warmup=0.0, schedule="cosine")) < 1.0


def test_a_language_is_learned(train: Any, own: SpeechData) -> None:
    """Ten steps of the language's row and the projection lower the loss on what they see, and the new row moves."""
    run = train(speech_stage(LANGUAGE, PROJECTION, steps=10, layout="streaming"), own)
    losses = [s.losses["talker"] for s in run.steps_seen]
    assert len(losses) == 10
    assert losses[-1] < losses[0] - 0.3
    assert (run.steps, run.chosen_step) == (10, 10)
    assert run.delta.rows[CODEC_TABLE][0].tolist() == [ROW]
    assert set(run.delta.whole) == {f"talker.text_projection.linear_fc{i}.{p}" for i in (1, 2) for p in ("weight", "bias")}


def test_nothing_else_moves(opened: LoadedBase, own: SpeechData, train: Any) -> None:
    stage = speech_stage({**LANGUAGE, "weight_decay": 0.5}, {"match": "talker.codec_head", "lr": 1e-2, "weight_decay": 0.5})
    _, found = learner_of(opened, stage)
    guard = Guard(opened.net, found)
    run = train(stage, own)
    guard.check(opened.net)
    before = opened.talker.model.codec_embedding.weight[ROW]
    assert not torch.equal(run.delta.rows[CODEC_TABLE][1][0], before)


def test_the_loss_is_over_the_labels_of_the_whole_batch(opened: LoadedBase, own: SpeechData, train: Any) -> None:
    """The first step's loss is the mean over all labels of the untrained model, ends included."""
    run = train(speech_stage(PROJECTION, layout="streaming", steps=1), own)
    examples = [own.example(r, ROW, "streaming", "x_vector", opened.tokenizer) for r in own.rows]
    batch = prompt.collate(examples, prompt.ControlIds.of(opened.config))
    with torch.no_grad():
        logits = forward.speech_logits(forward.Tables(opened.talker), batch, torch.float32)
    assert len(batch.labels) == sum(r.frames + 1 for r in own.rows)
    assert run.steps_seen[0].losses["talker"] == pytest.approx(float(forward.talker_nll(logits, batch).mean()), abs=1e-5)
    assert run.steps_seen[0].losses["predictor"] == pytest.approx(float(forward.predictor_nll(logits, batch).mean()), abs=1e-5)


def test_micro_batches_make_the_same_step(own: SpeechData, train: Any) -> None:
    """One batch of four rows, or four of one row each that are accumulated."""
    frames = max(r.frames for r in own.rows)
    one = train(speech_stage(LANGUAGE, PROJECTION, steps=2, layout="streaming"), own)
    four = train(speech_stage(LANGUAGE, PROJECTION, steps=2, layout="streaming", batch={"frames": frames, "accumulate": 4}), own)
    assert four.steps_seen[0].losses == pytest.approx(one.steps_seen[0].losses, abs=1e-5)
    assert four.steps_seen[0].gradient_norm == pytest.approx(one.steps_seen[0].gradient_norm, rel=1e-4)
    assert four.steps_seen[1].losses == pytest.approx(one.steps_seen[1].losses, abs=1e-3)


def test_every_batch_but_the_first_is_made_ahead(own: SpeechData, train: Any) -> None:
    """As on a GPU, but for pinned memory: a step that nobody expected, as the first, costs none of the others."""
    made: list[tuple[int, str]] = []

    def expecting(objective: Any) -> Any:
        lay_out = objective._batch

        def batch(micro: Any, step: int) -> Any:
            made.append((step, threading.current_thread().name.split("_")[0]))
            return lay_out(micro, step)

        objective._batch = batch
        objective.prefetch = lambda micro, step: objective._prefetcher.start(step, tuple(micro), lambda: batch(micro, step))
        return objective

    run = train(speech_stage(PROJECTION, steps=4, layout="streaming"), own, wrap=expecting)
    assert sorted(made) == [(1, "MainThread"), (2, "prefetch"), (3, "prefetch"), (4, "prefetch")]
    plain = train(speech_stage(PROJECTION, steps=4, layout="streaming"), own)
    assert [s.losses for s in run.steps_seen] == [s.losses for s in plain.steps_seen]


def test_ranks_sum_to_one_process(opened: LoadedBase, own: SpeechData) -> None:
    """Every rank's gradient is its part of the whole batch's: their sum is what one process computes."""
    stage = speech_stage(LANGUAGE, layout="streaming", batch={"frames": 1, "accumulate": 4})

    def gradient(worlds: list[World]) -> torch.Tensor:
        learner, _ = learner_of(opened, stage)
        objective = SpeechObjective(stage, opened, learner.tables, {"malay": own}, seed=0)
        (step,) = Sampler(objective.lengths(), {}, stage.batch, 0).epoch(0)
        labels = objective.count_labels(step)["talker"]
        for world in worlds:
            for m in part_of(step, world):
                (objective.loss_sums(m, 1)["talker"] / labels).backward()
        (values,) = learner.parameters()
        assert values.grad is not None
        return values.grad

    assert torch.allclose(gradient([World(0, 1)]), gradient([World(r, 3) for r in range(3)]), atol=1e-7)


def test_a_cut_recording_has_no_end_to_learn(opened: LoadedBase, voice: Any, own: SpeechData) -> None:
    stage = speech_stage(PROJECTION)
    learner, _ = learner_of(opened, stage)
    whole = SpeechObjective(stage, opened, learner.tables, {"malay": own}, seed=0)
    shortened = replace(own, rows=[replace(r, cut=True) for r in own.rows])
    cut = SpeechObjective(stage, opened, learner.tables, {"malay": shortened}, seed=0)
    ((micro,),) = Sampler(whole.lengths(), {}, stage.batch, 0).epoch(0)
    learner.close()
    assert whole.count_labels([micro])["talker"] - cut.count_labels([micro])["talker"] == len(own.rows)
    end = opened.config.talker_config.codec_eos_token_id
    for rows, ends in ((own.rows, 4), (shortened.rows, 0)):
        examples = [own.example(r, ROW, "streaming", None, opened.tokenizer) for r in rows]
        assert int((prompt.collate(examples, prompt.ControlIds.of(opened.config)).labels == end).sum()) == ends


def test_a_group_that_the_loss_does_not_reach_is_an_error(own: SpeechData, train: Any) -> None:
    """Without the predictor's loss its heads would stay as they are, silently."""
    heads = {"match": "talker.code_predictor.lm_head", "lr": 1e-3}
    with pytest.raises(EngineError, match=r"`talker\.code_predictor\.lm_head` gets no gradient"):
        train(speech_stage(PROJECTION, heads, predictor_weight=0.0), own)


def test_a_row_that_no_data_uses_is_an_error(english: SpeechData, train: Any) -> None:
    """The language's row, with recordings of another language alone."""
    with pytest.raises(EngineError, match="codec_embedding` gets no gradient"):
        train(speech_stage(LANGUAGE, PROJECTION, data=["english"], epochs=1, steps=None), english)


def test_a_first_batch_of_replay_alone_is_no_error(own: SpeechData, english: SpeechData, train: Any) -> None:
    """One row a step: some steps hold no row of the new language, whichever comes first."""
    data = ["malay", {"use": "english", "share": 0.5}]
    for seed_rows in (own.rows, own.rows[1:], own.rows[2:], own.rows[:1]):
        run = train(
            speech_stage(LANGUAGE, PROJECTION, data=data, epochs=1, steps=None, batch={"frames": 1}), replace(own, rows=seed_rows), english
        )
        assert run.steps >= len(seed_rows) + 1


class Poisoned:
    """An objective whose losses turn to NaN after some steps."""

    def __init__(self, objective: SpeechObjective, after: int) -> None:
        self._objective, self._after = objective, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)

    def loss_sums(self, micro: Any, step: int) -> dict[str, torch.Tensor]:
        sums = self._objective.loss_sums(micro, step)
        return {k: v * math.nan if step > self._after else v for k, v in sums.items()}


def test_losses_that_are_not_finite_stop_the_stage(own: SpeechData, train: Any) -> None:
    with pytest.raises(EngineError, match="not finite in 5 steps in a row"):
        train(speech_stage(PROJECTION, steps=9), own, wrap=lambda o: Poisoned(o, 1))


def test_a_stage_that_never_took_a_step_is_an_error(own: SpeechData, train: Any) -> None:
    """However short it is: nothing was learned, and nobody would know."""
    with pytest.raises(EngineError, match="not finite"):
        train(speech_stage(PROJECTION, steps=2), own, wrap=lambda o: Poisoned(o, 0))


def test_a_step_that_is_not_finite_changes_nothing(own: SpeechData, train: Any) -> None:
    one = train(speech_stage(PROJECTION, steps=1), own)
    three = train(speech_stage(PROJECTION, steps=3), own, wrap=lambda o: Poisoned(o, 1))
    assert len(three.steps_seen) == 1
    for name, values in one.delta.whole.items():
        assert torch.equal(values, three.delta.whole[name])


def test_the_best_step_is_the_result(own: SpeechData, train: Any) -> None:
    """By held-out data: the values are given here, the weights of step 2 must come back."""
    values = iter([5.0, 4.0, 3.0, 3.5, 3.2])
    select = {"metric": "talker_nll", "data": "dev", "every": 1}
    seen: list[torch.Tensor] = []

    def evaluate(learner: Learner) -> float:
        seen.append(learner.snapshot().rows[CODEC_TABLE][1])
        return next(values)

    run = train(speech_stage(LANGUAGE, steps=4, select=select), own, evaluate=evaluate)
    assert (run.chosen_step, run.steps) == (2, 4)
    assert torch.equal(run.delta.rows[CODEC_TABLE][1], seen[2])
    assert not torch.equal(seen[2], seen[4])
    assert run.history == [(0, 5.0), (1, 4.0), (2, 3.0), (3, 3.5), (4, 3.2)]
    assert run.selected == [(0, 5.0, True), (1, 4.0, True), (2, 3.0, True), (3, 3.5, False), (4, 3.2, False)]


def test_the_score_decides_and_not_the_value(own: SpeechData, train: Any) -> None:
    """Of some metrics more is better, and a step beyond a bound is never the result, however good its value."""
    looks = iter([HeldOut(9.0, math.inf), HeldOut(1.0, -1.0), HeldOut(3.0, -3.0), HeldOut(8.0, math.inf)])
    select = {"metric": "text_gain", "data": "dev", "every": 1}
    run = train(speech_stage(LANGUAGE, steps=3, select=select), own, evaluate=lambda _: next(looks))
    assert run.chosen_step == 2
    assert run.selected == [(0, 9.0, False), (1, 1.0, True), (2, 3.0, True), (3, 8.0, False)]


def test_without_a_step_that_may_be_chosen_the_last_is_the_result(own: SpeechData, train: Any) -> None:
    select = {"metric": "text_gain", "data": "dev", "every": 1}
    run = train(speech_stage(LANGUAGE, steps=2, select=select), own, evaluate=lambda _: HeldOut(1.0, math.inf))
    assert (run.chosen_step, [v for _, v in run.history]) == (2, [1.0, 1.0, 1.0])


def test_patience_ends_a_stage(own: SpeechData, train: Any) -> None:
    values = iter([5.0, 4.0, 4.5, 4.6, 1.0])
    select = {"metric": "talker_nll", "data": "dev", "every": 1, "patience": 2}
    run = train(speech_stage(LANGUAGE, steps=9, select=select), own, evaluate=lambda _: next(values))
    assert (run.chosen_step, run.steps) == (1, 3)


def test_selection_judges_the_weights_that_learn(opened: LoadedBase, own: SpeechData, train: Any) -> None:
    """Through the row subsets, which the modules' own tables do not show."""
    select = {"metric": "talker_nll", "data": "dev", "every": 3}

    def evaluate(learner: Learner) -> float:
        return sum(i.talker_nll for _, i in teacher_forced(opened, learner.tables, own, "streaming", None)) / len(own.rows)

    run = train(speech_stage({**LANGUAGE, "lr": 3e-2}, steps=3, layout="streaming", select=select), own, evaluate=evaluate)
    assert run.history[-1][1] < run.history[0][1]
    assert run.chosen_step == 3


@pytest.fixture
def text_stage() -> TextLmStage:
    return TextLmStage.model_validate(
        {
            "id": "t",
            "objective": "text_lm",
            "data": ["text", "other"],
            "train": [{"match": "talker.model.text_embedding", "rows": "seen", "lr": 5e-3, "weight_decay": 0.1}],
            "steps": 6,
            "warmup": 0.0,
            "fit_steps": 15,
            "fit_lr": 1e-2,
        }
    )


def test_text_moves_the_seen_rows_alone(opened: LoadedBase, text_stage: TextLmStage) -> None:
    """Its loss falls; rows that only replay uses, rows of the template and every other tensor stay as they are."""
    own = TextData("text", "malay", [opened.tokenizer.assistant(t)[1] for t in recipes.MALAY])
    other = TextData("other", "english", [opened.tokenizer.assistant(t)[1] for t in recipes.ENGLISH])
    seen = sorted({t for body in own.bodies for t in body})
    learner, found = learner_of(opened, text_stage, seen)
    guard = Guard(opened.net, found)
    objective = TextLmObjective(text_stage, opened, learner.tables, {"text": own, "other": other}, seen, 0)
    sampler = Sampler(objective.lengths(), {}, text_stage.batch, 0)
    maps: list[torch.Tensor] = []
    recorder = Recorder(on_step=lambda r: maps.append(objective.map.detach().clone()))
    result = train_stage(text_stage, opened, learner, objective, sampler, Hooks(observer=recorder))
    learner.close()
    guard.check(opened.net)
    fitted, steps = [e["loss"] for e in recorder.shown if e["event"] == "fitting"], recorder.steps
    assert fitted[-1] < fitted[0]
    assert [e["loss"] for e in recorder.of("fitted")] == fitted[-1:]
    assert steps[-1].losses["text"] < steps[0].losses["text"]
    assert steps[0].losses["anchor"] == 0.0
    assert steps[-1].losses["anchor"] > 0.0
    assert torch.equal(objective.map, maps[0]), "the temporary map is fitted first and then fixed"
    assert not result.delta.whole
    ids, values = result.delta.rows[TEXT_TABLE]
    assert ids.tolist() == seen
    moved = (values != opened.talker.model.text_embedding.weight[ids]).any(1)
    assert moved.all()
    only_english = {t for body in other.bodies for t in body} - set(seen)
    assert only_english, "the example is about something"


def test_text_is_read_as_before_speaking_and_the_next_token_is_predicted(opened: LoadedBase, text_stage: TextLmStage) -> None:
    """Role, language prefix and body as stock lays them out, through the stock modules, position by position."""
    talker, config = opened.talker, opened.config.talker_config
    role, body = opened.tokenizer.assistant(recipes.MALAY[0])
    seen = sorted(set(body))
    learner, _ = learner_of(opened, text_stage, seen)
    objective = TextLmObjective(text_stage, opened, learner.tables, {"text": TextData("text", "malay", [body])}, seen, 0)
    with torch.no_grad():
        ours = float(objective.loss_sums([Item("text", 0, len(body))], 1)["text"])
        learner.close()

        def text(ids: list[int]) -> torch.Tensor:
            found: torch.Tensor = talker.text_projection(talker.get_text_embeddings()(torch.tensor(ids)))
            return found

        def codec(ids: list[int]) -> torch.Tensor:
            found: torch.Tensor = talker.get_input_embeddings()(torch.tensor(ids))
            return found

        pad, bos = opened.config.tts_pad_token_id, opened.config.tts_bos_token_id
        thinking = [config.codec_think_id, config.codec_think_bos_id, ROW, config.codec_think_eos_id, config.codec_pad_id]
        head = torch.cat([text(role), text([pad] * 4 + [bos]) + codec(thinking)])
        x = torch.cat([head, text(body) + codec([config.codec_pad_id] * len(body))])
        states = talker.model(inputs_embeds=x.unsqueeze(0), use_cache=False).last_hidden_state[0, len(head) :]
        rows = talker.get_text_embeddings().weight[seen]
        scale = rows.pow(2).sum(1).mean().sqrt()
        logits = (states[:-1] @ objective.map.T) @ rows.T / scale + objective.bias
        labels = torch.tensor([seen.index(t) for t in body[1:]])
        expected = float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
    assert objective.count_labels([[Item("text", 0, len(body))]]) == {"text": len(body) - 1}
    assert ours == pytest.approx(expected, rel=1e-5)


def test_text_without_an_own_row_is_reported_as_silence(opened: LoadedBase, text_stage: TextLmStage) -> None:
    """No seen token is predicted and no anchor pulls yet: nothing could be learned."""
    body = opened.tokenizer.assistant(recipes.MALAY[0])[1]
    data = TextData("text", "malay", [body[:1]])
    learner, _ = learner_of(opened, text_stage, body[:1])
    objective = TextLmObjective(text_stage, opened, learner.tables, {"text": data}, body[:1], 0)
    try:
        with pytest.raises(EngineError, match="no gradient"):
            train_stage(text_stage, opened, learner, objective, Sampler(objective.lengths(), {}, text_stage.batch, 0))
    finally:
        learner.close()
