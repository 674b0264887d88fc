"""Times and memory that `plan` shows: measured rates where there are any, arithmetic elsewhere, and nothing of it hashed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qrecipe.files import FileHashes
from qrecipe.plan import make_plan
from qrecipe.plan.estimates import estimates
from qrecipe.plan.gpus import COMPILING, GPUS, START, durations, fit
from qrecipe.recipe import load
from qrecipe.report.tables import time_line
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


def test_data_that_is_not_here_has_no_time(planned) -> None:  # type: ignore[no-untyped-def]
    planned.manifests.pop("dev")
    times = durations(planned, estimates(planned, FileHashes()), FileHashes(), GPUS["h100"], 1)
    assert times.parts["encoding"] is None
    assert times.total is None
    assert "unknown until the data" in time_line(times)


def test_what_fits_is_said_with_what_helps(planned) -> None:  # type: ignore[no-untyped-def]
    cost = replace(estimates(planned, FileHashes())["language"], weights=4 * 10**9, activations=20 * 10**9, trained=10**9, gradients=10**9)
    assert fit(cost, 80e9) == "fits as it is"
    assert "computed again" in fit(cost, 24e9)
    assert "lora" in fit(replace(cost, trained=8 * 10**9, gradients=8 * 10**9, optimizer=16 * 10**9), 24e9)
