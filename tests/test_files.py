"""Hashes of files that are remembered: never longer than the file stays what it was."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from qrecipe.files import FileHashes


def test_a_file_that_was_replaced_is_read_again_whatever_its_size_and_time(tmp_path: Path) -> None:
    """As `rsync --times` and `cp -p` replace it."""
    file, store = tmp_path / "a.wav", tmp_path / "hashes.json"
    file.write_bytes(b"one sound")
    hashes = FileHashes(store)
    hashes.sha256(file)
    assert hashes.once(file, "text", file.read_text) == "one sound"
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
    assert hashes.once(file, "text", file.read_text) == "two sound"
