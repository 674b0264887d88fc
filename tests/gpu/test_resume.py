"""Going on after a stop, and running out of memory, on a GPU. Run by hand, with no network; either prints the figures of
research/measurements.md:

    python -m tests.gpu.test_resume
    pytest -m gpu tests/gpu/test_resume.py -s

A GPU adds in another order from run to run, so that two undisturbed runs differ as well; what a stop does is measured beside
that. Without a GPU the first form still measures the stop: on a CPU nothing differs.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from qrecipe.run.store import RunStore
from tests.support import audio, recipes
from tests.support.running import run_recipe

pytestmark = pytest.mark.gpu

STEPS = 12
BOUND = 0.05
"""Largest distance between two results, as a share of how far training moved the weights."""
CLIPS, SECONDS = 40, 4.0
"""Of the batch that shall not fit: 2,000 frames, whose states and logits need many times the memory of the embedded base."""
SHARES = (0.6, 0.4, 0.25)
"""Of the memory that the whole batch took, tried in turn until it does not fit."""

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Stopped:
    """How far results lie from that of an undisturbed run, as shares of what training changed."""

    twice: float
    """Of another undisturbed run."""
    stopped: float
    """Of one that was stopped twice."""


@dataclass(frozen=True)
class Split:
    """A stage whose batch did not fit, beside the same stage with room."""

    whole_mb: float
    """Memory that training took beside the model."""
    allowed_mb: float
    fits: int
    """Frames that were computed at once."""
    apart: float
    """Distance of the results, as a share of what training changed."""
    losses: tuple[list[float], list[float]]
    """The talker's, of every step: whole and split."""


def go(
    folder: Path, stop: int | None = None, on_start: Callable[[], None] | None = None, data: str | None = None, **stage: Any
) -> list[dict[str, Any]]:
    """One run; `stop` is a step at which it is interrupted, `on_start` is done before training, `data` another manifest. Returns its events."""
    seen: list[dict[str, Any]] = []

    def listener(event: dict[str, Any]) -> None:
        seen.append(event)
        if event["event"] == "stage_started" and on_start is not None:
            on_start()
        if event["event"] == "step" and event["step"] == stop:
            raise KeyboardInterrupt

    content = recipes.recipe(stages=[recipes.stage(**{"steps": STEPS, "prompt": "mixed", **stage})])
    if data is not None:
        content["datasets"]["speech"]["path"] = data
    recipe = recipes.write(folder, content)
    try:
        run_recipe(recipe, folder, listener=listener)
    except KeyboardInterrupt:
        assert stop is not None
    gc.collect()  # the model of a run that was interrupted
    return seen


def result(folder: Path) -> Weights:
    """What the stage learned, by tensor."""
    latest = json.loads((folder / "runs" / "tiny" / "run.json").read_text())
    found = RunStore(folder / "runs" / "tiny").load_stage(latest["stages"][0]["fingerprint"])
    assert found is not None
    return {**found.delta.whole, **{k: v for k, (_, v) in found.delta.rows.items()}}


def start(folder: Path) -> Weights:
    """The same tensors before training: after one step at rates that move nothing."""
    still = [{**t, "lr": 1e-30} for t in recipes.stage()["train"]]
    go(folder, steps=1, warmup=0.0, train=still)
    return result(folder)


def distance(one: Weights, other: Weights, before: Weights) -> float:
    """Norm of the difference over the norm of what training changed."""
    apart = sum(float((one[k] - other[k]).pow(2).sum()) for k in one) ** 0.5
    return float(apart / sum(float((one[k] - before[k]).pow(2).sum()) for k in one) ** 0.5)


def place(folder: Path, name: str) -> Path:
    (folder / name).mkdir(parents=True)
    return folder / name


