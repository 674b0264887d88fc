"""What `gc` lists and deletes, and what it leaves alone."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from qrecipe.cli import main
from qrecipe.files import write_json
from qrecipe.run.record import RecordedBase, RunRecord, StageOutcome
from qrecipe.verbs.gc import find
from tests.support.shared import Finished

OLD = time.time() - 100 * 86_400


def put(path: Path, size: int = 10, old: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    if old:
        os.utime(path, (OLD, OLD))
    return path


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """A run with a start, a kept stage, a stage in training, and one of an earlier plan; values of both; a cache."""
    run = tmp_path / "runs" / "tiny"
    start, kept, training, earlier = (c * 64 for c in "abcd")
    stages = [StageOutcome(id="one", status="kept", fingerprint=kept), StageOutcome(id="two", status="skipped")]
    record = {"recipe": "tiny", "status": "running", "file": "recipe.yaml", "sets": [], "plan": "e" * 64, "languages": {}, "accept": []}
    base = RecordedBase(model="builtin:mini", revision=None, folder="mini")
    RunRecord(**record, start=start, training=training, base=base, stages=stages).write(run)
    put(run / ".held")
    for state in (start, kept, training, earlier):
        put(run / "stages" / state[:16] / "delta.safetensors", 100)
    write_json(run / "values" / "1.json", {"key": ["values", 1, kept], "values": []})
    write_json(run / "values" / "2.json", {"key": ["values", 1, earlier], "values": []})
    put(run / "stages" / kept[:16] / ".delta.safetensors.x1.tmp")
    cache = tmp_path / "cache"
    put(cache / "codes" / "enc" / "whole" / "new.sealed")
    put(cache / "codes" / "enc" / "whole" / "old.sealed", old=True)
    put(cache / "bases" / "mini-000000000000" / "model.safetensors", 50)
    put(cache / "numba" / "0" / ".held", 0, old=True)
    put(cache / "numba" / "0" / "resample.nbc", 50)
    put(cache / "numba" / "1" / ".held", 0)
    put(tmp_path / "bundles" / "tiny-0.1.0" / "bundle.json")
    left = tmp_path / "bundles" / ".tiny-0.2.0.x.tmp"
    put(left / "model.safetensors", 30)
    os.utime(left, (OLD, OLD))
    put(tmp_path / "bundles" / ".tiny-0.3.0.y.tmp" / "model.safetensors")
    return {"runs": tmp_path / "runs", "bundles": tmp_path / "bundles", "cache": cache}


GARBAGE = {
    "runs/tiny/stages/dddddddddddddddd",
    "runs/tiny/values/2.json",
    "runs/tiny/stages/bbbbbbbbbbbbbbbb/.delta.safetensors.x1.tmp",
    "bundles/.tiny-0.2.0.x.tmp",
    "cache/bases/mini-000000000000",
    "cache/codes/enc/whole/old.sealed",
    "cache/numba/0",
}


def files(folder: Path) -> set[str]:
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def gc(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    monkeypatch.setenv("QRECIPE_CACHE", str(folders["cache"]))
    with pytest.raises(SystemExit) as ended:
        main(["gc", "--runs", str(folders["runs"]), "--bundles", str(folders["bundles"]), *more])
    assert ended.value.code == 0


def test_lists_what_nothing_refers_to_and_deletes_nothing(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = files(tmp_path)
    gc(folders, monkeypatch, "--format", "json")
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    assert {str(Path(g["path"]).relative_to(tmp_path)) for g in found["garbage"]} == GARBAGE
    assert files(tmp_path) == before
    gc(folders, monkeypatch)
    assert "7 items" in (out := capfd.readouterr().out)
    assert "would be deleted with --delete" in out


def test_deletes_what_it_listed(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(tmp_path)
    gc(folders, monkeypatch, "--delete")
    gone = before - files(tmp_path)
    assert all(any(f == g or f.startswith(g + "/") for g in GARBAGE) for f in gone)
    assert len(gone) == len(GARBAGE) + 1  # the folder of compiled functions has two files
    gc(folders, monkeypatch, "--delete")


def test_a_run_that_works_is_left_alone(folders: dict[str, Path]) -> None:
    with open(folders["runs"] / "tiny" / ".held", "a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        found = find(folders["runs"], folders["bundles"], folders["cache"], 90)
    assert found.busy == [folders["runs"] / "tiny"]
    assert not any("runs" in g.path.parts for g in found.garbage)


def test_a_folder_that_is_no_run_is_left_alone(folders: dict[str, Path]) -> None:
    """Without a readable run.json nothing says what is referred to."""
    (folders["runs"] / "tiny" / "run.json").write_text("{")
    assert not any("runs" in g.path.parts for g in find(folders["runs"], folders["bundles"], folders["cache"], 90).garbage)


def test_nothing_of_a_finished_run_is_garbage(finished: Finished) -> None:
    """Its stages, the values that its gates read, and its checkpoints' absence."""
    assert list((finished.runs / "tiny" / "values").glob("*.json"))
    assert not any("runs" in g.path.parts for g in find(finished.runs, finished.bundles, finished.runs / "no-cache", 90).garbage)
