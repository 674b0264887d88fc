"""What a stage computes follows from what it trains, and the traps are seen: what feeds the talker's input forbids the cache."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks.training import CASES
from qrecipe.errors import Place
from qrecipe.inputs.bases import catalogue
from qrecipe.plan import trainable
from qrecipe.plan.compute import Compute, Volume, compute
from qrecipe.recipe.stage import SpeechStage, TextLmStage
from qrecipe.source.reader import Node

HUB = "Qwen/Qwen3-TTS-12Hz-1.7B-Base"
PREDICTOR = {"match": "talker.code_predictor", "except": ["talker.code_predictor.model.codec_embedding"]}
HOUR = Volume(rows=600, frames=45_000, tokens=12_000)


def shapes() -> dict[str, tuple[int, ...]]:
    shipped = catalogue(HUB)
    assert shipped is not None
    return {k: tuple(v) for k, v in shipped["tensors"].items()}


def computed(*train: dict[str, Any], volume: Volume | None = HOUR, **changes: Any) -> Compute:
    fields = {"id": "s", "objective": "speech", "data": ["d"], "train": [{"lr": 1e-4, **t} for t in train], "epochs": 3, **changes}
    stage = (TextLmStage if fields["objective"] == "text_lm" else SpeechStage).model_validate(fields)
    found, problems = trainable.resolve(stage, Node({}, Place("r.yaml")), shapes(), {"malay": 2072}, [5, 6, 7])
    assert not problems
    made = compute(stage, found, shapes(), volume)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("train", "first", "cached"),
    [
        ([PREDICTOR], None, "hidden"),
        ([{"match": "talker.code_predictor.lm_head"}], None, "hidden"),
        ([{"match": "talker.code_predictor"}], 0, None),
        ([{"match": "talker.code_predictor.model.codec_embedding.14"}], 0, None),
        ([PREDICTOR, {"match": "talker.model.codec_embedding", "rows": "languages"}], 0, None),
        ([PREDICTOR, {"match": "talker.model.text_embedding", "rows": "seen"}], 0, None),
        ([{"match": "talker.text_projection"}], 0, None),
        ([{"match": "talker.model.layers.20-27"}], 20, "layer"),
        ([{"match": "talker.model.layers.20-27", "lora": {"rank": 8, "alpha": 16}}], 20, "layer"),
        ([{"match": "talker.model.layers.20-27"}, {"match": "talker.text_projection"}], 0, None),
        ([{"match": "talker.model.norm"}], 28, "layer"),
    ],
)
def test_where_gradients_stop_and_what_may_be_cached(train: list[dict[str, Any]], first: int | None, cached: str | None) -> None:
    """The predictor's tables and rows of the codec embedding feed the talker: with one of them hidden states move every step."""
    found = computed(*train)
    assert (found.first_layer, found.cached) == (first, cached)


@pytest.mark.parametrize(
    ("train", "weight", "terms"),
    [
        ([PREDICTOR], 0.3, ("predictor",)),
        ([{"match": "talker.codec_head"}], 0.3, ("talker",)),
        ([{"match": "talker.codec_head"}, PREDICTOR], 0.3, ("talker", "predictor")),
        ([{"match": "talker.model.layers.27"}], 0.3, ("talker", "predictor")),
        ([{"match": "talker.model.layers.27"}], 0.0, ("talker",)),
        ([PREDICTOR], 0.0, ()),
    ],
)
def test_terms_that_can_move_nothing_are_named(train: list[dict[str, Any]], weight: float, terms: tuple[str, ...]) -> None:
    assert computed(*train, predictor_weight=weight).terms == terms


def test_hidden_states_of_an_hour_take_their_room_for_every_way_of_laying_out() -> None:
    """4 kB a frame; a row that is laid out in two ways by turns is kept in both, once each, however many epochs follow."""
    assert computed(PREDICTOR, layout="streaming").cache_bytes == 45_000 * 2048 * 2
    assert computed(PREDICTOR, layout="mixed").cache_bytes == 2 * 45_000 * 2048 * 2
    assert computed(PREDICTOR, layout="mixed", epochs=1).cache_bytes == 45_000 * 2048 * 2
    assert computed(PREDICTOR, volume=None).cache_bytes is None
    assert computed({"match": "talker.text_projection"}).cache_bytes == 0


def test_memory_follows_what_trains() -> None:
    """Moments and masters of what learns alone; activations fall with what gradients do not pass."""
    rows = computed({"match": "talker.model.codec_embedding", "rows": "languages"})
    everything = computed({"match": "talker.model.layers"})
    top = computed({"match": "talker.model.layers.20-27"})
    low_rank = computed({"match": "talker.model.layers", "lora": {"rank": 16, "alpha": 32}})
    assert (rows.optimizer, rows.trained) == (2048 * 8, 2048 * 4)
    assert everything.optimizer == 1_409_408_000 * 8
    assert top.activations < rows.activations < everything.activations
    assert low_rank.optimizer < everything.optimizer / 50
    assert rows.peak < low_rank.peak < everything.peak
    assert all(c.weights == sum(math.prod(s) for s in shapes().values()) * 2 for c in (rows, everything))


def test_gradients_come_as_activations_go() -> None:
    """A backward pass holds the larger of the two; gradients of micro-batches before wait beside the next one's activations."""
    once = computed({"match": "talker.model.layers"})
    twice = computed({"match": "talker.model.layers"}, batch={"accumulate": 2})
    assert once.gradients == once.trained == 1_409_408_000 * 4
    assert (once.passing, twice.passing) == (once.activations, once.activations + once.gradients)
    assert twice.peak - once.peak == once.gradients
    few = computed({"match": "talker.model.layers"}, batch={"frames": 200})
    assert few.passing == few.gradients


