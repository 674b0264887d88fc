"""A finished stage is used again only for the same question: settings, trainable set, data, base and what came before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qrecipe.model.weights import Delta
from qrecipe.plan.plan import make_plan
from qrecipe.recipe import load
from qrecipe.run.store import RunStore
from tests.support import audio, recipes


def fingerprints(recipe: Path) -> list[str | None]:
    return [s.fingerprint for s in make_plan(load(recipe, [])).plan.stages]


@pytest.fixture
def two(tiny: Callable[..., Path]) -> Callable[..., list[str | None]]:
    """Fingerprints of two stages, the first with fields replaced."""

    def make(**changes: object) -> list[str | None]:
        stages = [recipes.stage(**changes), recipes.stage(id="later")]
        return fingerprints(tiny(stages=stages))

    return make


ROWS = {"match": "talker.model.codec_embedding", "rows": "languages", "lr": 5e-3}


@pytest.mark.parametrize(
    "changes",
    [
        {"train": [ROWS]},
        {"train": [ROWS, {"match": "talker.text_projection", "lr": 2e-3}]},
        {"train": [ROWS, {"match": "talker.text_projection", "except": ["talker.text_projection.linear_fc1"], "lr": 1e-3}]},
        {"train": [ROWS, {"match": "talker.text_projection", "lr": 1e-3, "weight_decay": 0.1}]},
        {"steps": 4},
        {"layout": "streaming"},
        {"data": ["speech"]},
        {"batch": {"frames": 81}},
    ],
)
def test_what_changes_a_stage_changes_its_name_and_those_after_it(two: Callable[..., list[str | None]], changes: dict[str, object]) -> None:
    before, after = two(), two(**changes)
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert two() == before


def test_gates_decide_and_do_not_train(two: Callable[..., list[str | None]]) -> None:
    gates = [{"metric": "talker_nll", "data": "dev", "max": 5.0}]
    assert two(gates=gates, on_fail="continue") == two()


@pytest.mark.parametrize("change", ["a recording", "a transcript", "the reference"])
def test_other_data_is_another_stage(change: str, tiny: Callable[..., Path]) -> None:
    recipe = tiny()
    before = fingerprints(recipe)
    data = recipe.parent / "data"
    if change == "a recording":
        audio.write(data / "train0.wav", audio.speech(77, 1.0))
    elif change == "the reference":
        audio.write(data / "ref.wav", audio.speech(78, 1.0))
    else:
        rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
        recipes.write_rows(data / "train.jsonl", [rows[0] | {"text": "Hari ini hujan."}, *rows[1:]])
    assert fingerprints(recipe) != before


def test_a_half_written_stage_is_no_stage(tmp_path: Path) -> None:
    """The result is written last and names the fingerprint; without it, or with a torn delta, the stage is trained again."""
    store = RunStore(tmp_path)
    name = "ab" * 32
    store.save_stage(name, Delta(), {"stage": "s"})
    assert store.load_stage(name) is not None
    assert store.load_stage("ab" * 31 + "cd") is None, "another fingerprint with the same folder name"
    delta = store.stage_folder(name) / "delta.safetensors"
    whole = delta.read_bytes()
    delta.write_bytes(whole[:10])
    assert store.load_stage(name) is None
    delta.write_bytes(whole)
    (store.stage_folder(name) / "result.json").unlink()
    assert store.load_stage(name) is None


def test_how_gates_are_measured_counts_only_where_select_measures_too(tiny: Callable[..., Path]) -> None:
    select = {"metric": "talker_nll", "data": "dev", "every": 1}
    plain = fingerprints(tiny(stages=[recipes.stage()], evaluation={"layouts": ["streaming"]}))
    assert fingerprints(tiny(stages=[recipes.stage()], evaluation={"layouts": ["non_streaming"]})) == plain
    chosen = fingerprints(tiny(stages=[recipes.stage(select=select)], evaluation={"layouts": ["streaming"]}))
    assert fingerprints(tiny(stages=[recipes.stage(select=select)], evaluation={"layouts": ["non_streaming"]})) != chosen
