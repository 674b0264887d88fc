"""Snapshots of the hub whose download broke off: not a faulty model, but one of which files are missing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qrecipe.builtin import mini
from qrecipe.errors import BaseModelError, Place
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import locate
from qrecipe.inputs.fetch import resolve
from qrecipe.inputs.snapshots import absent_files
from qrecipe.recipe.base import Base
from tests.support.bases import base_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BASE = Base(model="some/Qwen3-TTS-Small-Base", revision=COMMIT)
PLACE = Place("recipe.yaml", 4, 3)


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole snapshot as the hub's client lays it out, links to blobs."""
    hub = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = hub / "models--some--Qwen3-TTS-Small-Base"
    folder = base_folder(repository / "snapshots" / COMMIT)
    (repository / "blobs").mkdir()
    for i, file in enumerate(sorted(f for f in folder.rglob("*") if f.is_file())):
        shutil.move(file, repository / "blobs" / str(i))
        file.symlink_to(os.path.relpath(repository / "blobs" / str(i), file.parent))
    return folder


def in_shards(folder: Path, *there: str) -> None:
    """An index of two shards, of which some have been fetched."""
    weights = (folder / "model.safetensors").resolve()
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(zip("ab", names, strict=True))}))
    for name in there:
        (folder / name).symlink_to(weights)


def cut(file: Path) -> None:
    with open(file.resolve(), "r+b") as f:
        f.truncate(file.stat().st_size // 2)


HALF: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors"]),
    "a link to nothing": (lambda f: (f / "model.safetensors").resolve().unlink(), ["model.safetensors"]),
    "a cut file": (lambda f: cut(f / "model.safetensors"), ["model.safetensors"]),
    "one shard of two": (lambda f: in_shards(f, "model-00001-of-00002.safetensors"), ["model-00002-of-00002.safetensors"]),
    "no speech tokenizer": (
        lambda f: shutil.rmtree(f / "speech_tokenizer"),
        ["speech_tokenizer/config.json", "speech_tokenizer/model.safetensors"],
    ),
    "no vocabulary": (lambda f: (f / "vocab.json").unlink(), ["vocab.json"]),
}


@pytest.mark.parametrize("what", HALF)
def test_half_a_download_is_said_to_be_one(what: str, snapshot: Path, tmp_path: Path) -> None:
    damage, absent = HALF[what]
    damage(snapshot)
    assert absent_files(snapshot) == absent
    described = locate(BASE, tmp_path, PLACE, FileHashes())
    (warning,) = described.warnings
    count = "1 file is" if len(absent) == 1 else f"{len(absent)} files are"
    assert (warning.code, described.folder) == ("QR052", None)
    assert f"is incomplete in the hub cache of this machine: {count} missing" in warning.message
    with pytest.raises(BaseModelError) as refused:
        resolve(BASE, tmp_path, PLACE, FileHashes())
    (problem,) = refused.value.problems
    assert problem.code == "QR050"
    assert "is incomplete" in problem.message


def test_a_whole_snapshot_is_used(snapshot: Path, tmp_path: Path) -> None:
    described = locate(BASE, tmp_path, PLACE, FileHashes())
    assert (described.folder, described.warnings) == (snapshot, [])


@pytest.mark.parametrize("what", HALF)
def test_where_there_is_a_network_the_rest_is_fetched(what: str, snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in for the hub brings what is not there, and like the hub's client looks at no file's size."""
    HALF[what][0](snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def fetch(model: str, **settings: Any) -> str:
        assert (model, settings["revision"]) == (BASE.model, COMMIT)
        whole = base_folder(tmp_path / "whole")
        shutil.rmtree(whole / "speech_tokenizer")
        shutil.copytree(mini.folder() / "speech_tokenizer", whole / "speech_tokenizer")
        for file in (f for f in whole.rglob("*") if f.is_file()):
            target = snapshot / file.relative_to(whole)
            if not target.exists() and not (snapshot / "model.safetensors.index.json").exists():
                target.unlink(missing_ok=True)
                target.parent.mkdir(exist_ok=True)
                shutil.copy(file, target)
        for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
            if (snapshot / "model.safetensors.index.json").exists() and not (snapshot / name).exists():
                shutil.copy(whole / "model.safetensors", snapshot / name)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert resolve(BASE, tmp_path, PLACE, FileHashes()).folder == snapshot
    assert absent_files(snapshot) == []
