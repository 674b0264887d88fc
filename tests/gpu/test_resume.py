"""Going on after a stop, and running out of memory, on a GPU. Run by hand: `pytest -m gpu tests/gpu/test_resume.py -s`.

A GPU adds in another order from run to run, so that two undisturbed runs differ as well. Prints both differences, which go into
docs/reliability.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from qrecipe.recipe import load
from qrecipe.run.engine import run
from qrecipe.run.store import RunStore
from tests.support import recipes

pytestmark = pytest.mark.gpu

STEPS = 12
BOUND = 0.05
"""Largest distance between two results, as a share of how far training moved the weights."""


def go(folder: Path, stop: int | None = None, frames: int = 80) -> list[dict[str, Any]]:
    """One run; `stop` is a step at which it is interrupted. Returns its events."""
    seen: list[dict[str, Any]] = []

    def listener(event: dict[str, Any]) -> None:
        seen.append(event)
        if event["event"] == "step" and event["step"] == stop:
            raise KeyboardInterrupt

    recipe = recipes.write(folder, recipes.recipe(stages=[recipes.stage(steps=STEPS, batch={"frames": frames}, prompt="mixed")]))
    try:
        run(load(recipe), runs=folder / "runs", bundles=folder / "bundles", listener=listener)
    except KeyboardInterrupt:
        assert stop is not None
    return seen


def result(folder: Path) -> dict[str, torch.Tensor]:
    """What the stage learned, by tensor."""
    store = RunStore(folder / "runs" / "tiny")
    (stage,) = [f for f in (folder / "runs" / "tiny" / "stages").iterdir() if json.loads((f / "result.json").read_text())["stage"]]
    found = store.load_stage(json.loads((stage / "result.json").read_text())["fingerprint"])
    assert found is not None
    return {**found.delta.whole, **{k: v for k, (_, v) in found.delta.rows.items()}}


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> float:
    """Norm of the difference over the norm of what training changed."""
    apart = sum(float((one[k] - other[k]).pow(2).sum()) for k in one) ** 0.5
    return float(apart / sum(float((one[k] - start[k]).pow(2).sum()) for k in one) ** 0.5)


def folder_of(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_going_on_is_as_near_as_running_twice(tmp_path: Path) -> None:
    places = {n: folder_of(tmp_path, n) for n in ("one", "two", "stopped", "start")}
    go(places["one"])
    go(places["two"])
    for stop in (3, 7):
        go(places["stopped"], stop)
    events = go(places["stopped"])
    assert [e["step"] for e in events if e["event"] == "resumed"] == [7]
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(8, STEPS + 1))
    recipe = recipes.write(places["start"], recipes.recipe(stages=[recipes.stage(steps=1, warmup=0.0, train=tiny_rates())]))
    run(load(recipe), runs=places["start"] / "runs", bundles=places["start"] / "bundles")
    one, start = result(places["one"]), result(places["start"])
    twice = distance(one, result(places["two"]), start)
    stopped = distance(one, result(places["stopped"]), start)
    print(f"\ntwo undisturbed runs: {twice:.2e} of the change; stopped at steps 3 and 7: {stopped:.2e}")
    assert stopped < BOUND


def tiny_rates() -> list[dict[str, Any]]:
    """The same entries with rates that move nothing."""
    return [{**t, "lr": 1e-30} for t in recipes.stage()["train"]]


def test_a_batch_that_does_not_fit_is_split(tmp_path: Path) -> None:
    """The memory that torch may take is cut down until the whole batch does not fit."""
    whole = folder_of(tmp_path, "whole")
    torch.cuda.reset_peak_memory_stats()
    events = go(whole, frames=4000)
    assert not [e for e in events if e["event"] == "memory_split"]
    total = torch.cuda.get_device_properties(0).total_memory
    peak = torch.cuda.max_memory_allocated()
    split = None
    for share in (0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6):
        split = folder_of(tmp_path, f"split-{share}")
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(share * peak / total)
        try:
            events = go(split, frames=4000)
        except Exception as e:  # too little for the model itself: the batch was not what filled the memory
            pytest.skip(f"{share} of {peak / 1e6:.0f} MB is too little for anything: {e}")
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        found = [e for e in events if e["event"] == "memory_split"]
        if found:
            break
    assert found, "the batch always fits"
    print(f"\n{share:.2f} of {peak / 1e6:.0f} MB: split to {found[-1]['fits']} frames at once")
    one, other = result(whole), result(split)
    apart = max(float((one[k] - other[k]).abs().max()) for k in one)
    print(f"largest difference of a weight: {apart:.2e}")
    losses = [[e["losses"]["talker"] for e in events_of(p) if e["event"] == "step"] for p in (whole, split)]
    print(f"losses of the last step: {losses[0][-1]:.5f} and {losses[1][-1]:.5f}")
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def events_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs" / "tiny" / "events.jsonl").read_text().splitlines()]
