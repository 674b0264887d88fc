"""Times and memory that `plan` shows: measured rates where there are any, arithmetic elsewhere, and nothing of it hashed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qrecipe.hashes import FileHashes
from qrecipe.plan import make_plan
from qrecipe.plan.estimates import estimates
from qrecipe.plan.gpus import COMPILING, GPUS, START, durations, fit
from qrecipe.recipe import load
from qrecipe.report.tables import _computes, time_line
from tests.support import recipes


@pytest.fixture
def planned(tmp_path: Path):  # type: ignore[no-untyped-def]
    return make_plan(load(recipes.write(tmp_path, recipes.recipe())))


def test_a_slower_gpu_takes_longer_and_two_take_half(planned) -> None:  # type: ignore[no-untyped-def]
    computes = estimates(planned, FileHashes())
    large = {k: replace(c, operations=1e17, frames=1e7) for k, c in computes.items()}

    def of(gpu: str, gpus: int) -> float:
        seconds = durations(planned, large, FileHashes(), GPUS[gpu], gpus).parts["language"]
        assert seconds is not None
        return seconds - COMPILING

    assert of("h100", 1) == of("h200", 1)
    assert of("a100", 1) == pytest.approx(of("h100", 1) * 9.89 / 3.12)
    assert of("h100", 2) == pytest.approx(of("h100", 1) / 2, rel=0.05)


def test_parts_add_up_and_cost_what_they_take(planned) -> None:  # type: ignore[no-untyped-def]
    times = durations(planned, estimates(planned, FileHashes()), FileHashes(), GPUS["t4"], 2)
    assert list(times.parts) == ["starting", "encoding", "language", "speaking"]
    assert times.total == pytest.approx(sum(s for s in times.parts.values() if s is not None))
    assert times.total > START + COMPILING
    assert "by arithmetic from its datasheet" in time_line(times)
    assert time_line(times, 3.0).endswith(f"about {times.total / 3600 * 2 * 3.0:.2f} at 3 an hour")


def test_speech_that_is_chosen_by_learned_from_or_rewarded_takes_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qrecipe.plan.synthetic.LAYER_SECONDS", 0.1)
    recipes.write_data(tmp_path)
    recipes.write_rows(tmp_path / "data" / "old.jsonl", [{"text": t} for t in recipes.ENGLISH])
    datasets = {**recipes.RECIPE["datasets"], "old": {"kind": "text", "language": "english", "path": "data/old.jsonl"}}
    stage = {**recipes.RECIPE["stages"][0], "steps": 40}

    def speaking(**fields: Any) -> float:
        made = make_plan(load(recipes.write(tmp_path, recipes.recipe(datasets=datasets, stages=[{**stage, **fields}]))))
        seconds = durations(made, estimates(made, FileHashes()), FileHashes(), GPUS["h200"], 1).parts
        assert seconds["language"] is not None
        assert seconds["speaking"] is not None
        return seconds["speaking"]

    alone = speaking()
    looks = [speaking(select={"metric": "runaway_rate", "data": "dev", "every": n}) - alone for n in (40, 8)]
    assert looks[1] == pytest.approx(3 * looks[0])
    assert speaking(select={"metric": "talker_nll", "data": "dev", "every": 8}) == alone
    assert speaking(data=["speech", {"use": "self", "language": "english", "share": 0.2}]) > alone
    reward = {"objective": "reward", "reward": [{"metric": "runaway_rate"}], "batch": {"frames": 3039}}
    assert speaking(**reward) == pytest.approx(alone + 4.0)


def test_data_that_is_not_here_has_no_time(planned) -> None:  # type: ignore[no-untyped-def]
    planned.manifests.pop("dev")
    times = durations(planned, estimates(planned, FileHashes()), FileHashes(), GPUS["h100"], 1)
    assert times.parts["encoding"] is None
    assert times.total is None
    assert "unknown until the data" in time_line(times)


def test_what_fits_is_said_with_what_helps(planned) -> None:  # type: ignore[no-untyped-def]
    """First what leaves the result as it is, then the smallest change of the recipe, then another recipe."""
    sizes = {"weights": 4 * 10**9, "activations": 20 * 10**9, "recomputed": 8 * 10**9, "longest_row": 10**9, "layer": 10**9}
    cost = replace(estimates(planned, FileHashes())["language"], parameters=25 * 10**7, linear=25 * 10**7, **sizes)
    assert fit(cost, 80e9).startswith("fits as it is (27.3 GB)")
    assert fit(cost, 24e9) == "fits with layers computed again (15.3 GB), which `run` does by itself"
    assert "micro-batches split (9.3 GB or more), which `run` does by itself" in fit(cost, 12e9)
    large = replace(cost, parameters=10**9, linear=10**9)
    assert "does not fit: the base and 1,000,000,000 trained numbers with their gradients and moments take 21.3 GB" in fit(large, 20e9)
    assert "; with `moments: 8bit`, which changes losses a little, it fits with" in fit(large, 20e9)
    assert "; with `moments: 8bit` and `masters: bfloat16`, which" in fit(large, 12e9)
    assert "with `masters: bfloat16`, which" in fit(replace(large, moments="8bit"), 12e9)
    assert fit(replace(large, linear=0), 12e9).endswith("or low-rank deltas of them (`lora`)")
    assert fit(large, 8e9).endswith("or low-rank deltas of them (`lora`)")


def test_the_plan_says_which_choices_a_stage_makes() -> None:
    from tests.plan.test_compute import computed

    layers = {"match": "talker.model.layers"}
    assert "linear layers: moments 8bit and masters bfloat16" in _computes(computed(layers, moments="8bit", masters="bfloat16"))
    lines = _computes(computed(layers, batch={"frames": 4096}))
    assert not any("linear layers" in line for line in lines)
    assert lines[-1].endswith("GB with layers computed again")
