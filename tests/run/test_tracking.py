"""Trackers hear a run's events: losses, held-out values, verdicts, sounds, the plan's hash. One that fails never ends a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from qrecipe.errors import UserError
from qrecipe.evaluate.samples import BATCH
from qrecipe.files import sealed, write_json
from qrecipe.run.tracking import SENTENCES, Tracking, open_trackers

EVENTS: list[dict[str, Any]] = [
    {"event": "run_started", "recipe": "malay", "plan": "a" * 64},
    {"event": "step", "stage": "language", "step": 1, "losses": {"talker": 3.0, "predictor": 5.0}, "rate": 0.5},
    {"event": "select", "stage": "language", "step": 1, "value": 2.5, "best": True},
    {"event": "verdict", "where": "accept", "gate": "cer(dev) max 0.2", "value": 0.1, "low": 0.05, "high": 0.15, "outcome": "pass"},
    {
        "event": "verdict",
        "where": "accept",
        "gate": "preference(dev) min 0.6",
        "value": None,
        "low": None,
        "high": None,
        "outcome": "undecided",
    },
    {"event": "something_new"},
    {"event": "run_finished"},
]


class Tracker:
    """What accelerate's trackers do, kept in lists."""

    def __init__(self, fails: str = "") -> None:
        self.configuration: dict[str, Any] = {}
        self.logged: list[tuple[dict[str, Any], int | None]] = []
        self.sounds: dict[str, Any] = {}
        self.finished = False
        self._fails = fails

    @property
    def tracker(self) -> Tracker:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.configuration = values

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        if self._fails:
            raise ConnectionError(self._fails)
        self.logged.append((values, step))

    def add_audio(self, tag: str, samples: Any, sample_rate: int) -> None:
        assert sample_rate == 24_000
        self.sounds[tag] = samples

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def stages(tmp_path: Path) -> Path:
    batch = tmp_path / "stages" / "0123" / "samples" / "dev" / "4567"
    batch.mkdir(parents=True)
    entries = []
    for line in range(1, SENTENCES + 3):
        soundfile.write(str(batch / f"{line}.flac"), np.full(2400, line / 100, np.float32), 24_000)
        entries.append({"line": line, "text": f"text {line}", "codes": [[1]], "audio_sha256": "x"})
    about = {"layout": "streaming", "prompt": "x_vector", "seed": 0, "language": "malay"}
    write_json(batch / BATCH, sealed({**about, "samples": entries}))
    (batch / "1.flac").write_bytes(b"damaged")
    return tmp_path / "stages"


def follow(trackers: dict[str, Any], stages: Path) -> tuple[list[dict[str, Any]], list[str]]:
    seen: list[dict[str, Any]] = []
    lines: list[str] = []
    tracking = Tracking(trackers, stages, seen.append, lines.append)
    for event in EVENTS:
        tracking(event)
    tracking.close()
    return seen, lines


def test_what_a_tracker_gets(stages: Path) -> None:
    tracker = Tracker()
    seen, lines = follow({"tensorboard": tracker}, stages)
    assert (seen, lines) == (EVENTS, []), "the console sees everything, too"
    assert tracker.configuration == {"recipe": "malay", "plan": "a" * 64}
    assert tracker.logged == [
        ({"language/loss/talker": 3.0, "language/loss/predictor": 5.0, "language/rate": 0.5}, 1),
        ({"language/held out": 2.5}, 1),
        (
            {
                "accept/cer(dev) max 0.2": 0.1,
                "accept/cer(dev) max 0.2/passed": 1.0,
                "accept/cer(dev) max 0.2/low": 0.05,
                "accept/cer(dev) max 0.2/high": 0.15,
            },
            None,
        ),
    ]
    assert set(tracker.sounds) == {f"0123/dev/text {n}" for n in range(2, SENTENCES + 1)}, "the damaged one is left out"
    assert tracker.finished


def test_one_that_fails_is_left_out_and_the_others_go_on(stages: Path) -> None:
    good, bad = Tracker(), Tracker("the server is away\nTraceback")
    seen, lines = follow({"wandb": bad, "tensorboard": good}, stages)
    assert len(seen) == len(EVENTS)
    assert lines == ["wandb gets nothing more: the server is away"]
    assert len(good.logged) == 3
    assert not bad.finished


@pytest.mark.parametrize(("name", "code"), [("tensorbord", "QR070"), ("wandb", "QR080")])
def test_one_that_is_not_there(name: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as e:
        open_trackers([name], tmp_path, "malay")
    assert e.value.problems[0].code == code


def test_tensorboard_reads_what_was_sent(stages: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="NOT TESTED: trackers need tensorboard (extra `dev`)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    follow(open_trackers(["tensorboard", "tensorboard"], tmp_path / "logs", "malay"), stages)
    read = EventAccumulator(str(tmp_path / "logs" / "malay"))
    read.Reload()
    assert [(s.step, s.value) for s in read.Scalars("language/loss/talker")] == [(1, 3.0)]
    assert "accept/cer(dev) max 0.2" in read.Tags()["scalars"]
    assert len(read.Tags()["audio"]) == SENTENCES - 1
