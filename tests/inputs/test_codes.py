"""Ready codes in manifests: which are taken, and that a manifest holds none of them in memory."""

from __future__ import annotations

import json
import random
from array import array
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from qrecipe.errors import DataError
from qrecipe.hashes import FileHashes
from qrecipe.inputs import blocks
from qrecipe.inputs.codes import Codes, check_written, with_spaces
from qrecipe.inputs.manifest import Manifest, read_manifest

DRAW = random.Random(0)


def drawn(frames: int, codebooks: int = 16) -> list[list[int]]:
    return [[DRAW.randrange(2048) for _ in range(codebooks)] for _ in range(frames)]


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


def manifest(folder: Path, rows: list[dict[str, Any]], hashes: FileHashes | None = None) -> Manifest:
    (folder / "m.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return read_manifest(folder / "m.jsonl", "speech", None, "m.jsonl", hashes=hashes)


def test_frames_of_written_codes() -> None:
    rows = [drawn(3, 2), drawn(1, 1), [[0, 2047]], drawn(5), [[7]] * 300]
    assert check_written([written(row) for row in rows]) == array("i", [3, 1, 1, 5, 300])


WRONG = """
[[1,2],[3]] [[1,2048]] [[9999]] [[12345]] [[1,02]] [[00]] [[-1]] [[1.5]] [[1e3]] [[null]] [[]] [] [1] [[1],2,[3]] [[[1]]] [[1]]]
[[1,]] [[,1]] [[1][2]] [[1],[2] [[1]],[[2]] [[1]], 1[[1]] [[1]]2 [[,2]1,[3,4]] [[1,2],3[,4]] [1[,2],[3,4]]
"""


@pytest.mark.parametrize("wrong", [*WRONG.split(), *(w.replace(",", ", ") for w in WRONG.split()), "", "[[1 2]]", "[[1,\n2]]", "[[1,2 3]]"])
def test_what_is_no_list_of_codes(wrong: str) -> None:
    rows = [written(drawn(2)), wrong.encode(), written(drawn(1, 4))]
    assert check_written(with_spaces(rows)) is None
    # the same between rows without spaces
    assert check_written(with_spaces([compact(drawn(2)), wrong.encode(), compact(drawn(1, 4))])) is None


def test_damaged_codes_are_taken_only_where_they_still_are_codes() -> None:
    """A character or two are changed, put in or taken out; what is taken is what `json` writes of equally wide frames of codes."""
    draw, taken = random.Random(1), 0
    for _ in range(3000):
        row = json.dumps(drawn(draw.randint(1, 3), draw.randint(1, 3)))
        for _ in range(draw.randint(1, 2)):
            at, what = draw.randrange(len(row)), draw.choice("0129,, []")
            row = row[:at] + draw.choice([what, what + row[at : at + 1], ""]) + row[at + draw.randint(0, 1) :]
        try:
            value = json.loads(row)
            good = row == json.dumps(value) and len({len(frame) for frame in value}) == 1 and value[0] != []
            good = good and all(type(code) is int and 0 <= code < 2048 for frame in value for code in frame)
        except (ValueError, TypeError, IndexError):
            good = False
        assert (check_written([written([[1]]), row.encode(), written([[2, 3]])]) is not None) == good, row
        taken += good
    assert 100 < taken < 1500


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def test_codes_are_the_same_with_and_without_spaces() -> None:
    rows = [drawn(3), drawn(2)]
    expected = [written(row) for row in rows]
    assert with_spaces(expected) == with_spaces([compact(row) for row in rows]) == expected
    assert [sha256(row).digest() for row in expected] == [Codes(row).digest for row in rows]
    for wrong in (b"[[1 ,2]]", b"[[1, 2] ]", b"[[1 2]]", b"[[1,\t2]]", b"[[1, 2,3]]"):
        assert check_written(with_spaces([wrong])) is None


def test_codes_stay_in_the_file_until_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 3000)  # several blocks
    rows = [{"text": f"Ada {i} buku.", "audio_codes": drawn(2 + i % 5)} for i in range(40)]
    read = manifest(tmp_path, rows)
    assert read.problems == []
    assert [row.codes.tolist() for row in read.rows if row.codes is not None] == [row["audio_codes"] for row in rows]
    assert read.rows.codes.frames(0, 40) == [2 + i % 5 for i in range(40)]
    assert read.rows.codes.digests(3, 5) == [Codes(row["audio_codes"]).digest.hex() for row in rows[3:5]]
    assert not read.rows.codes._memory

    (tmp_path / "m.jsonl").write_text("")
    with pytest.raises(DataError, match="the manifest changed while its codes were used"):
        read.rows[3]


def test_rows_with_and_without_codes(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    rows = [{"text": "Ada buku.", "audio": "a.wav"}, {"text": "Ada meja.", "audio_codes": drawn(4)}] * 3
    read = manifest(tmp_path, rows)
    assert [None if row.codes is None else row.codes.tolist() for row in read.rows] == [row.get("audio_codes") for row in rows]
    assert read.rows.codes.frames(0, 9) == [None, 4] * 3


@pytest.mark.slow
def test_blocks_and_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is read the same in a block of good ones, among bad ones, and by another process."""
    (tmp_path / "a.wav").write_bytes(b"")
    rows: list[dict[str, Any]] = []
    for i in range(400):
        row: dict[str, Any] = {"audio": "a.wav", "text": f"  E\u0301cole {i}, «buku» \n", "speaker": f"s{i % 3}", "reference_text": None}
        wrong: dict[str, Any] = {97: {"text": ""}, 98: {"audio": "b.wav"}, 201: {"text": 5}, 202: {"text": "a\0b"}, 303: {"cut": "no"}}
        rows.append(row | wrong.get(i, {"reference_text": "Ini"} if i % 2 else {}))
    whole = manifest(tmp_path, rows, FileHashes(tmp_path / "whole.sqlite"))
    assert len(whole.rows) == 395

    monkeypatch.setattr(blocks, "BLOCK", 1000)
    pieces = manifest(tmp_path, rows, FileHashes(tmp_path / "pieces.sqlite"))
    monkeypatch.setattr(blocks, "WORTH", 1)
    processes = manifest(tmp_path, rows, FileHashes(tmp_path / "processes.sqlite"))
    for other in (pieces, processes):
        assert list(other.rows) == list(whole.rows)
        assert (other.problems, other.near_hashes, other.bad_rows) == (whole.problems, whole.near_hashes, whole.bad_rows)
        assert (other.sounds, other.rows.seconds) == (whole.sounds, whole.rows.seconds)
        assert other.content
        assert whole.content
        assert other.content.digest() == whole.content.digest()
    assert [p.place.line for p in whole.problems] == [98, 99, 202, 203, 304]


def test_brackets_of_a_text_behind_codes_are_no_codes(tmp_path: Path) -> None:
    rows = [{"audio_codes": drawn(2), "text": "Ada [[buku]] dan meja."}, {"audio_codes": drawn(3), "text": "Ada kerusi."}]
    read = manifest(tmp_path, rows)
    assert [row.codes.tolist() for row in read.rows if row.codes is not None] == [row["audio_codes"] for row in rows]
    assert [row.text for row in read.rows] == [row["text"] for row in rows]