@pytest.mark.parametrize(
    ("name", "measured"), [("predictor", 13.44), ("rows", 15.21), ("layers", 42.88), ("lora", 15.11), ("everything", 38.39)]
)
def test_memory_is_what_was_measured_on_a_gpu(name: str, measured: float) -> None:
    """Gigabytes that tensors held at most: one H100, torch 2.11, clips of 84 frames in the mean (docs/benchmarks.md)."""
    case = CASES[name]
    batch = {"frames": case.frames}
    fields = {"id": "s", "objective": "speech", "data": ["d"], "train": case.train, "steps": 35, "layout": "streaming", "batch": batch}
    stage = SpeechStage.model_validate({**fields, **case.settings})
    found, problems = trainable.resolve(stage, Node({}, Place("r.yaml")), shapes(), {"malay": 2072}, list(range(3774)))
    assert not problems
    made = compute(stage, found, shapes(), Volume(rows=600, frames=50_225, tokens=12_335))
    assert made is not None
    assert made.peak / 1e9 == pytest.approx(measured, rel=0.1)


def test_choices_of_the_optimiser_by_hand() -> None:
    """Layers of the 1.7B talker: 1,409,286,144 numbers in matrices, 121,856 in norms, which keep float32."""
    linear, norms = 1_409_286_144, 121_856
    for moments, masters, trained, gradients, optimizer in (
        ("float32", "float32", 4, 4, 8),
        ("8bit", "float32", 4, 4, 2 + 8 / 256),
        ("float32", "bfloat16", 0, 2, 8),
        ("8bit", "bfloat16", 0, 2, 2 + 8 / 256),
    ):
        cost = computed({"match": "talker.model.layers"}, moments=moments, masters=masters)
        assert cost.linear == linear
        assert cost.trained == trained * linear + 4 * norms
        assert cost.gradients == gradients * linear + 4 * norms
        assert cost.optimizer == round(optimizer * linear) + 8 * norms
    tables = computed({"match": "talker.model.text_embedding"}, moments="8bit", masters="bfloat16")
    assert (tables.linear, tables.optimizer) == (0, tables.parameters * 8)


def test_layers_computed_again_keep_their_input_alone() -> None:
    """Rows and the talker's loss: 28 inputs of 2,048 numbers, what one layer keeps, and logits of 3,072 in 2, 4 and 2 bytes."""
    train = [{"match": "talker.model.codec_embedding", "rows": "languages", "lr": 1e-3}]
    cost = computed(*train, predictor_weight=0.0, layout="streaming", batch={"frames": 1000})
    positions = 1000 * (75 + 10) / 75  # clips of 75 frames, a prefix of 10
    one_layer = 2 * (2 * 2048 + 3 * 2048 + 3 * 1024 + 2 * 6144)
    assert cost.layer == round(positions * one_layer)
    assert cost.recomputed == pytest.approx(positions * (28 * 2048 * 2 + one_layer) + 1000 * 3072 * (2 + 4 + 2), rel=1e-6)
    assert cost.peak_recomputing == cost.peak - cost.activations + cost.recomputed
    assert cost.longest_row == pytest.approx(0.375 * cost.recomputed, rel=1e-6)
    assert cost.least == cost.peak_recomputing - cost.recomputed + cost.longest_row + cost.gradients


@pytest.mark.parametrize(
    ("case", "settings", "measured"),
    [
        ("rows", {}, 5.47),
        ("layers", {"moments": "8bit"}, 16.51),
        ("layers", {"moments": "8bit", "masters": "bfloat16"}, 11.63),
    ],
)
def test_the_peak_with_layers_computed_again_is_what_was_measured(case: str, settings: dict[str, str], measured: float) -> None:
    """Gigabytes that tensors held at most on one H200, 20 steps (`benchmarks.scale`, rows of small cards)."""
    row = CASES[case]
    fields = {"id": "s", "objective": "speech", "data": ["d"], "train": row.train, "steps": 20, "layout": "streaming"}
    stage = SpeechStage.model_validate({**fields, "batch": {"frames": row.frames}, **row.settings, **settings})
    found, problems = trainable.resolve(stage, Node({}, Place("r.yaml")), shapes(), {"malay": 2072}, list(range(3774)))
    assert not problems
    made = compute(stage, found, shapes(), Volume(rows=300, frames=25_112, tokens=6_167))
    assert made is not None
    assert made.peak_recomputing / 1e9 == pytest.approx(measured, rel=0.12)


def test_time_counts_what_is_computed() -> None:
    """The predictor on cached states over three epochs costs the talker one pass of three."""
    cached, streaming = computed(PREDICTOR, layout="mixed"), computed(PREDICTOR, layout="streaming")
    assert cached.operations is not None
    assert streaming.operations is not None
    assert streaming.operations < cached.operations
    everything = computed({"match": "talker.model.layers"}, predictor_weight=0.0).operations
    rows = computed({"match": "talker.model.text_embedding", "rows": "seen"}, predictor_weight=0.0).operations
    assert everything is not None
    assert rows is not None
    assert rows / everything == pytest.approx(2 / 3, rel=0.02), "no gradient of weights"
    assert computed(PREDICTOR, volume=None).operations is None


def test_text_alone_runs_the_talker_for_its_rows() -> None:
    found = computed({"match": "talker.model.text_embedding", "rows": "seen"}, objective="text_lm")
    assert (found.first_layer, found.cached, found.terms) == (0, None, ("text",))
