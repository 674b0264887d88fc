"""Recordings of rows: their content and length, which the process that reads the rows looks at."""

from __future__ import annotations

import errno
import json
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from qrecipe import hashes as file_hashes
from qrecipe.hash_table import UNMEASURED
from qrecipe.hashes import FileHashes
from qrecipe.inputs import blocks, recordings
from qrecipe.inputs.durations import by_header, by_start, lengths
from qrecipe.inputs.manifest import Manifest, read_manifest

SAMPLES = b"\1\0" * 8000


def chunk(name: bytes, content: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(content) if size is None else size) + content


def wav(*before: bytes, size: int | None = None, rate: int = 16_000) -> bytes:
    fmt = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16))
    return chunk(b"RIFF", b"WAVE" + b"".join(before) + fmt + chunk(b"data", SAMPLES, size))


def read(folder: Path, hashes: FileHashes, rows: list[dict[str, Any]]) -> Manifest:
    (folder / "m.jsonl").write_text("".join(json.dumps({"text": "Ada.", **row}) + "\n" for row in rows))
    return read_manifest(folder / "m.jsonl", "speech", None, "m.jsonl", hashes=hashes)


@pytest.mark.parametrize(
    ("content", "known"),
    [
        (wav(), True),
        (wav(chunk(b"LIST", b"about it")), True),
        (wav(size=0xFFFFFFFF), True),  # written into a pipe
        (wav(size=4 * len(SAMPLES)), True),  # broken off
        (wav(chunk(b"LIST", bytes(100_000))), False),  # the sound begins behind what is looked at
        (wav(rate=0), False),
        (wav()[:30], False),
        (b"no recording", False),
        (b"", False),
    ],
)
def test_a_look_at_the_start_tells_what_the_header_does_or_nothing(content: bytes, known: bool, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    seconds = by_start(content[:65536], len(content))
    assert seconds == (by_header(tmp_path / "a.wav") if known else UNMEASURED)
    hashes = FileHashes(tmp_path / "h.sqlite")
    manifest = read(tmp_path, hashes, [{"audio": "a.wav"}])
    assert list(manifest.rows.seconds) == [seconds]
    assert list(lengths(manifest.rows, hashes)) == [by_header(tmp_path / "a.wav")]


def test_rows_with_one_sound_under_several_names(tmp_path: Path) -> None:
    for name, content in (("a.wav", wav()), ("b.wav", wav()), ("c.wav", wav(chunk(b"LIST", b"about it")))):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link.wav").symlink_to("c.wav")
    rows = [{"audio": name} for name in ("a.wav", "b.wav", "c.wav", "link.wav", str(tmp_path / "a.wav"))]
    codes = {"audio_codes": [[1, 2], [3, 4]]}
    sounds = read(tmp_path, FileHashes(tmp_path / "h.sqlite"), [*rows, codes, {"audio": "a.wav", **codes}]).sounds
    assert sounds[0] == sounds[1] == sounds[4] != sounds[2] == sounds[3]
    assert sounds[0] == int.from_bytes(sha256(wav()).digest()[:8], "little", signed=True)
    assert sounds[5] == sounds[6] not in sounds[:5]


def test_recordings_are_read_once_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "MAX_SEEN", 2)
    monkeypatch.setattr(blocks, "BLOCK", 200)
    for i in range(20):
        (tmp_path / f"{i}.wav").write_bytes(wav(chunk(b"LIST", b"%d" % i)))
    hashes, rows = FileHashes(tmp_path / "h.sqlite"), [{"audio": f"{i}.wav", "reference": f"{19 - i}.wav"} for i in range(20)]
    manifest = read(tmp_path, hashes, rows)
    hashes.save()
    monkeypatch.setattr(file_hashes, "_read", None)
    again = read(tmp_path, FileHashes(tmp_path / "h.sqlite"), rows)
    assert again.content
    assert manifest.content
    assert again.content.digest() == manifest.content.digest()
    assert (again.sounds, again.rows.seconds) == (manifest.sounds, manifest.rows.seconds)


def test_a_recording_that_cannot_be_read_is_no_fault_of_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(file_hashes, "_read", denied)
    (tmp_path / "a.wav").write_bytes(wav())
    with pytest.raises(PermissionError, match=r"a\.wav"):
        read(tmp_path, FileHashes(tmp_path / "h.sqlite"), [{"audio": "a.wav"}])
