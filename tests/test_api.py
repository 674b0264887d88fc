"""The Python interface: its names and arguments stay, importing it costs nothing, and the notebook that shows it runs."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qrecipe import api
from qrecipe.errors import RecipeError
from tests.support import audio, recipes

ROOT = Path(__file__).parents[1]

NAMES = {
    "load": ["file", "sets"],
    "plan": ["recipe"],
    "run": ["recipe", "runs", "bundles", "until", "listener"],
    "evaluate": ["model", "recipe", "data", "metrics", "out", "listener"],
    "say": ["model", "text", "reference", "language", "layout", "seed"],
}


def test_names_and_arguments_stay() -> None:
    assert sorted(NAMES) == api.__all__
    assert {name: list(inspect.signature(getattr(api, name)).parameters) for name in NAMES} == NAMES


def test_the_page_names_every_function_and_argument() -> None:
    page = (ROOT / "docs" / "python.md").read_text("utf-8")
    documented = dict(re.findall(r"^\| `api\.(\w+)\(([^)]*)\)`", page, flags=re.MULTILINE))
    assert {name: arguments.split(", ") for name, arguments in documented.items()} == NAMES


def test_importing_it_takes_neither_torch_nor_models() -> None:
    program = "import sys; from qrecipe import api; print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'numpy', 'pydantic', 'yaml'}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    assert done.stdout == "[]\n"


def test_problems_are_raised_with_their_places(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as e:
        api.load(recipes.write(tmp_path, recipes.recipe(stages=[])))
    assert e.value.problems[0].place.line


def test_load_and_plan(tmp_path: Path) -> None:
    recipe = api.load(recipes.write(tmp_path), ["seed=3"])
    planned = api.plan(recipe)
    assert (recipe.recipe.seed, planned.plan.recipe, planned.errors) == (3, "tiny", [])


@pytest.mark.slow
def test_run_evaluate_and_say(tmp_path: Path, mini: object) -> None:
    recipe = api.load(recipes.write(tmp_path), ["stages.language.steps=1"])
    events: list[str] = []
    outcome = api.run(recipe, runs=tmp_path / "runs", bundles=tmp_path / "bundles", listener=lambda e: events.append(e["event"]))
    assert (outcome.status, "step" in events) == ("accepted", True)
    bundle = str(outcome.bundle)
    result = api.evaluate(bundle, recipe, "dev", ["talker_nll"])
    assert result.metrics["talker_nll"].prompts == 3
    sound = api.say(bundle, "Selamat pagi.", reference=audio.write(tmp_path / "v.wav", audio.speech(1, 1.0)), language="malay")
    assert (sound.rate, sound.audio.dtype, sound.audio.ndim) == (24_000, np.float32, 1)


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_run(path: Path, mini: object) -> None:
    """In a kernel of its own, as a person runs them."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert "accepted" in outputs
    assert "audio/" in outputs or "<audio" in outputs
    assert '"error"' not in outputs
    assert '"stderr"' not in outputs, "no library's warnings"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_are_committed_without_results(path: Path) -> None:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    assert [c for c in cells if c["cell_type"] == "code" and (c["outputs"] or c["execution_count"] is not None)] == []
