"""The plan of every shipped recipe, on its own base and on both published ones, without weights.

`QRECIPE_REWRITE_GOLDEN=1 pytest tests/plan/test_snapshots.py` writes the snapshots anew; read every changed line.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qrecipe.hashes import FileHashes
from qrecipe.plan import make_plan
from qrecipe.recipe import load

ROOT = Path(__file__).parents[2]
SNAPSHOTS = Path(__file__).parent / "snapshots"
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
BASES = {"1.7b": "Qwen/Qwen3-TTS-12Hz-1.7B-Base", "0.6b": "Qwen/Qwen3-TTS-12Hz-0.6B-Base"}


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


def snapshot(path: Path, base: str) -> dict[str, Any]:
    """What a reviewer wants to see change: rows and their hashes come from data, the rest from recipe and catalogue."""
    planned = make_plan(load(path.relative_to(ROOT), [f"base.model={base}", "base.revision="]), FileHashes())
    assert planned.errors == []
    plan = planned.plan
    return {
        "base": plan.base.model,
        "languages": {k: v.model_dump() for k, v in plan.languages.items()},
        "stages": [
            {
                "id": stage.id,
                "objective": stage.objective,
                "data": [f"{d.dataset} ({d.language})" + (f" {d.share:.0%}" if d.share else "") for d in stage.data],
                "trains": [
                    {
                        "match": t.match,
                        "except": t.except_,
                        "rows": t.rows,
                        "lora": t.lora,
                        "lr": t.lr,
                        "tensors": len(t.tensors),
                        "parameters": t.parameters,
                        "parameters_max": t.parameters_max,
                    }
                    for t in stage.trainable
                ],
                "length": f"{stage.epochs:g} epochs" if stage.epochs is not None else f"{stage.steps} steps",
                "select": stage.select,
                "gates": stage.gates,
                "on_pass": stage.on_pass,
                "on_fail": stage.on_fail,
            }
            for stage in plan.stages
        ],
        "accept": plan.accept,
        "codes": sorted({p.code for p in planned.problems}),
    }


@pytest.mark.parametrize("base", sorted(BASES))
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_plan(path: Path, base: str) -> None:
    found = json.dumps(snapshot(path, BASES[base]), indent=1, ensure_ascii=False) + "\n"
    golden = SNAPSHOTS / f"{path.stem}.{base}.json"
    if os.environ.get("QRECIPE_REWRITE_GOLDEN"):
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8"), "read what changed; QRECIPE_REWRITE_GOLDEN=1 takes it over"


def test_no_snapshot_is_left_over() -> None:
    assert {p.name for p in SNAPSHOTS.glob("*.json")} == {f"{p.stem}.{b}.json" for p in RECIPES for b in BASES}
