"""A stage that learns by ear, from the recipe to the bundle: what it heard is on record, and what it was rewarded for is marked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qrecipe.data.speech import SpeechRow
from qrecipe.plan import make_plan
from qrecipe.recipe import load
from qrecipe.recipe.metrics import BUILTIN
from qrecipe.recipe.rewards import TRANSFORMS, reward_of
from qrecipe.report.history import EventReader
from qrecipe.report.rewards import rewards_html
from qrecipe.run.rewarding import RunRewarder
from tests.support import recipes
from tests.support.running import run_recipe

EAR: dict[str, Any] = {
    "id": "ear",
    "objective": "reward",
    "data": ["text", {"use": "replay", "share": 0.3}],
    "train": [
        {"match": "talker.model.codec_embedding", "rows": "languages", "lr": 5.0e-3},
        {"match": "talker.model.layers.0.mlp", "lr": 1.0e-3, "lora": {"rank": 2, "alpha": 4.0}},
    ],
    "reward": [{"metric": "silence_share"}, {"metric": "runaway_rate", "weight": 3.0}],
    "samples": 2,
    "kl_to": "base",
    "steps": 2,
    "batch": {"frames": 120},
}
SETTINGS = {"seeds": [0], "prompts": 1, "batch": 2, "layouts": ["streaming"], "frame_cap": 1.0, "probe_gates": False}
MORE = {"evaluation": SETTINGS, "teacher": {"voices": ["data/ref.wav", "data/dev0.wav"], "slowest": 40.0}}


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs" / "tiny" / "events.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.slow
def test_a_stage_that_learns_by_ear(tiny: Callable[..., Path], tmp_path: Path) -> None:
    first = recipes.stage(steps=1, train=[{"match": "talker.model.layers.0.mlp", "lr": 1.0e-3}, *EAR["train"][:1]])
    accept = [{"metric": "runaway_rate", "data": "dev", "max": 1.0}, {"metric": "talker_nll", "data": "dev", "max": 100.0}]
    file = tiny(stages=[first, EAR], accept=accept, **MORE)
    outcome = run_recipe(file, tmp_path)
    assert [s.status for s in outcome.stages] == ["kept", "kept"]
    assert [v.rewarded for v in outcome.accept] == [True, False]
    heard = [e for e in events(tmp_path) if e["event"] == "reward"]
    assert [e["step"] for e in heard] == [1, 2]
    assert all(0.0 <= e["reward"] <= 1.0 and e["groups"] >= 1 for e in heard)
    assert heard[0]["parts"].keys() == {"silence_share", "runaway_rate"}
    weighted = (heard[0]["parts"]["silence_share"] + 3 * heard[0]["parts"]["runaway_rate"]) / 4
    assert heard[0]["reward"] == pytest.approx(weighted, abs=1e-4)
    steps = [e for e in events(tmp_path) if e["event"] == "step" and e["stage"] == "ear"]
    assert steps[0]["losses"].keys() == {"policy", "divergence", "talker", "predictor"}
    assert steps[0]["losses"]["divergence"] > 0  # from the base, which the stage before has left
    page = (tmp_path / "runs" / "tiny" / "report.html").read_text("utf-8")
    assert "What ear heard" in page
    assert "rewarded by this ear" in page
    assert outcome.bundle is not None
    assert "a stage was rewarded by this ear" in (outcome.bundle / "README.md").read_text()


def test_what_a_reward_depends_on_is_in_the_fingerprint(tmp_path: Path) -> None:
    def fingerprint(**changes: Any) -> Any:
        stage = {**EAR, "train": EAR["train"][:1], "kl_to": "previous", **changes.pop("stage", {})}
        content = recipes.recipe(stages=[stage], **{**MORE, **changes})
        return make_plan(load(recipes.write(tmp_path, content))).plan.stages[0].fingerprint

    plain = fingerprint()
    assert plain is not None
    assert fingerprint(accept=[{"metric": "talker_nll", "data": "dev", "max": 100.0}]) == plain
    for change in (
        {"teacher": {**MORE["teacher"], "slowest": 30.0}},
        {"teacher": {**MORE["teacher"], "voices": ["data/ref.wav"]}},
        {"stage": {"samples": 3}},
        {"stage": {"reward": [{"metric": "runaway_rate"}]}},
    ):
        assert fingerprint(**change) != plain
    similar = {"reward": [{"metric": "speaker_similarity"}]}
    assert fingerprint(stage=similar) != fingerprint(stage=similar, evaluators={"speaker": {"backend": "wavlm", "model": "./model"}})


def test_a_sentence_that_nobody_has_read_is_cut_after_its_lead(tmp_path: Path) -> None:
    """Two seconds of silence before a short one leave it as many frames as it has without."""
    caps = []
    for lead in (0.0, 2.0):
        languages = {"malay": {"bcp47": "ms", "init": {"copy": "spanish"}, "lead": lead}}
        session: Any = SimpleNamespace(recipe=load(recipes.write(tmp_path, recipes.recipe(languages=languages))).recipe)
        unused: Any = None
        row = SpeechRow.of_text(1, "Satu dua.", [], [], 10, 8)
        caps.append(RunRewarder(session, unused, unused, unused).cap(row, "malay"))
    assert caps[1] - caps[0] == 25


def test_rewards_are_between_0_and_1_and_more_is_better() -> None:
    rewarded = {m.name: m.reward for m in BUILTIN.values() if m.source == "generated"}
    assert None not in rewarded.values()
    assert all(m.reward is None for m in BUILTIN.values() if m.source == "teacher_forced")
    for spec in BUILTIN.values():
        if spec.reward is None:
            continue
        values = [reward_of(spec.reward, v, (10.0, 20.0)) for v in (0.0, 0.5, 1.0, 3.0, 15.0, 100.0)]
        assert all(0.0 <= v <= 1.0 for v in values)
        if spec.better == "lower":
            assert values == sorted(values, reverse=True)
        elif spec.better == "higher":
            assert values == sorted(values)
    assert {t for t in rewarded.values() if t} == TRANSFORMS.keys()
    assert [reward_of("usual", v, (10.0, 20.0)) for v in (9.0, 10.0, 20.0, 25.0, 40.0)] == [0.9, 1.0, 1.0, 0.5, 0.0]
    assert [reward_of("ratio", v) for v in (0.5, 1.0, 2.0, 0.0)] == [0.5, 1.0, 0.5, 0.0]
    assert reward_of("opinion", 4.0) == 0.75
    assert reward_of("few", None) == 0.0


def test_the_table_is_that_of_the_last_training(tmp_path: Path) -> None:
    """A resumed stage goes on in its table, and one that trains again begins another; half a line of a killed run is no trouble."""

    def reward(step: int, value: float) -> dict[str, Any]:
        numbers = {"reward": value, "spread": 0.1, "groups": 3, "dropped": 1, "frames": 40.0, "cut": 0.0, "parts": {"cer": value}}
        return {"event": "reward", "time": 0.0, "stage": "ear", "step": step, **numbers}

    started = {"event": "stage_started", "stage": "ear"}
    step = {"event": "step", "time": 0.0, "stage": "ear", "step": 2, "of": 3, "losses": {"policy": 0.0, "divergence": 0.25}}
    lines = [{**started, "fingerprint": "a"}, reward(1, 0.2), {**started, "fingerprint": "b"}, reward(1, 0.3), reward(2, 0.4), step]
    lines += [{**started, "fingerprint": "b"}, reward(2, 0.5), step, reward(3, 0.6)]
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"event": "rew')
    rows = EventReader(file).read().rewards
    assert {s: r["reward"] for s, r in rows["ear"].items()} == {1: 0.3, 2: 0.5, 3: 0.6}
    assert rows["ear"][2]["divergence"] == 0.25
    table = rewards_html(rows)
    assert "<td>0.25</td>" in table
    assert "<td>1 of 3</td>" in table
    assert ">cer</th>" in table
