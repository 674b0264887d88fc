"""The rows of the benchmarks run, here on the miniature's shape and a CPU; what they give on a GPU is for a GPU to say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import training


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
