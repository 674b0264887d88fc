"""Two processes make what one makes, and what ends one of them ends both, with the reason said once.

Ranks are forked from one process that has imported everything; a last test starts them with torchrun itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qrecipe.model.weights import Delta
from tests.support import recipes
from tests.support.crash import Ended, Nursery
from tests.support.lasting import PASSES, SPOKEN, TEXT, hashes
from tests.support.threads import default_threads

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


def written(folder: Path) -> Path:
    """Text, then speech in micro-batches of about one row, then gates: one that speaks, and one that does not."""
    rates = {"rows": 1.0e-3, "projection": 1.0e-4}  # higher ones make more of a last digit than ten steps may
    train = [{"match": "talker.model.codec_embedding", "rows": "languages", "lr": rates["rows"]}]
    train += [{"match": "talker.text_projection", "lr": rates["projection"]}]
    speech = recipes.stage(steps=10, batch={"frames": 15, "accumulate": 2}, train=train, gates=[PASSES, SPOKEN])
    recipes.write(folder, recipes.recipe(stages=[TEXT, speech], accept=[PASSES]))
    return folder


def alone(nursery: Nursery, folder: Path, *arguments: object, **how: Any) -> Ended:
    """`qrecipe run` by one process, of one thread as torchrun gives to each."""
    how["OMP_NUM_THREADS"] = "1"
    return nursery.run("run", "recipe.yaml", *arguments, cwd=folder, QRECIPE_CACHE=str(folder / "cache"), **how)


@pytest.fixture(scope="module")
def one(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps of one process."""
    folder = written(tmp_path_factory.mktemp("ranks") / "one")
    ended = alone(nursery, folder)
    assert ended.code == 0, ended.err
    return folder


def place(one: Path, name: str) -> Path:
    """The same recipe and data elsewhere, with a cache of its own."""
    place = one.parent / name
    place.mkdir()
    shutil.copy(one / "recipe.yaml", place)
    shutil.copytree(one / "data", place / "data")
    return place


def two(nursery: Nursery, place: Path, **how: Any) -> list[Ended]:
    """`qrecipe run` by two ranks."""
    return nursery.run_ranks("run", "recipe.yaml", "--checkpoint-steps", 2, cwd=place, QRECIPE_CACHE=str(place / "cache"), **how)


