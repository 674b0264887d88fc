"""Whatever ends a run, the next one gives the bundle of an undisturbed run, byte for byte.

Every test here runs real commands in processes of their own. `make crash` does the same hundreds of times.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qrecipe.train.checkpoints import newest_first
from tests.support.crash import Nursery
from tests.support.lasting import Lasting, hashes, undisturbed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lasting(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lasting]:
    nursery = Nursery()
    yield undisturbed(tmp_path_factory.mktemp("lasting") / "whole", nursery)
    nursery.close()


@pytest.fixture
def place(lasting: Lasting, request: pytest.FixtureRequest) -> Path:
    return lasting.place(request.node.name.replace("/", "_"))


def leftovers(place: Path) -> list[str]:
    return [f.name for f in place.rglob(".*.tmp")]


def events(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place / "runs" / "tiny" / "events.jsonl").read_text().splitlines()]


KILLS = [
    # before training
    "event:run_started:1",
    "before:recipe.lock:1",
    "before:*.shard:1",
    "event:dataset:2",
    # in training
    "event:fitting:2",
    "sync:learned.safetensors:2",
    "before:step-00000002:1",
    "after:step-00000001:1",
    "event:select:2",
    "event:step:1",
    # between stages
    "before:delta.safetensors:2",
    "before:result.json:2",
    "after:result.json:1",
    "event:stage_finished:1",
    # at the end
    "event:speaking:1",
    "event:verdict:1",
    "sync:model.safetensors:1",
    "before:tiny-0.1.0:1",
    "after:tiny-0.1.0:1",
    "event:run_finished:1",
]


def test_killed_at_named_points(lasting: Lasting, place: Path) -> None:
    """One run after the other is killed in the same folder; each goes on from what the one before left."""
    for point in KILLS:
        ended = lasting.run(place, fault=f"{point} kill")
        assert ended.code == -9, (point, ended.err)
    lasting.finish(place)


def test_killed_at_random_times(lasting: Lasting, place: Path) -> None:
    """Four kills in one folder; a run that was faster is the end of it."""
    drawn = random.Random(4)
    for _ in range(4):
        if lasting.run(place, kill_after=drawn.uniform(0.1, 1.0) * lasting.seconds).code != -9:
            break
    lasting.finish(place)


SIGNALS = [
    "event:encoding:1 term",
    "event:encoding:1 hup",
    "event:step:2 int",
    "event:step:2 quit",
    "event:select:1 hup",
    "event:speaking:1 term",
    "sync:model.safetensors:1 quit",
    "sync:model.safetensors:1 term",
]
"""In encoding, in a step, in an evaluation, in bundling. Every signal has the same handler."""


def test_a_signal_saves_and_ends_with_130(lasting: Lasting, place: Path) -> None:
    """The temporary files are taken away, standard output stays empty, and what was finished is not done again."""
    for fault in SIGNALS:
        ended = lasting.run(place, fault=fault)
        assert ended.code == 130, (fault, ended.err)
        assert "interrupted; what was done is kept" in ended.err
        assert ended.out == ""
        assert leftovers(place) == []
        assert events(place)[-1]["event"] == "run_failed"
    lasting.finish(place)
    started = [e["stage"] for e in events(place) if e["event"] == "stage_started"]
    assert started.count("text") < started.count("language"), "its stage was finished, and is not trained again"


def test_a_signal_in_a_step_loses_no_step(lasting: Lasting, place: Path) -> None:
    """The state is written at the signal, not only when it is due."""
    ended = lasting.nursery.run("run", "recipe.yaml", cwd=place, fault="event:step:5 term", QRECIPE_CACHE=str(place / "cache"))
    assert ended.code == 130
    (newest, *_) = [c for s in (place / "runs" / "tiny" / "stages").iterdir() for c in newest_first(s / "checkpoints")]
    assert newest.name == "step-00000002", "the fifth step of the run is the second of its stage"
    ended = lasting.finish(place)
    assert "stage language: goes on after step 2" in ended.err


def test_a_log_that_nobody_reads_is_a_signal(lasting: Lasting, place: Path) -> None:
    """A pipe that was closed, as by a connection that broke: the state is saved, and the same command resumes."""
    for point in ("event:encoding:1", "event:fitting:1", "event:speaking:1"):
        assert lasting.run(place, fault=f"{point} unread").code == 130, point
        assert leftovers(place) == []
    lasting.finish(place)


def test_a_second_signal_stops_at_once(lasting: Lasting, place: Path) -> None:
    """Even inside the writing of a checkpoint; the one before stays. The oldest made room for the one that was written."""
    assert lasting.run(place, fault="sync:learned.safetensors:3 twice").code == 130
    assert leftovers(place) == []
    stages = (place / "runs" / "tiny" / "stages").iterdir()
    assert [c.name for s in stages for c in newest_first(s / "checkpoints")] == ["step-00000001"]
    lasting.finish(place)


def test_a_full_disk_stops_with_everything_older_intact(lasting: Lasting, place: Path) -> None:
    """Told so by the disk at the moment of syncing: a cache entry, a checkpoint, a stage's result, values, a bundle's weights."""
    for point in (".*.shard.*:2", "learned.safetensors:3", ".result.json.*:1", ".????*.json.*:1", "model.safetensors:1"):
        ended = lasting.run(place, fault=f"sync:{point} full")
        assert ended.code == 2, (point, ended.err)
        assert "QR073" in ended.err
        assert f"--> {place}" in ended.err or "--> runs" in ended.err, "the full folder is named"
        assert leftovers(place) == []
    lasting.finish(place)


def test_the_newest_checkpoint_is_damaged(lasting: Lasting, place: Path) -> None:
    """Cut off, and at the next kill with a bit turned over."""
    assert lasting.run(place, fault="event:step:7 kill").code == -9
    file = damaged_file(place, ["step-00000003", "step-00000002"])
    os.truncate(file, file.stat().st_size // 2)
    ended = lasting.run(place, fault="event:step:3 kill")
    assert ended.code == -9
    assert DAMAGED in ended.err
    assert "goes on after step 2" in ended.err
    file = damaged_file(place, ["step-00000004", "step-00000003"])
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 8
    file.write_bytes(content)
    ended = lasting.finish(place)
    assert DAMAGED in ended.err
    assert "goes on after step 3" in ended.err


DAMAGED = "does not verify (optimizer.safetensors was changed); the one before it is used"


def damaged_file(place: Path, expected: list[str]) -> Path:
    """A file of the newest checkpoint, which shall be the first of those expected."""
    checkpoints = [c for s in (place / "runs" / "tiny" / "stages").iterdir() for c in newest_first(s / "checkpoints")]
    assert [c.name for c in checkpoints] == expected
    return checkpoints[0] / "optimizer.safetensors"


def test_a_finished_stage_that_was_damaged_is_trained_again(lasting: Lasting, place: Path) -> None:
    """Weights, or a measured value: neither is believed without its hash."""
    shutil.copytree(lasting.folder / "runs", place / "runs")
    for pattern in ("stages/*/delta.safetensors", "values/*.json"):
        for file in (place / "runs" / "tiny").glob(pattern):
            content = bytearray(file.read_bytes())
            content[-20] ^= 1
            file.write_bytes(content)
    ended = lasting.finish(place)
    assert "reused" not in ended.err


def test_an_evaluation_goes_on_at_its_batch(lasting: Lasting, place: Path) -> None:
    """Killed after the first of two batches: the first is not spoken again."""
    one = ("--set", "evaluation.batch=1")
    run = ["run", "recipe.yaml", *one]
    ended = lasting.nursery.run(*run, cwd=place, fault="event:speaking:2 kill", QRECIPE_CACHE=str(place / "cache"))
    assert ended.code == -9
    spoken = sorted(f.parent for f in (place / "runs").rglob("samples/dev/*/batch.json"))
    assert len(spoken) == 2, "the second batch was kept before it was told"
    shutil.rmtree(spoken[1])
    before = {f: f.stat().st_ino for f in spoken[:1]}
    assert lasting.nursery.run(*run, cwd=place, QRECIPE_CACHE=str(place / "cache")).code == 0
    assert {f: f.stat().st_ino for f in before} == before
    other = lasting.place("undisturbed")
    assert lasting.nursery.run(*run, cwd=other, QRECIPE_CACHE=str(other / "cache")).code == 0
    assert hashes(place / "bundles" / "tiny-0.1.0") == hashes(other / "bundles" / "tiny-0.1.0")
