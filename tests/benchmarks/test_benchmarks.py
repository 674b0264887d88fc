"""The rows of the benchmarks run, here on the miniature's shape and a CPU; what they give on a GPU is for a GPU to say."""

from __future__ import annotations

import json
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import stock, training
from qrecipe.model.stock import stock as qwen_tts


@pytest.mark.slow
@pytest.mark.parametrize(("case", "terms"), [("predictor", ["predictor"]), ("upper", ["talker", "predictor"])])
def test_a_stage_is_measured(case: str, terms: list[str]) -> None:
    found = training.run(case, "mini", torch.device("cpu"), steps=1, clips=3)
    assert found["losses"] == terms
    assert found["frames/s"] > 0
    assert len(found["stretches"]) == training.REPEATS
    assert found["kept bytes"] > 0


def test_rows_that_are_there_are_shown_and_the_others_named(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    row = {"row": "rows", "what": "text rows", "frames/s": 26_000, "peak GB": 15.25, "trained": 4096, "machine": "M", "shape": "1.7b"}
    (tmp_path / "rows" / "rows.json").write_text(json.dumps({**row, "date": "2026-01-01", "versions": {"torch": "2"}}))
    assert command._write(tmp_path, ["rows", "layers"]) == ["layers"]
    table = (tmp_path / "table.md").read_text()
    assert "| text rows | 26,000 | 15.25 | trained 4,096 |" in table
    assert json.loads((tmp_path / "results.json").read_text())[0]["row"] == "rows"


WRITES = """
import json, pathlib, sys
print("noise")
pathlib.Path(sys.argv[sys.argv.index("--result") + 1]).write_text(json.dumps({"frames/s": 50000, "what": "w"}))
"""
LINGERS = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("compiling", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "said", "left"),
    [
        (WRITES, "frames/s 50,000 (", ["r.json"]),
        ("print('noise'); raise MemoryError('CUDA out of memory')", "MemoryError: CUDA out of memory; all of it is in", ["r.error.txt"]),
        (LINGERS, "cut after", ["r.error.txt"]),
    ],
    ids=["measured", "failed", "cut"],
)
def test_a_row_that_fails_or_takes_too_long_keeps_nothing_waiting(tmp_path: Path, program: str, said: str, left: list[str]) -> None:
    began = time.monotonic()
    assert said in command._row([sys.executable, "-c", program], "r", tmp_path, 1.0, 2.0 if "sleep" in program else 30.0)
    assert time.monotonic() - began < 20
    assert [f.name for f in tmp_path.iterdir()] == left


@pytest.mark.slow
def test_rows_stop_in_time_with_what_they_have() -> None:
    found = training.run("rows", "mini", torch.device("cpu"), 1, 2, None, 100, share=0.0)
    assert len(found["stretches"]) == 1
    assert found["note"] == "1 of 3 stretches, no time for more"
    assert found["frames a step"] == 100


@pytest.mark.slow
def test_a_profile_is_there_before_the_stretches(tmp_path: Path) -> None:
    found = training.run("rows", "mini", torch.device("cpu"), 1, 2, tmp_path / "p.txt", 100, until=0.0)
    assert len(found["stretches"]) == 1
    assert "aten::" in (tmp_path / "p.txt").read_text()


def test_what_epochs_cost_is_told_from_its_parts() -> None:
    row = {"first step s": 31.0, "ms a step": 1000.0, "caching frames/s": 10_000, "frames/s": 40_000}
    assert training.over_epochs(400_000, row) == pytest.approx(1_200_000 / (30 + 40 + 30))


@pytest.mark.slow
def test_the_public_script_has_the_largest_batch_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a script that keeps to the names that the public one uses, and has no room for more than 16.

    Its processes are forked, so that they need not import what it never comes to use.
    """
    import accelerate  # noqa: F401

    qwen_tts()
    monkeypatch.setattr(stock, "get_context", lambda kind: get_context("fork"))
    monkeypatch.setattr(stock, "BATCHES", [b for b in stock.BATCHES if b in (16, 24)])
    (tmp_path / "finetuning").mkdir()
    (tmp_path / "finetuning" / "sft_12hz.py").write_text(
        "import sys, torch\n"
        "if int(sys.argv[sys.argv.index('--batch_size') + 1]) > 16: raise torch.OutOfMemoryError('CUDA out of memory')\n"
        "raise MemoryError('fits')\n"
    )
    with pytest.raises(MemoryError, match="fits"):
        stock.run(tmp_path, tmp_path, tmp_path, 1, None)
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 16 * (3 + stock.WARM + 1)
