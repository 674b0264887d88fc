"""What a run says before it does anything: which stages train again and why, what differs from the lock, whether there is room."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from qrecipe.builtin import mini
from qrecipe.cli import main
from qrecipe.errors import UserError
from qrecipe.files import write_json
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import base_files
from qrecipe.plan import complete_plan, make_plan
from qrecipe.recipe import load
from qrecipe.run import disk, reasons
from qrecipe.run.locking import differences, lock_path, make_lock, read_lock, write_lock
from qrecipe.run.record import StageOutcome, record_of
from tests.support import audio, recipes

STAGES = [
    recipes.stage(),
    recipes.stage(id="head", train=[{"match": "talker.codec_head", "lr": 1.0e-3}], data=["speech"]),
]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return recipes.write(tmp_path, recipes.recipe(stages=STAGES))


def change(recipe: Path, at: str, value: Any) -> None:
    """Writes a value into a recipe's file."""
    content = yaml.safe_load(recipe.read_text())
    target = content
    *keys, last = [int(k) if k.isdigit() else k for k in at.split(".")]
    for key in keys:
        target = target[key]
    target[last] = value
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))


def was_run(recipe: Path) -> Path:
    """A folder as a run of this recipe leaves it, as far as reasons go."""
    folder = recipe.parent / "runs" / "tiny"
    planned = make_plan(load(recipe))
    reasons.inputs_of(planned, FileHashes()).write(folder)
    for stage in planned.plan.stages:
        assert stage.fingerprint is not None
        write_json(folder / "stages" / stage.fingerprint[:16] / "result.json", {})
    return folder


def standing(recipe: Path) -> dict[str, str]:
    planned = make_plan(load(recipe))
    return {k: str(v) for k, v in reasons.standings(planned, recipe.parent / "runs" / "tiny", FileHashes()).items()}


def test_nothing_changed(recipe: Path) -> None:
    assert standing(recipe) == {"language": "", "head": ""}
    was_run(recipe)
    assert standing(recipe) == {"language": "done before", "head": "done before"}


def test_only_the_second_stage_s_rate(recipe: Path) -> None:
    was_run(recipe)
    change(recipe, "stages.1.train.0.lr", 2.0e-3)
    assert standing(recipe) == {"language": "done before", "head": "trains again: train.0.lr: 0.001 -> 0.002"}


def test_a_gate_trains_nothing(recipe: Path) -> None:
    was_run(recipe)
    change(recipe, "stages.0.gates", [{"metric": "talker_nll", "data": "dev", "max": 9}])
    assert standing(recipe) == {"language": "done before", "head": "done before"}


def test_rows_that_changed_are_counted(recipe: Path) -> None:
    """Three texts, and one recording."""
    was_run(recipe)
    data = recipe.parent / "data"
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    for row in rows[:2]:
        row["text"] = row["text"].replace(".", "!")
    recipes.write_rows(data / "train.jsonl", rows)
    audio.write(data / "train4.wav", audio.speech(77, 1.4))
    found = standing(recipe)
    assert found["language"] == "trains again: data changed: 3 rows of data/train.jsonl"
    assert found["head"] == "trains again: data changed: 3 rows of data/train.jsonl; `language` before it trains again"


def test_rows_that_came_and_went(recipe: Path) -> None:
    was_run(recipe)
    data = recipe.parent / "data"
    lines = (data / "english.jsonl").read_text().splitlines()
    (data / "english.jsonl").write_text("\n".join(lines[1:]) + "\n")
    assert standing(recipe)["language"] == "trains again: data changed: 1 rows fewer in data/english.jsonl"
    (data / "english.jsonl").write_text("\n".join([*lines[1:], lines[0]]) + "\n")
    assert "the order of data/english.jsonl" in standing(recipe)["language"]


def test_the_languages_init(recipe: Path) -> None:
    was_run(recipe)
    change(recipe, "languages.malay.init", {"copy": "english"})
    assert "languages.malay.init: [english, spanish] -> [english]" in standing(recipe)["language"]


def test_a_stage_that_was_stopped(recipe: Path) -> None:
    folder = was_run(recipe)
    planned = make_plan(load(recipe))
    stage = planned.plan.stages[1]
    assert stage.fingerprint is not None
    shutil.rmtree(folder / "stages" / stage.fingerprint[:16])
    (folder / "stages" / stage.fingerprint[:16] / "checkpoints" / "step-00000012").mkdir(parents=True)
    assert standing(recipe) == {"language": "done before", "head": "goes on after step 12"}


