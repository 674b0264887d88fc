"""Recordings out of Parquet files and tar shards, unpacked into the cache once: everything else reads files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from qrecipe.errors import Place, Problem
from qrecipe.files import cache_dir, digest, new_folder
from qrecipe.hashes import located
from qrecipe.inputs.tables import Embedded, Format, Record, records

ROWS = "rows.jsonl"
"""The records of a file, with names of recordings in the place of their bytes."""
SHARDS: dict[Format, str] = {"parquet": "*.parquet", "tar": "*.tar"}
"""Formats that hold recordings, with the names of a folder's files."""


def folder() -> Path:
    """Where recordings are unpacked."""
    return cache_dir() / "unpacked"


def shards(folder: Path, format: Format) -> list[Path]:
    """The files of a folder that are a dataset's, in order."""
    return sorted(folder.glob(SHARDS.get(format, "*")))


def unpacked(path: Path, format: Format, shown: str) -> Iterator[Record | Problem]:
    """The records of a table, or of all shards of a folder; recordings that it holds are files of the cache.

    Raises `DataError` and `OSError`.
    """
    if path.is_dir():
        for shard in shards(path, format):
            yield from unpacked(shard, format, f"{shown}/{shard.name}")
    elif format in SHARDS:
        yield from _cached(path, format, shown)
    else:
        yield from records(path, format, shown)


def _cached(path: Path, format: Format, shown: str) -> Iterator[Record | Problem]:
    """The records of a file that was unpacked, now or before. A file that changed has another folder."""
    target = folder() / digest(located(path))[:32]
    if not (target / ROWS).is_file():
        with new_folder(target) as temporary:
            _unpack(path, format, temporary)
    with suppress(OSError):  # `gc` lists what was not used for long
        os.utime(target / ROWS)
    with open(target / ROWS, encoding="utf-8") as f:
        for line in f:
            row = json.loads(line)
            place = Place(shown, row["number"])
            if "problem" in row:
                yield Problem("QR041", row["problem"], place)
            else:
                yield Record(
                    place, {k: str(target / v["file"]) if isinstance(v, dict) and "file" in v else v for k, v in row["values"].items()}
                )


def _unpack(path: Path, format: Format, target: Path) -> None:
    """Writes recordings and records of a file into a folder."""
    with open(target / ROWS, "w", encoding="utf-8") as out:
        for record in records(path, format, path.name):
            if isinstance(record, Problem):
                row: dict[str, Any] = {"number": record.place.line, "problem": record.message}
            else:
                values = {k: _file(v, record.place.line, target) for k, v in record.values.items()}
                row = {"number": record.place.line, "values": values}
            out.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _file(value: Any, number: int, target: Path) -> Any:
    """A recording as the name of its file; any other value as it is."""
    if not isinstance(value, Embedded):
        return value
    name = f"{number:07d}{Path(value.name).suffix or '.audio'}"
    (target / name).write_bytes(value.content)
    return {"file": name}
