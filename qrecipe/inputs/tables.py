"""Tables as other tools write them: JSON lines, CSV and its relatives, Parquet, tar shards. Reads records, and knows no manifest.

A record is what one row holds, by column. What cannot be read of a row is a `Problem` in its place.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal, get_args

from qrecipe.errors import DataError, Place, Problem

Format = Literal["jsonl", "csv", "parquet", "tar"]
FORMATS: tuple[Format, ...] = get_args(Format)
HEAD = 1 << 18
"""Bytes by which encoding and separator of a table are known."""
ROWS = 50
"""Rows by which the separator is known."""
SEPARATORS = "\t,;|"
STATED = re.compile(r'"?sep=([\t,;|]|\\t)"?\s*', re.IGNORECASE)
MAX_FIELD = 1 << 20
"""Bytes of a field."""
SUFFIXES: dict[str, Format] = {
    **dict.fromkeys((".jsonl", ".json", ".ndjson"), "jsonl"),
    **dict.fromkeys((".csv", ".tsv", ".tab", ".psv", ".list", ".txt"), "csv"),
    ".parquet": "parquet",
    ".tar": "tar",
}
SOUNDS = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".webm", ".mkv", ".mka", ".aif", ".aiff", ".wma"),
    *(".amr", ".3gp", ".3g2", ".m4b", ".mov", ".avi", ".caf", ".au", ".w64", ".wv", ".ape", ".ac3", ".gsm", ".g722"),
)
"""Ends of the names of recordings."""


@dataclass(frozen=True)
class Embedded:
    """A recording inside a table."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Record:
    """One row."""

    place: Place
    values: dict[str, Any]


def format_of(path: Path) -> Format | None:
    """The format that a file's name promises; None for another name."""
    name = path.name.lower().removesuffix(".gz")
    return next((f for suffix, f in SUFFIXES.items() if name.endswith(suffix)), None)


def records(path: Path, format: Format, shown: str, header: bool = True) -> Iterator[Record | Problem]:
    """The rows of a file. Raises `DataError` for one that is not of the format at all, and `OSError`.

    Args:
        path: the file.
        format: how it is read.
        shown: how messages name it.
        header: whether the first row of a CSV file names the columns; they are "0", "1" and so on otherwise.
    """
    if format == "csv":
        return _csv(path, shown, header)
    readers: dict[str, Callable[[Path, str], Iterator[Record | Problem]]] = {"jsonl": _jsonl, "parquet": _parquet, "tar": _tar}
    return readers[format](path, shown)