def test_plan_says_it(recipe: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    monkeypatch.setenv("COLUMNS", "160")
    was_run(recipe)
    change(recipe, "stages.1.steps", 5)
    with pytest.raises(SystemExit):
        main(["plan", "recipe.yaml", "--format", "json"])
    found = json.loads(capfd.readouterr().out)["standings"]
    assert found["language"]["state"] == "done"
    assert found["head"] == {"state": "changed", "why": ["steps: 3 -> 5"]}
    with pytest.raises(SystemExit):
        main(["plan", "recipe.yaml"])
    assert "trains again: steps: 3 -> 5" in capfd.readouterr().out


def verb(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_validate_locked(recipe: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock, the right lock, and every difference of a wrong one with its two values."""
    monkeypatch.chdir(recipe.parent)
    assert verb("validate", "--locked", "recipe.yaml") == 2
    assert "QR072" in capfd.readouterr().err
    planned = complete_plan(load(recipe))
    assert write_lock(make_lock(planned), lock_path(recipe))
    assert verb("validate", "--locked", "recipe.yaml") == 0
    capfd.readouterr()
    change(recipe, "stages.0.train.1.match", "talker.text_projection.linear_fc1")
    (recipe.parent / "data" / "text.jsonl").write_text('{"text": "Satu."}\n')
    assert verb("validate", "recipe.yaml") == 0, "without --locked it is none of its business"
    capfd.readouterr()
    assert verb("validate", "--locked", "recipe.yaml") == 2
    err = capfd.readouterr().err
    for part in ("plan: ", "datasets.text: ", "stages.language.tensors.talker.text_projection.linear_fc2.weight: ", "nothing now"):
        assert part in err
    assert "datasets.speech: " not in err


def test_run_locked_refuses_before_anything_happens(
    recipe: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    planned = complete_plan(load(recipe))
    lock = make_lock(planned)
    write_lock(lock.model_copy(update={"versions": {**lock.versions, "torch": "1.0"}}), lock_path(recipe))
    before = lock_path(recipe).read_bytes()
    assert verb("run", "--locked", "recipe.yaml") == 2
    assert "versions.torch: 1.0 in the lock" in capfd.readouterr().err
    assert lock_path(recipe).read_bytes() == before
    assert not (recipe.parent / "runs").exists()


@pytest.mark.parametrize("words", [["prepare", "recipe.yaml"], ["evaluate", "builtin:mini", "--recipe", "recipe.yaml", "--data", "dev"]])
def test_prepare_and_evaluate_refuse_drift_where_they_are_asked_to(
    recipe: Path, words: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is encoded or measured: no model is opened."""
    monkeypatch.chdir(recipe.parent)
    monkeypatch.setattr("qrecipe.run.session.open_model", lambda *a: pytest.fail("a model was opened"))
    assert verb(*words, "--locked") == 2
    assert "there is no lock" in capfd.readouterr().err
    planned = complete_plan(load(recipe))
    write_lock(make_lock(planned), lock_path(recipe))
    (recipe.parent / "data" / "dev.jsonl").write_text('{"audio": "dev0.wav", "text": "Lain."}\n')
    assert verb(*words, "--locked") == 2
    assert "datasets.dev: " in capfd.readouterr().err


def test_the_lock_is_stable(recipe: Path) -> None:
    """Written twice it is the same, and what is read back differs in nothing."""
    planned = complete_plan(load(recipe))
    write_lock(make_lock(planned), lock_path(recipe))
    first = lock_path(recipe).read_bytes()
    write_lock(read_lock(lock_path(recipe)), lock_path(recipe))
    assert lock_path(recipe).read_bytes() == first
    assert differences(read_lock(lock_path(recipe)), make_lock(planned)) == []


def test_a_lock_that_is_not_one(recipe: Path) -> None:
    lock_path(recipe).write_text('{"lock": 1}')
    with pytest.raises(UserError, match="missing"):
        read_lock(lock_path(recipe))


def test_room_is_computed_from_what_trains(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two checkpoints of the larger stage, each with the weights and two moments; earlier results; and nothing for what is done."""
    planned = make_plan(load(recipe))
    run, bundles = recipe.parent / "runs" / "tiny", recipe.parent / "bundles"
    sizes = [s.parameters for s in planned.plan.stages]
    first, second = (4 * s for s in sizes if s is not None)
    assert [n.bytes for n in disk.needs(planned, run, bundles)] == [
        max(6 * first, first + 6 * second) + disk.SLACK,
        sum(f.stat().st_size for f in base_files(mini.folder())),
    ]
    assert disk.needs(planned, run, bundles, ["language"])[0].bytes == 6 * second + disk.SLACK
    # a run that came to its end writes no checkpoint and judges nothing again, and one that was rejected has no bundle
    outcomes = [StageOutcome(id=s.id, status="kept", fingerprint=s.fingerprint) for s in planned.plan.stages]
    ids = [o.id for o in outcomes]
    for status, left in {"accepted": ["bundle"], "rejected": [], "until": ["checkpoints and results", "bundle"]}.items():
        record_of(complete_plan(load(recipe)), outcomes, status, [], None).write(run)  # type: ignore[arg-type]  # its literals
        assert [n.what for n in disk.needs(planned, run, bundles, ids)] == left
    (bundles / "tiny-0.1.0").mkdir(parents=True)
    assert [n.what for n in disk.needs(planned, run, bundles, ids)] == ["checkpoints and results"]
    shutil.rmtree(run)
    shutil.rmtree(bundles)
    told: list[Any] = []
    disk.require(disk.needs(planned, run, bundles), lambda **f: told.append(f))
    assert told[0]["needs"][0]["what"] == "checkpoints and results"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 1000))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"the disk has 0\.00 GB left, and the run needs up to"):
        disk.require(disk.needs(planned, run, bundles), lambda **f: None)
    assert not run.exists()


@pytest.mark.slow
def test_without_torch() -> None:
    """Reasons, drift, disk and garbage are asked by verbs that answer at once."""
    code = (
        "import sys; import qrecipe.run.reasons, qrecipe.run.locking, qrecipe.run.disk, qrecipe.verbs.gc; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