def measure_stop(folder: Path) -> Stopped:
    """Runs it twice undisturbed, and once stopped at steps 3 and 7."""
    one, two, stopped = (place(folder, n) for n in ("one", "two", "stopped"))
    go(one)
    go(two)
    for stop in (3, 7):
        go(stopped, stop)
    events = go(stopped)
    assert [e["step"] for e in events if e["event"] == "resumed"] == [7]
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(8, STEPS + 1))
    first, before = result(one), start(place(folder, "start"))
    return Stopped(distance(first, result(two), before), distance(first, result(stopped), before))


def many_clips(folder: Path) -> str:
    """Writes the recipe's data and many rows beside it; returns the manifest's path."""
    data = recipes.write_data(folder)
    rows = []
    for i in range(CLIPS):
        clip = audio.write(data / f"many{i}.wav", audio.speech(200 + i, SECONDS))
        rows.append({"audio": clip.name, "text": recipes.MALAY[i % len(recipes.MALAY)]})
    recipes.write_rows(data / "many.jsonl", rows)
    return "data/many.jsonl"


def measure_split(folder: Path) -> Split:
    """Runs it with room, then with less memory from the start of training on, until the batch is split."""
    total = torch.cuda.get_device_properties(0).total_memory
    settings: dict[str, Any] = {"batch": {"frames": 4000}, "layout": "streaming"}
    before: list[int] = []

    def note() -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before.append(torch.cuda.memory_reserved())

    whole = place(folder, "whole")
    events = go(whole, on_start=note, data=many_clips(whole), **settings)
    assert not [e for e in events if e["event"] == "memory_split"], "the batch does not fit as it is"
    taken = torch.cuda.max_memory_reserved() - before[-1]
    for share in SHARES:
        less = place(folder, f"split-{share}")

        def limit(share: float = share) -> None:
            note()
            torch.cuda.set_per_process_memory_fraction((before[-1] + share * taken) / total)

        try:
            events = go(less, on_start=limit, data=many_clips(less), **settings)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        found = [e for e in events if e["event"] == "memory_split"]
        if found:
            apart = distance(result(whole), result(less), start(place(folder, "start")))
            losses = tuple([e["losses"]["talker"] for e in steps_of(p)] for p in (whole, less))
            return Split(taken / 1e6, share * taken / 1e6, found[-1]["fits"], apart, (losses[0], losses[1]))
    raise AssertionError(f"the batch fits into {SHARES[-1]} of {taken / 1e6:.0f} MB as well")


def steps_of(folder: Path) -> list[dict[str, Any]]:
    events = (json.loads(line) for line in (folder / "runs" / "tiny" / "events.jsonl").read_text().splitlines())
    return [e for e in events if e["event"] == "step"]


def check_stop(found: Stopped) -> None:
    print(f"two undisturbed runs of {STEPS} steps: {found.twice:.1e} of the change apart; stopped at steps 3 and 7: {found.stopped:.1e}")
    assert found.stopped < BOUND


def check_split(found: Split) -> None:
    whole, split = found.losses
    print(
        f"a batch of {CLIPS * SECONDS * 12.5:,.0f} frames that took {found.whole_mb:,.0f} MB, with {found.allowed_mb:,.0f} MB: split to "
        f"{found.fits:,} frames at once, result {found.apart:.1e} of the change apart, losses of the last step {whole[-1]:.5f} and {split[-1]:.5f}"
    )
    assert found.apart < BOUND
    assert split == pytest.approx(whole, rel=0.02)


def test_going_on_is_as_near_as_running_twice(tmp_path: Path) -> None:
    check_stop(measure_stop(tmp_path))


def test_a_batch_that_does_not_fit_is_split(tmp_path: Path) -> None:
    check_split(measure_split(tmp_path))


def main() -> None:
    """Prints the figures; ends with an error where a bound does not hold."""
    gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if gpu else "CPU"
    print(f"{name}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["QRECIPE_CACHE"] = str(Path(folder) / "cache")
        check_stop(measure_stop(Path(folder) / "stop"))
        if gpu:
            check_split(measure_split(Path(folder) / "split"))


if __name__ == "__main__":
    main()
