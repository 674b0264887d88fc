"""Shards: thousands of entries a file, found again by other processes, and absent where they are damaged."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from qrecipe import shards
from qrecipe.shards import ShardStore


def key(number: int) -> str:
    return hashlib.sha256(bytes([number])).hexdigest()


def entry(number: int) -> dict[str, torch.Tensor]:
    return {"codes": torch.full((number % 4, 3), number, dtype=torch.int16), "seconds": torch.tensor(number / 2, dtype=torch.float64)}


def store(folder: Path) -> ShardStore:
    opened = ShardStore(folder, "codes", "seconds")
    opened.refresh()
    return opened


def same(a: dict[str, torch.Tensor] | None, b: dict[str, torch.Tensor]) -> bool:
    return a is not None and a.keys() == b.keys() and all(torch.equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in b)


def test_entries_of_any_length_are_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ENTRIES", 8)
    writing = store(tmp_path)
    for number in range(20):
        writing.put(key(number), entry(number))
        assert same(writing.get(key(number)), entry(number)), "before it is on the disk, too"
    assert len(list(tmp_path.iterdir())) == 2
    writing.flush()
    assert len(list(tmp_path.iterdir())) == 3
    for opened in (writing, store(tmp_path)):
        assert all(same(opened.get(key(number)), entry(number)) for number in range(20))
        assert opened.get(key(99)) is None


def test_what_another_process_wrote_is_there_after_a_look(tmp_path: Path) -> None:
    mine, other = store(tmp_path), store(tmp_path)
    other.put(key(1), entry(1))
    other.flush()
    assert mine.get(key(1)) is None
    mine.refresh()
    assert same(mine.get(key(1)), entry(1))


def test_an_entry_that_time_has_come_for_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SECONDS", -1.0)
    store(tmp_path).put(key(1), entry(1))
    assert same(store(tmp_path).get(key(1)), entry(1))


def test_a_damaged_entry_is_absent_and_a_good_copy_of_it_is_taken(tmp_path: Path) -> None:
    writing = store(tmp_path)
    for number in (1, 2):
        writing.put(key(number), entry(number))
    writing.flush()
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    place = content.index(entry(2)["seconds"].numpy().tobytes())
    damaged = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    file.unlink()
    file.write_bytes(damaged)
    again = store(tmp_path)
    states = [again.get(key(number)) is not None for number in (1, 2)]
    assert states in ([True, False], [False, True])
    lost = 1 + states.index(False)
    again.put(key(lost), entry(lost))
    again.flush()
    assert all(same(store(tmp_path).get(key(number)), entry(number)) for number in (1, 2))
