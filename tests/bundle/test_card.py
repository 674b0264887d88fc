"""The model card's front matter: what the hub asks for, and nothing that does not exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from qrecipe.bundle.card import model_card
from qrecipe.inputs.documents.bundle import BundleStage
from qrecipe.plan import make_plan
from qrecipe.recipe import inspect, load
from tests.support import recipes

DATASETS = {
    "speech": {"kind": "speech", "language": "malay", "path": "data/train.jsonl", "source": "some/common_voice"},
    "dev": {"kind": "speech", "language": "malay", "path": "data/dev.jsonl", "source": "some/held-out"},
    "replay": {"kind": "speech", "language": "english", "path": "data/english.jsonl"},
}


def front_matter(folder: Path, **changes: Any) -> dict[str, Any]:
    plan = make_plan(load(recipes.write(folder, recipes.recipe(**changes)))).plan
    stages = [BundleStage(id=s.id, status="kept", fingerprint=None, parameters=1) for s in plan.stages]
    front: dict[str, Any] = yaml.safe_load(model_card(plan, stages, {}).split("---\n")[1])
    return front


def test_what_the_hub_asks_for(tmp_path: Path) -> None:
    base = {"model": "Qwen/Qwen3-TTS-12Hz-0.6B-Base"}
    assert front_matter(tmp_path, license="cc-by-4.0", datasets=DATASETS, base=base) == {
        "license": "cc-by-4.0",
        "language": ["ms"],
        "base_model": "Qwen/Qwen3-TTS-12Hz-0.6B-Base",
        "base_model_relation": "finetune",
        "datasets": ["some/common_voice"],
        "library_name": "qwen-tts",
        "pipeline_tag": "text-to-speech",
        "tags": ["qwen3-tts", "qrecipe", "language-adaptation"],
    }


def test_nothing_is_stated_that_nobody_said(tmp_path: Path) -> None:
    """The embedded base is not on the hub, and datasets without a source are somebody's files."""
    assert front_matter(tmp_path).keys() == {"language", "library_name", "pipeline_tag", "tags"}


@pytest.mark.parametrize(
    ("license_", "help_"),
    [
        ("CC0-1.0", "did you mean `cc0-1.0`?"),
        ("apache", "did you mean `apache-2.0`?"),
        ("cc-by", "did you mean `cc-by-2.0`,"),
        ("mine", None),
    ],
)
def test_a_licence_is_one_that_the_hub_knows(license_: str, help_: str | None, tmp_path: Path) -> None:
    _, problems = inspect(recipes.write(tmp_path, recipes.recipe(license=license_)))
    (problem,) = problems.errors
    assert (problem.code, "names, which" in problem.message) == ("QR012", True)
    assert str(problem.help).startswith(str(help_))


def test_a_source_is_a_hub_id(tmp_path: Path) -> None:
    datasets = {**DATASETS, "speech": {**DATASETS["speech"], "source": "https://example.org/x"}}
    _, problems = inspect(recipes.write(tmp_path, recipes.recipe(datasets=datasets)))
    assert "OWNER/NAME" in problems.errors[0].message