class _Unpacked(io.RawIOBase):
    """A gzip file, of which a half is an `OSError` like any other file that cannot be read, not an end of input."""

    def __init__(self, path: Path) -> None:
        self._file = gzip.GzipFile(path, "rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._file.read(len(buffer))
        except (EOFError, gzip.BadGzipFile, zlib.error) as e:
            raise OSError(f"the packed file breaks off or is damaged: {e}") from None
        buffer[: len(content)] = content
        return len(content)

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_bytes(path: Path) -> IO[bytes]:
    """A file, unpacked if its name ends in `.gz`. Reading raises `OSError`, also for one that breaks off."""
    return io.BufferedReader(_Unpacked(path)) if path.name.endswith(".gz") else open(path, "rb")


def _jsonl(path: Path, shown: str) -> Iterator[Record | Problem]:
    """JSON objects, one a line, or one list of them."""
    with open_bytes(path) as f:
        if f.read(HEAD).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
            f.seek(0)
            yield from _json_list(f.read(), shown)
            return
        f.seek(0)
        for number, raw in enumerate(f, start=1):
            if not (line := raw.removeprefix(b"\xef\xbb\xbf").strip()):
                continue
            place = Place(shown, number, 1)
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as e:
                yield Problem("QR041", f"not JSON: {getattr(e, 'msg', e)}", place)
                continue
            yield Record(place, value) if isinstance(value, dict) else Problem("QR041", "not a JSON object", place)


def _json_list(content: bytes, shown: str) -> Iterator[Record | Problem]:
    try:
        values = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as e:
        raise DataError(Problem("QR041", f"not JSON: {getattr(e, 'msg', e)}", Place(shown, getattr(e, "lineno", 0)))) from None
    for number, value in enumerate(values, start=1):
        place = Place(shown, number)
        yield Record(place, value) if isinstance(value, dict) else Problem("QR041", "not a JSON object", place)


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written."""

    encoding: str
    separator: str
    quoted: bool
    """Whether `"` around a field belongs to the format and not to the text."""
    stated: bool = False
    """Whether the first line states the separator, as Excel writes and reads it: `sep=;`."""

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `csv.reader`."""
        quoting: Any = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return {"delimiter": self.separator, "quoting": quoting, "strict": False}

    def __str__(self) -> str:
        names = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
        return f"{names[self.separator]} between the columns, {self.encoding.removesuffix('-sig')}"


def dialect_of(path: Path) -> Dialect | None:
    """How a table of text is written, by its beginning; None for one column, or what is no text."""
    with open_bytes(path) as f:
        head = f.read(HEAD)
    encoding = encoding_of(head, whole=len(head) < HEAD)
    if encoding is None:
        return None
    lines = head.decode(encoding, errors="ignore").splitlines()
    stated = STATED.fullmatch(lines[0]) if lines else None
    text = "\n".join(lines[1 if stated else 0 : -1 if len(head) == HEAD else None][:ROWS])
    best: tuple[float, int, Dialect] | None = None
    for separator in stated[1].replace("\\t", "\t") if stated else SEPARATORS:
        # tabs and bars do not occur in sentences, so tools that write them quote nothing and leave quotes of the text alone
        for quoted in (True, False) if separator in ",;" else (False, True):
            dialect = Dialect(encoding, separator, quoted, stated is not None)
            widths = [len(row) for row in csv.reader(io.StringIO(text), **dialect.options) if row]
            if not widths or max(widths) < 2:
                continue
            usual = max(set(widths), key=widths.count)
            agreement = (widths.count(usual) / len(widths), usual)
            if usual > 1 and (best is None or agreement > best[:2]):
                best = (*agreement, dialect)
    return best[2] if best is not None and best[0] > 0.5 else None


def encoding_of(head: bytes, whole: bool = True) -> str | None:
    """The encoding of a text by its first bytes; None for what is no text. Not `whole`, the last character may be cut."""
    for mark, name in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\x00\x00", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if head.startswith(mark):
            return name
    try:
        io.TextIOWrapper(io.BytesIO(head if whole else head[: head.rfind(b"\n") + 1]), "utf-8", newline="").read()
    except UnicodeDecodeError:
        pass
    else:
        return None if b"\0" in head else "utf-8"
    from charset_normalizer import from_bytes

    best = from_bytes(head[: 1 << 15]).best()
    return None if best is None or b"\0" in head else best.encoding


def _csv(path: Path, shown: str, header: bool) -> Iterator[Record | Problem]:
    """Rows of a table of text: separator, quotes and encoding are recognised."""
    dialect = dialect_of(path)
    if dialect is None:
        raise DataError(Problem("QR041", "not a table: no tab, comma, semicolon or bar separates columns", Place(shown)))
    csv.field_size_limit(MAX_FIELD)
    with open_bytes(path) as raw, io.TextIOWrapper(raw, dialect.encoding, errors="replace", newline="") as f:
        skipped = 1 if dialect.stated and f.readline() else 0
        reader = csv.reader(f, **dialect.options)
        columns: list[str] | None = None
        line = 1 + skipped
        while True:
            start = line
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as e:
                yield Problem("QR041", f"the row cannot be read: {e}", Place(shown, start))
                line = reader.line_num + 1 + skipped
                continue
            line = reader.line_num + 1 + skipped
            if not any(cell.strip() for cell in row):
                continue
            if columns is None:
                columns = [c.strip() for c in row] if header else [str(i) for i in range(len(row))]
                if header:
                    continue
            place = Place(shown, start, 1)
            if any("\ufffd" in cell for cell in row):
                yield Problem("QR041", f"not {dialect.encoding.removesuffix('-sig')}", place)
            elif len(row) != len(columns):
                yield Problem("QR041", f"{len(row)} columns where the first row has {len(columns)}", place)
            else:
                yield Record(place, dict(zip(columns, (cell.strip() for cell in row), strict=True)))


def need(module: str, extra: str, what: str) -> Any:
    """A package of an extra. Raises `DataError` that names the extra."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        message = f"{what} is read with `{module.split('.')[0]}`, which is not installed"
        raise DataError(Problem("QR080", message, Place(what), f"pip install 'qrecipe[{extra}]'", "error")) from None


def _parquet(path: Path, shown: str) -> Iterator[Record | Problem]:
    """Rows of a Parquet file; a column of Hugging Face audio is `Embedded`."""
    parquet = need("pyarrow.parquet", "import", "Parquet")
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as e:
        raise DataError(Problem("QR041", f"not Parquet: {e}", Place(shown))) from None
    with file:
        yield from numbered(chain.from_iterable(batch.to_pylist() for batch in file.iter_batches(batch_size=64)), shown)


def numbered(rows: Iterable[Mapping[str, Any]], shown: str) -> Iterator[Record]:
    """Rows of a table without lines; columns of Hugging Face audio are `Embedded`."""
    for number, values in enumerate(rows, start=1):
        yield Record(Place(shown, number), {k: _embedded(v, number) for k, v in values.items()})


def _embedded(value: Any, number: int) -> Any:
    """Hugging Face's `{"bytes", "path"}` as a recording or its path; any other value as it is."""
    if not isinstance(value, dict) or not {"bytes", "path"} >= value.keys() or not value:
        return value
    if value.get("bytes") is None:
        return value.get("path")
    return Embedded(Path(value.get("path") or f"{number:06d}").name, value["bytes"])


def _tar(path: Path, shown: str) -> Iterator[Record | Problem]:
    """Samples of a WebDataset shard: files of one name up to its first dot. JSON members are columns of their own."""
    number, key = 0, None
    values: dict[str, Any] = {}
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                stem, _, kind = member.name.rpartition("/")[2].partition(".")
                stem = f"{member.name.rpartition('/')[0]}/{stem}"
                if stem != key and values:
                    number += 1
                    yield Record(Place(shown, number), values)
                    values = {}
                key = stem
                file = tar.extractfile(member)
                assert file is not None, "a file"
                values |= _member(member.name.rpartition("/")[2], kind.lower(), file.read())
    except (tarfile.TarError, EOFError, OSError) as e:
        yield Problem("QR041", f"the archive breaks off or is none: {e}", Place(shown, number))
    if values:
        yield Record(Place(shown, number + 1), values)


def _member(name: str, kind: str, content: bytes) -> dict[str, Any]:
    """A file of a sample as columns: a recording is `audio`, a `.txt` is `text`, JSON brings its own."""
    if kind.endswith(tuple(s.removeprefix(".") for s in SOUNDS)):
        return {"audio": Embedded(name, content)}
    if kind.endswith("json"):
        try:
            value = json.loads(content)
        except ValueError:
            return {kind: None}
        return value if isinstance(value, dict) else {"json": value}
    text = content.decode("utf-8", errors="replace").strip()
    return {"text": text} if kind in ("txt", "text", "transcript", "lab") else {kind: text}
