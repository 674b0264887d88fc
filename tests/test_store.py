"""Stores: an entry is whole or absent, made once, and marked when it is used; a lock goes with its process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qrecipe.store import Journal, JsonStore, MappedStore, TensorStore, key_of, leftovers, try_lock, unused

DAYS_AGO = time.time() - 10 * 86_400
TENSORS = {"codes": torch.arange(6).reshape(3, 2)}


def test_a_key_is_made_of_the_inputs() -> None:
    assert key_of({"b": 1, "a": [2.0]}) == key_of({"a": [2.0], "b": 1})
    assert key_of(["a"], 20) == key_of(["a"])[:20]
    assert len({key_of(inputs) for inputs in (["a", 1], ["a", 2], ["a", "1"])}) == 3


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make(i: int) -> dict[str, int]:
        made.append(i)
        return {"number": i}

    store = JsonStore(tmp_path / "numbers")
    store.put("b", {"number": 1})
    assert dict(store.get_or_make(["a", "b"], make)) == {0: {"number": 0}, 1: {"number": 1}}
    assert dict(store.get_or_make(["a", "b"], make)) == {0: {"number": 0}, 1: {"number": 1}}
    assert made == [0]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, cut, empty])
def test_a_damaged_entry_is_absent_and_can_be_written_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    texts, tensors, mapped = JsonStore(tmp_path / "a"), TensorStore(tmp_path / "b", "codes"), MappedStore(tmp_path / "c")
    for _ in range(2):
        texts.put("key", {"text": "selamat pagi"})
        tensors.put("key", TENSORS)
        mapped.put("key", TENSORS)
        assert texts.get("key") == {"text": "selamat pagi"}
        assert torch.equal(tensors.get("key")["codes"], TENSORS["codes"])  # type: ignore[index]  # it is there
        assert torch.equal(mapped.get("key").get_tensor("codes"), TENSORS["codes"])
        for path in (f for f in tmp_path.rglob("*") if f.is_file()):
            damage(path)
        assert (texts.get("key"), tensors.get("key"), mapped.get("key")) == (None, None, None)


def test_other_tensors_are_no_entry(tmp_path: Path) -> None:
    TensorStore(tmp_path, "codes").put("key", TENSORS)
    assert TensorStore(tmp_path, "codes", "seconds").get("key") is None


def test_an_entry_that_is_read_counts_as_used(tmp_path: Path) -> None:
    store = JsonStore(tmp_path)
    for key in ("read", "unread"):
        store.put(key, {})
        os.utime(store.path(key), (DAYS_AGO, DAYS_AGO))
    store.get("read")
    assert list(unused(tmp_path, 86_400)) == [store.path("unread")]


def test_a_folder_that_cannot_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of somebody else's: nothing can be marked as used."""
    store = JsonStore(tmp_path)
    store.put("key", {"number": 1})

    def refuse(*args: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    assert store.get("key") == {"number": 1}


def test_what_a_killed_process_left(tmp_path: Path) -> None:
    """Of a folder that was being written the folder alone, and nothing that may still be written."""
    old, new, nested = tmp_path / ".a.json.x1.tmp", tmp_path / ".b.json.x2.tmp", tmp_path / "below" / ".c.x3.tmp"
    nested.mkdir(parents=True)
    for file in (old, new, nested / ".d.json.x4.tmp"):
        file.write_text("")
    for path in (old, nested):
        os.utime(path, (DAYS_AGO, DAYS_AGO))
    assert list(leftovers(tmp_path, deep=False)) == [old]
    assert list(leftovers(tmp_path, deep=True)) == [old, nested]
    assert list(leftovers(tmp_path / "absent", deep=True)) == []


def test_a_journal_survives_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    assert Journal(file).get_or_make(["a"], lambda: 1.5) == 1.5
    with open(file, "a") as f:
        f.write('{"key": "torn')
    journal = Journal(file)
    assert (journal.get(["a"]), journal.get(["b"])) == (1.5, None)
    journal.get_or_make(["b"], lambda: None)
    assert Journal(file).get_or_make(["b"], lambda: "made again") is None


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from qrecipe.store import try_lock; lock = try_lock(Path(sys.argv[1])); print(lock is not None, flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    assert try_lock(tmp_path / "lock") is None
    process.kill()
    process.communicate()
    lock = try_lock(tmp_path / "lock")
    assert lock is not None
    lock.close()


def test_gc_needs_no_torch() -> None:
    code = "import sys; import qrecipe.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
