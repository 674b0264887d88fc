"""Two plans of one command: rows are not read again, and whatever is known of a recording is what it is now."""

from __future__ import annotations

import io
import json
import os
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qrecipe.hashes import FileHashes
from qrecipe.inputs.durations import lengths
from qrecipe.inputs.manifest import read_manifest
from qrecipe.plan import Planned, make_plan
from qrecipe.recipe import LoadedRecipe, load
from tests.support import recipes, sources

NAMES = ("a.wav", "b.wav", "c.wav")


def sound(value: bytes, rate: int = 16_000) -> bytes:
    """A WAV file of 2,000 samples; files of all values and rates have the same size."""
    file = io.BytesIO()
    with wave.open(file, "wb") as w:
        w.setparams((1, 1, rate, 0, "NONE", ""))
        w.writeframes(value * 2_000)
    return file.getvalue()


def replace(path: Path, content: bytes) -> None:
    """Another file under the name, with the time of the one before."""
    before = path.stat() if path.exists() else None
    (new := path.with_suffix(".new")).write_bytes(content)
    if before is not None:
        os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(new, path)


class Dataset:
    """A manifest that names recordings in its folder."""

    def __init__(self, folder: Path, name: str, text: str, **settings: Any) -> None:
        self.folder, self.settings = folder, {"path": f"data/{name}", **settings}
        folder.mkdir()
        (folder / name).write_text(text)
        for i, recording in enumerate(NAMES):
            self.put(recording, sound(bytes([i])))

    def put(self, name: str, content: bytes) -> None:
        replace(self.folder / name, content)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()


class Shards(Dataset):
    """A folder of tars, each with one recording and its text."""

    def __init__(self, folder: Path) -> None:
        (folder.parent / "data").mkdir()
        super().__init__(folder / "shards", "README", "", path="data/shards", format="tar")

    def put(self, name: str, content: bytes) -> None:
        tar = self.folder / f"{name}.tar"
        sources.tar(self.folder / "new", [(f"x/{name}", content), (f"x/{Path(name).stem}.txt", f"Ada {name[0]} dan buku.".encode())])
        replace(tar, (self.folder / "new").read_bytes())

    def remove(self, name: str) -> None:
        (self.folder / f"{name}.tar").unlink()


def jsonl(folder: Path) -> Dataset:
    rows = [{"audio": name, "text": f"Ada {name[0]} dan buku."} for name in NAMES]
    return Dataset(folder, "m.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def csv(folder: Path) -> Dataset:
    rows = ["clip,words,length", *(f"{name},Ada {name[0]} dan buku.,1" for name in NAMES)]
    return Dataset(folder, "m.csv", "\n".join(rows) + "\n", columns={"audio": "clip", "text": "words"})


def references(folder: Path) -> Dataset:
    rows = [{"audio": NAMES[i], "reference": NAMES[i - 1], "text": f"Ada {i} dan buku."} for i in range(3)]
    return Dataset(folder, "m.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def skipping(folder: Path) -> Dataset:
    made = csv(folder)
    made.settings["on_bad_row"] = "skip"
    return made


DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "jsonl": jsonl, "csv": csv, "folder": Shards, "references": references, "bad rows are skipped": skipping,
}  # fmt: skip


def recipe(folder: Path, dataset: Dataset) -> LoadedRecipe:
    speech = {"kind": "speech", "language": "malay", **dataset.settings}
    stages = [recipes.stage(data=["speech"])]
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipes.recipe(datasets={"speech": speech}, stages=stages)))
    return load(path)


def facts(planned: Planned, hashes: FileHashes) -> Any:
    manifest = planned.manifests["speech"]
    problems = [(p.code, str(p.place), p.message) for p in (*planned.problems, *manifest.problems)]
    rows = [(row.line, row.text) for row in manifest.rows]
    return planned.plan.datasets["speech"], rows, [*lengths(manifest.rows, hashes)], manifest.sounds, problems


CHANGES: dict[str, Callable[[Dataset], None]] = {
    "replaced by one of its size": lambda data: data.put("b.wav", sound(b"\7")),
    "replaced by a longer one of its size": lambda data: data.put("b.wav", sound(b"\1", rate=8_000)),
    "removed": lambda data: data.remove("b.wav"),
}


@pytest.fixture(params=DATASETS)
def dataset(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("QRECIPE_CACHE", str(tmp_path / "cache"))
    return DATASETS[request.param](tmp_path / "data")


@pytest.mark.parametrize("change", CHANGES)
def test_a_recording_that_changes_between_two_plans_is_looked_at_again(change: str, dataset: Dataset, tmp_path: Path) -> None:
    loaded, hashes = recipe(tmp_path, dataset), FileHashes(tmp_path / "kept.sqlite")
    first = facts(make_plan(loaded, hashes), hashes)
    CHANGES[change](dataset)
    second = facts(make_plan(loaded, hashes), hashes)
    assert second != first
    fresh = FileHashes(tmp_path / "fresh.sqlite")
    assert second == facts(make_plan(loaded, fresh), fresh)

    # it comes back, and everything is as it was
    dataset.put("b.wav", sound(b"\1"))
    assert facts(make_plan(loaded, hashes), hashes) == first


def test_a_recording_that_appears_between_two_plans_is_looked_for_again(dataset: Dataset, tmp_path: Path) -> None:
    loaded, hashes = recipe(tmp_path, dataset), FileHashes(tmp_path / "kept.sqlite")
    dataset.remove("c.wav")
    first = make_plan(loaded, hashes).plan.datasets["speech"]
    dataset.put("c.wav", sound(b"\2"))
    second = facts(make_plan(loaded, hashes), hashes)
    assert (first.rows or 0) < second[0].rows == 3
    fresh = FileHashes(tmp_path / "fresh.sqlite")
    assert second == facts(make_plan(loaded, fresh), fresh)


def test_a_recording_that_leads_out_of_the_folder_by_now_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QRECIPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "recipe").mkdir()
    data = jsonl(tmp_path / "recipe" / "data")
    loaded, hashes = recipe(tmp_path / "recipe", data), FileHashes(tmp_path / "kept.sqlite")
    assert make_plan(loaded, hashes).plan.datasets["speech"].rows == 3
    (tmp_path / "other.wav").write_bytes(sound(b"\1"))
    data.remove("b.wav")
    (data.folder / "b.wav").symlink_to(tmp_path / "other.wav")
    assert "QR048" in [p.code for p in make_plan(loaded, hashes).problems]
    data.put("b.wav", sound(b"\1"))
    assert "QR048" not in [p.code for p in make_plan(loaded, hashes).problems]


def test_rows_are_not_read_again_while_nothing_changes(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    monkeypatch.setattr("qrecipe.plan.plan.read_manifest", lambda path, *a: reads.append(path) or read_manifest(path, *a))
    loaded, hashes = recipe(tmp_path, dataset), FileHashes(tmp_path / "kept.sqlite")
    for _ in range(3):
        make_plan(loaded, hashes)
    assert len(reads) == 1
