"""Hashes of files that are remembered: never longer than the file stays what it was."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path

import pytest

from qrecipe import hashes as file_hashes
from qrecipe.hashes import FileHashes


def test_a_file_that_was_replaced_is_read_again_whatever_its_size_and_time(tmp_path: Path) -> None:
    """As `rsync --times` and `cp -p` replace it."""
    file, store = tmp_path / "a.wav", tmp_path / "hashes.sqlite"
    file.write_bytes(b"one sound")
    hashes = FileHashes(store)
    hashes.sha256(file)
    hashes.save()
    before = file.stat()

    other = tmp_path / "b.wav"
    other.write_bytes(b"two sound")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    for again in (hashes, FileHashes(store)):
        assert again.known(file) is None
        assert again.sha256(file) == hashlib.sha256(b"two sound").hexdigest()


@pytest.fixture
def clips(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "clips" / f"{i}.wav" for i in range(1200)]
    paths[0].parent.mkdir()
    for i, path in enumerate(paths):
        path.write_bytes(b"%d" % i)
    return [str(path) for path in paths]


def test_many_files_are_read_once_and_measured_once(clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes, measured = FileHashes(tmp_path / "h.sqlite"), []
    expected = [hashlib.sha256(b"%d" % i).hexdigest() for i in range(len(clips))]
    assert hashes.sha256_of_all(clips) == expected
    seconds = [None if i % 3 == 0 else float(i) for i in range(len(clips))]
    assert hashes.seconds_of_all(clips, lambda p: measured.append(p) or seconds[int(Path(p).stem)]) == seconds  # type: ignore[func-returns-value]
    hashes.save()

    monkeypatch.setattr(file_hashes, "_read", None)
    later = FileHashes(tmp_path / "h.sqlite")
    assert later.sha256_of_all(clips) == expected
    assert later.seconds_of_all(clips, lambda p: measured.append(p)) == seconds  # type: ignore[func-returns-value]
    assert later.seconds_of_all([clips[5]], lambda p: 0.0) == [5.0]
    assert len(measured) == len(clips)


@pytest.mark.parametrize("slow", [0.0, 1e9])
def test_threads_change_no_hash(slow: float, clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hashes, "SLOW", slow)
    expected = [hashlib.sha256(b"%d" % i).hexdigest() for i in range(len(clips))]
    assert FileHashes(tmp_path / "h.sqlite").sha256_of_all(clips) == expected


def test_the_hash_of_a_file_that_is_read_in_parts(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(content := bytes(range(256)) * 5000)
    assert file_hashes.sha256(tmp_path / "large") == hashlib.sha256(content).hexdigest()
    (tmp_path / "empty").write_bytes(b"")
    assert file_hashes.sha256(tmp_path / "empty") == hashlib.sha256(b"").hexdigest()


def test_hashes_of_very_many_files_are_not_held_in_memory(clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hashes, "MAX_UNSAVED", 100)
    hashes = FileHashes(tmp_path / "h.sqlite")
    first = hashes.sha256_of_all(clips)
    assert not hashes._known
    monkeypatch.setattr(file_hashes, "_read", None)
    assert hashes.sha256_of_all(clips) == first


@pytest.mark.parametrize("content", [b"{}", b"not a database" * 100, b"SQLite format 3\0 and then nothing"])
def test_a_cache_that_cannot_be_read_is_empty_and_written_anew(content: bytes, tmp_path: Path) -> None:
    """Such as one of an earlier version, or one that a full disk cut."""
    file, store = tmp_path / "a.wav", tmp_path / "h.sqlite"
    file.write_bytes(b"one sound")
    store.write_bytes(content)
    hashes = FileHashes(store)
    assert hashes.known(file) is None
    hashes.sha256(file)
    hashes.save()
    assert FileHashes(store).known(file) == hashlib.sha256(b"one sound").hexdigest()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"one sound")
    hashes = FileHashes(file / "no folder" / "h.sqlite")
    assert hashes.sha256(file) == hashlib.sha256(b"one sound").hexdigest()
    hashes.save()
    assert hashes.known(file) == hashlib.sha256(b"one sound").hexdigest()


@pytest.mark.parametrize("store", ["h.sqlite", "a.wav/no folder/h.sqlite"])
def test_what_another_process_learned_is_known(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it cannot be stored."""
    file = tmp_path / "a.wav"
    file.write_bytes(b"one sound")
    other, own = FileHashes(tmp_path / "other.sqlite"), FileHashes(tmp_path / store)
    expected = other.sha256(file)
    own.add(other.take())
    assert other.take() == []
    own.save()
    monkeypatch.setattr(file_hashes, "_read", None)
    assert own.sha256(file) == expected


def test_what_another_process_wrote_stays(tmp_path: Path) -> None:
    one, two, store = tmp_path / "1.wav", tmp_path / "2.wav", tmp_path / "h.sqlite"
    hashes = [FileHashes(store), FileHashes(store)]
    for file, own in zip((one, two), hashes):
        file.write_bytes(file.name.encode())
        own.sha256(file)
    for own in hashes:
        own.save()
    with sqlite3.connect(store) as connection:
        assert connection.execute("SELECT COUNT(*) FROM files").fetchone() == (2,)
