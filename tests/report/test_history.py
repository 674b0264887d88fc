"""A run as its events tell it: whatever was stopped, killed, put aside or half written."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from qrecipe.report.history import WAITING, EventReader, RunHistory

STARTED = {"event": "run_started", "time": 0.0, "recipe": "malay", "version": "0.1.0", "plan": "d" * 64, "start": "a" * 64, "device": "CPU"}
VERDICT = {
    "event": "verdict",
    "time": 9.0,
    "where": "talker",
    "gate": "cer(dev) max 0.4",
    "metric": "cer",
    "data": "dev",
    "outcome": "pass",
    "severity": "error",
    "value": 0.2,
    "low": 0.1,
    "high": 0.3,
    "threshold": 0.4,
    "kind": "max",
    "confidence": 0.95,
    "prompts": 24,
}


def started(**stages: str) -> dict[str, Any]:
    return {**STARTED, "lock": None, "stages": stages or {"language": "", "talker": ""}}


def stage(name: str, fingerprint: str) -> dict[str, Any]:
    return {"event": "stage_started", "stage": name, "objective": "speech", "parameters": 10, "fingerprint": fingerprint}


def step(n: int, time: float, name: str = "talker") -> dict[str, Any]:
    losses = {"talker": 5.0 - n / 10, "predictor": 4.0}
    return {"event": "step", "time": time, "stage": name, "step": n, "of": 20, "losses": losses, "rate": 1.0, "memory": 10 * n}


def select(n: int, value: float, best: bool) -> dict[str, Any]:
    return {"event": "select", "time": 0.0, "stage": "talker", "step": n, "value": value, "best": best}


def history(*events: dict[str, Any]) -> RunHistory:
    made = RunHistory()
    for event in events:
        made.feed(event)
    return made


def test_a_stage_that_trains() -> None:
    run = history(started(), stage("talker", "b"), *(step(n, 2.0 * n) for n in range(1, 6)), select(5, 3.0, True), step(6, 99.0))
    talker = run.stages["talker"]
    assert (run.training, talker.step, talker.of, run.memory) == ("talker", 6, 20, 60)
    assert run.step_seconds == pytest.approx(2.0), "measuring between two steps is not training"
    assert talker.held_out == [(5, 3.0)]
    assert run.state == "Running: stage talker."
    assert run.stages["language"].state == "waiting"


def test_a_stage_that_was_resumed_goes_on_where_its_checkpoint_was() -> None:
    first = [started(), stage("talker", "b"), step(1, 1.0), step(2, 2.0), select(2, 3.0, True), step(3, 3.0)]
    run = history(*first, started(talker="goes on after step 1"), stage("talker", "b"), step(2, 9.0), select(2, 2.9, True))
    assert [s for s, _ in run.stages["talker"].losses["talker"]] == [1, 2]
    assert run.stages["talker"].held_out == [(2, 2.9)]
    assert run.stages["talker"].compared == "goes on after step 1"
    again = history(*first, started(talker="trains again: lr 1 -> 2"), stage("talker", "c"), step(1, 9.0))
    assert [s for s, _ in again.stages["talker"].losses["talker"]] == [1], "another fingerprint is another training"


def test_verdicts_of_the_run_before_are_compared() -> None:
    run = history(started(), VERDICT, {"event": "run_finished", "status": "rejected"}, started(), {**VERDICT, "value": 0.3})
    assert [v.value for v in run.verdicts["talker"]] == [0.3]
    assert run.before[("talker", "cer(dev) max 0.4")].value == 0.2
    assert run.ended is None


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"event": "run_finished", "status": "accepted"}, "Accepted"),
        ({"event": "run_finished", "status": "stopped"}, "Stopped by a gate"),
        ({"event": "run_failed", "error": "KeyboardInterrupt", "message": ""}, "Interrupted. The same command goes on"),
        ({"event": "run_failed", "error": "RecipeError", "message": "no voice"}, "Failed. no voice"),
    ],
)
def test_how_a_run_ends(event: dict[str, Any], words: str) -> None:
    run = history(started(), stage("talker", "b"), event)
    assert run.state.startswith(words)
    assert run.training is None
    assert RunHistory().state == WAITING


def test_a_file_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    reader = EventReader(file)
    assert reader.read().recipe == ""
    line = json.dumps(started()) + "\n"
    file.write_text(line + '{"event": "stage_st')
    assert reader.read().recipe == "malay"
    with open(file, "a") as f:
        f.write('arted", "stage": "talker", "fingerprint": "b"}\nno json\n' + json.dumps(step(1, 1.0)) + "\n")
    assert reader.read().stages["talker"].step == 1
    file.rename(tmp_path / "aside")
    file.write_text(line)
    assert reader.read().stages["talker"].step == 0, "another file is another run"


def test_whatever_stands_in_the_file_is_no_error() -> None:
    drawn = random.Random(3)
    sound = [json.dumps(e) for e in (started(), stage("talker", "b"), step(1, 1.0), select(1, 2.0, True), VERDICT)]
    junk = ["null", "[]", '{"event": null}', '{"event": "step"}', '{"event": "step", "stage": [], "step": {}}']
    for _ in range(400):
        run = RunHistory()
        for line in sound:
            text = bytearray(line.encode())
            at = drawn.randrange(len(text))
            text[at : at + drawn.choice([1, 4])] = drawn.choice([b"", b"1", b'"', b"null", b"-1e999", b"[]"])
            try:
                event = json.loads(bytes(text).decode("utf-8", "replace"))
            except ValueError:
                event = json.loads(drawn.choice(junk))
            run.feed(event)
            run.progress(event)
        assert isinstance(run.state, str)
