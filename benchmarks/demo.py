"""The demo's stages on this machine's CPU: seconds a step and a look at held-out data, through `qrecipe.run` itself."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml

from qrecipe.plan import complete_plan
from qrecipe.recipe import load
from qrecipe.run.engine import RunOptions
from qrecipe.run.engine import run as run_plan

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def run(stage: str, steps: int) -> dict[str, Any]:
    """CPU seconds of this process, so that other processes on the same cores count little. One thread: `OMP_NUM_THREADS=1`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(RECIPES, folder / "recipes")
        recipe = _alone(folder / "recipes", stage, steps)
        marks: list[tuple[str, float, dict[str, Any]]] = []
        options = RunOptions(folder / "runs", folder / "bundles")
        run_plan(complete_plan(load(recipe)), options, lambda e: marks.append((e["event"], time.process_time(), e)))
    timed = [m for m in marks if m[0] in ("stage_started", "step", "select")]
    spent: dict[str, list[float]] = {"step": [], "select": []}
    for before, after in pairwise(timed):
        spent[after[0]].append(after[1] - before[1])
    return {
        "what": f"the demo's stage {stage}, {torch.get_num_threads()} thread(s)",
        "s a step": round(statistics.fmean(spent["step"]), 3),
        "s a look": round(statistics.fmean(spent["select"]), 3),
        "steps": [round(s, 2) for s in spent["step"]],
        "losses": [e["losses"] for kind, _, e in timed if kind == "step"],
    }


def _alone(recipes: Path, stage: str, steps: int) -> Path:
    """The demo's recipe with one stage, without its gates."""
    recipe = yaml.safe_load((recipes / "malay.yaml").read_text())
    template = yaml.safe_load((recipes / recipe.pop("extends")).read_text())
    found: dict[str, Any] = {}
    for stages in (template["stages"], recipe["stages"]):
        found |= next(s for s in stages if s["id"] == stage)
    for field in ("epochs", "gates", "on_pass"):
        found.pop(field, None)
    found |= {"steps": steps, "select": {**found["select"], "every": steps}, "on_fail": "continue"}
    recipe.pop("evaluators", None)
    recipe["evaluation"]["probe_gates"] = False
    recipe |= {"stages": [found], "accept": [{"metric": "talker_nll", "data": "dev", "max": 100.0}]}
    file = recipes / "alone.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return file