def events(place: Path, kind: str) -> list[dict[str, Any]]:
    lines = (place / "runs" / "tiny" / "events.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == kind]


def learned(place: Path) -> Delta:
    """The result of the last stage."""
    finger = events(place, "stage_started")[-1]["fingerprint"]
    return Delta.load(place / "runs" / "tiny" / "stages" / finger[:16] / "delta.safetensors")


def require_same_result(one: Path, other: Path) -> None:
    """Losses, weights and verdicts of two runs of the same recipe agree but for the order of summation."""
    steps = [{e["step"]: e["losses"] for e in events(p, "step") if e["stage"] == "language"} for p in (one, other)]
    assert steps[0].keys() == steps[1].keys()
    for step, losses in steps[0].items():
        assert steps[1][step] == pytest.approx(losses, abs=1e-4), step
    before, after = learned(one), learned(other)
    pairs = [(v, after.whole[k]) for k, v in before.whole.items()] + [(v[1], after.rows[k][1]) for k, v in before.rows.items()]
    start = _start(one)
    changed = torch.cat([(v - start[k]).flatten() for k, v in before.whole.items()])
    apart = torch.cat([(b - a).flatten() for a, b in pairs])
    assert apart.norm() < 1e-3 * changed.norm()
    verdicts = [[(v["gate"], v["outcome"]) for v in events(p, "verdict")] for p in (one, other)]
    assert verdicts[0] == verdicts[1]


def _start(place: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    from qrecipe.builtin import mini

    return {k: v.float() for f in sorted(mini.folder().glob("model*.safetensors")) for k, v in load_file(f).items()}


def test_two_ranks_make_what_one_makes(nursery: Nursery, one: Path) -> None:
    """The first alone prints and writes; the base says the same bytes."""
    there = place(one, "two")
    first, second = two(nursery, there)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert (second.out, second.err) == ("", "")
    assert first.result["status"] == "accepted"
    require_same_result(one, there)
    for folder in ("codes", "x-vectors"):  # a process writes files of its own, with entries that all would have made
        mine = entries(one / "cache" / folder)
        assert mine
        assert mine == entries(there / "cache" / folder)
    spoken = [hashes(p / "runs" / "tiny" / "stages" / _started(p)[:16] / "samples") for p in (one, there)]
    assert spoken[0]
    assert spoken[0] == spoken[1]


def test_two_ranks_hear_what_one_hears(nursery: Nursery, tmp_path: Path) -> None:
    """Each speaks and hears its own sentences; a reward by where recordings lie is measured by both together."""
    reward = [{"metric": "silence_share"}, {"metric": "speaking_rate"}]
    train = [
        {"match": "talker.model.codec_embedding", "rows": "languages", "lr": 1.0e-3},
        {"match": "talker.text_projection", "lr": 1.0e-4},
    ]
    ear = {"id": "ear", "objective": "reward", "data": ["text"], "train": train, "reward": reward, "samples": 2, "steps": 3}
    ear |= {"batch": {"frames": 60, "accumulate": 2}}
    teacher = {"voices": ["data/ref.wav"], "slowest": 40.0}
    recipes.write(tmp_path / "one", recipes.recipe(stages=[ear], accept=[PASSES], teacher=teacher))
    there = place(tmp_path / "one", "two")
    assert alone(nursery, tmp_path / "one").code == 0
    first, second = two(nursery, there)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    heard = [[{k: e[k] for k in e if k != "time"} for e in events(p, "reward")] for p in (tmp_path / "one", there)]
    assert [e["step"] for e in heard[0]] == [1, 2, 3]
    assert heard[0][0]["groups"] > 1
    # later samples are drawn from weights whose last digits differ
    parts = heard[0][0].pop("parts"), heard[1][0].pop("parts")
    assert parts[1] == pytest.approx(parts[0], abs=2e-5)
    assert heard[1][0] == pytest.approx(heard[0][0], abs=2e-5)
    losses = [events(p, "step")[0]["losses"] for p in (tmp_path / "one", there)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


def entries(folder: Path) -> set[tuple[str, bytes, bytes]]:
    """Keys and hashes of what a cache holds, with the folder below `folder`."""
    held = set()
    for path in folder.rglob("*.shard"):
        shard = load_file(str(path))
        for key, content in zip(shard["key"], shard["sum"], strict=True):
            held.add((str(path.parent.relative_to(folder)), key.numpy().tobytes(), content.numpy().tobytes()))
    return held


def _started(place: Path) -> str:
    start: str = json.loads((place / "runs" / "tiny" / "run.json").read_text())["start"]
    return start


def test_a_rank_killed_at_any_moment_ends_the_other(nursery: Nursery, one: Path) -> None:
    """One run after the other in the same folder; each goes on from what the one before left, at last with one process."""
    there = place(one, "killed")
    for rank, fault in [
        (1, "event:encoding:1 kill"),
        (0, "event:fitting:2 kill"),
        (0, "event:step:3 kill"),
        (1, "event:step:5 kill"),
        (0, "before:step-00000008:1 kill"),
        (1, "event:stage_finished:1 kill"),
    ]:
        ended = two(nursery, there, fault=fault, at=rank)
        assert ended[rank].code == -9, fault
        survivor = ended[1 - rank]
        assert survivor.code == 1, survivor.err
        assert f"rank {rank} of 2, process" in survivor.err, (fault, survivor.err)
        assert survivor.err.count("error") == 1
        assert survivor.seconds - ended[rank].seconds < 30
    assert alone(nursery, there).code == 0
    require_same_result(one, there)


def test_a_signal_stores_the_state_once_and_another_number_of_processes_goes_on(nursery: Nursery, one: Path) -> None:
    there = place(one, "stopped")
    for fault in ("event:step:6 term", "event:step:2 int"):
        ended = two(nursery, there, fault=fault)
        assert [e.code for e in ended] == [130, 130]
        assert sum("interrupted" in e.err for e in ended) == 1
    assert alone(nursery, there, fault="event:step:2 term").code == 130
    assert two(nursery, there)[0].code == 0
    resumed = [e["step"] for e in events(there, "resumed") if e["stage"] == "language"]
    assert len(resumed) == 3
    assert resumed == sorted(set(resumed))
    steps = [e["step"] for e in events(there, "step") if e["stage"] == "language"]
    assert steps == list(range(1, 11)), "no step is lost, and none is taken twice"
    require_same_result(one, there)


def test_what_a_rank_cannot_do_is_said_once_by_that_rank(nursery: Nursery, one: Path) -> None:
    there = place(one, "memory")
    first, second = two(nursery, there, fault="event:step:4 memory")
    assert first.code != 0
    assert "error" not in first.err
    assert second.code == 2
    assert "rank 1 of 2" in second.err
    assert "error[QR074]" in second.err


def test_a_rank_that_stands_still_is_named(nursery: Nursery, one: Path) -> None:
    first, second = two(nursery, place(one, "frozen"), fault="event:step:4 freeze")
    assert first.code == 1
    assert "rank 1 of 2" in first.err
    assert "no sign of life" in first.err
    assert second.code == -9


@pytest.mark.parametrize("other", ["data", "cache", "recipe"])
def test_a_rank_that_sees_something_else_is_named(nursery: Nursery, one: Path, other: str) -> None:
    there, elsewhere = place(one, f"here-{other}"), place(one, f"elsewhere-{other}")
    if other == "data":
        manifest = elsewhere / "data" / "train.jsonl"
        manifest.write_text(manifest.read_text().replace("nasi", "roti"))
    elif other == "recipe":
        recipe = elsewhere / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace("steps: 10", "steps: 11"))
    apart = {"QRECIPE_CACHE": str(elsewhere / "cache")} if other == "cache" else {"PLACE": str(elsewhere)}
    first, second = two(nursery, there, of_rank=apart)
    assert (first.code, second.code) == (2, 2)
    assert "error" not in first.err
    expected = {"data": "another dataset `speech`", "cache": "does not see what rank 0 writes", "recipe": "another recipe"}
    assert expected[other] in second.err
    assert "error[QR090]" in second.err


def test_torchrun_restarts_a_run_that_lost_a_rank(one: Path, cache: Path) -> None:
    """With `--max-restarts 1` the run goes on by itself."""
    there = place(one, "torchrun")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    command += ["-m", "tests.support.armed", "event:step:7 kill", "run", "recipe.yaml", "--checkpoint-steps", "2"]
    root = Path(__file__).resolve().parents[2]
    environment = {**default_threads(), "QRECIPE_CACHE": str(cache), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=there, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rank 1 of 2, process" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "accepted"
    require_same_result(one, there)


def test_other_verbs_work_in_one_process(nursery: Nursery, tmp_path: Path) -> None:
    first, second = nursery.run_ranks("say", "builtin:mini", "Hello.", cwd=tmp_path)
    assert first.code == 2
    assert second.code in (2, 130), "by itself, or by the launcher, which ends the others"
    assert "`say` works in one process" in first.err
    assert (second.out, second.err) == ("", "")


def test_ranks_that_do_not_come_are_told_of(nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qrecipe import world
    from qrecipe.errors import UserError

    monkeypatch.setattr(world, "JOIN_SECONDS", 0.3)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}.items():
        monkeypatch.setitem(os.environ, name, value)
    monkeypatch.setattr("qrecipe.interrupts.together", lambda: None)
    with pytest.raises(UserError, match=r"started 2 processes, and they do not meet at 127\.0\.0\.1:9"):
        world.join()
