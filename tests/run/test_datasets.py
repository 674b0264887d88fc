"""What only prepared data shows: the same sound on both sides, or several times, in files that differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qrecipe.data.audio import encoded, read
from qrecipe.errors import UserError
from qrecipe.plan import complete_plan
from qrecipe.recipe import load
from qrecipe.verbs.prepare import prepare
from tests.support import recipes

GATE = {"metric": "talker_nll", "data": "dev", "max": 50.0}


@pytest.fixture
def project(tiny: Callable[..., Path], mini: Any) -> Path:
    return tiny(accept=[GATE])


def convert(data: Path, clip: str, name: str, container: str, subtype: str) -> str:
    (data / name).write_bytes(encoded(read(data / clip), 24_000, format=container, subtype=subtype))
    return name


def add(manifest: Path, row: dict[str, Any]) -> None:
    with open(manifest, "a", encoding="utf-8") as f:
        f.write(json.dumps(row) + "\n")


def warnings(recipe: Path) -> list[tuple[str, str, int]]:
    """(code, message, line) of what preparing warns of."""
    events: list[dict[str, Any]] = []
    prepare(complete_plan(load(recipe)), recipe.parent / "runs", events.append)
    return [(e["code"], e["message"], e["line"]) for e in events if e["event"] == "data_warning"]


@pytest.mark.parametrize(
    ("stage", "evaluation", "encoded_for"),
    [
        ("x_vector", "in_context", {"dev"}),
        ("x_vector", "x_vector", set()),
        ("mixed", "x_vector", {"speech", "replay"}),
        ("in_context", "both", {"speech", "replay", "dev"}),
    ],
)
def test_references_are_encoded_where_a_prompt_holds_them(tiny: Any, mini: Any, stage: str, evaluation: str, encoded_for: set[str]) -> None:
    """A second pass over all recordings: as long as the first."""
    events: list[dict[str, Any]] = []
    sets = [f"stages.language.prompt={stage}", f"evaluation.prompt={evaluation}", "datasets.dev.reference_text=Selamat pagi semua."]
    recipe = tiny(accept=[GATE])
    prepare(complete_plan(load(recipe, sets)), recipe.parent / "runs", events.append)
    names = {e["dataset"] for e in events if e["event"] == "encoding" and e["dataset"].startswith("references of ")}
    assert names == {f"references of {name}" for name in encoded_for}


def test_nothing_is_said_of_sound_data(project: Path) -> None:
    assert warnings(project) == []


def test_the_samples_of_a_training_clip_judge_in_another_container(project: Path) -> None:
    data = project.parent / "data"
    copy = convert(data, "train2.wav", "again.flac", "FLAC", "PCM_16")
    add(data / "dev.jsonl", {"audio": copy, "text": "Sebuah ayat yang lain."})
    with pytest.raises(UserError) as refused:
        warnings(project)
    (problem,) = refused.value.problems
    assert (problem.code, problem.message, problem.place.line) == ("QR046", "this recording also judges, in `dev` (line 4)", 3)


def test_a_training_clip_judges_after_a_lossy_format(project: Path) -> None:
    data = project.parent / "data"
    copy = convert(data, "train2.wav", "again.ogg", "OGG", "VORBIS")
    add(data / "dev.jsonl", {"audio": copy, "text": "Sebuah ayat yang lain."})
    ((code, message, line),) = warnings(project)
    assert (code, line) == ("QR046", 3)
    assert message == "what sounds like this recording also judges, in `dev` (line 4)"


def test_a_clip_that_trains_in_two_formats(project: Path) -> None:
    data = project.parent / "data"
    copy = convert(data, "train2.wav", "again.ogg", "OGG", "OPUS")
    add(data / "train.jsonl", {"audio": copy, "text": recipes.MALAY[2]})
    ((code, message, line),) = warnings(project)
    assert (code, line) == ("QR091", 7)
    assert message == "1 recording of `speech` repeated from other files (line 3 has the first)"
