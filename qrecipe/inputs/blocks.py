"""JSON lines in blocks of a megabyte: a block whose rows all have the same sound fields is read as columns, any other row by row.

Blocks of a large file are read by several processes. What is read is the same: the quick way takes only rows that nothing
is wrong with.
"""

from __future__ import annotations

import os
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from operator import attrgetter
from pathlib import Path
from sys import intern
from typing import IO, Annotated, Any, NamedTuple

import msgspec

from qrecipe.errors import Place, Problem, Problems
from qrecipe.inputs.codes import CodesColumn, WrittenCodes, check_written, with_spaces
from qrecipe.inputs.recordings import RowContents
from qrecipe.inputs.row_reader import MAX_LINE, ReadingSpec, RowReader, record_of
from qrecipe.inputs.row_table import Rows
from qrecipe.inputs.rows import MAX_TEXT
from qrecipe.inputs.tables import open_bytes
from qrecipe.inputs.texts import near_hashes, unsayable
from qrecipe.workers import in_order, spare

BLOCK = 1 << 20
"""Bytes of a block, less than a line."""
CODES_AT_ONCE = 64
"""Rows whose codes are checked together: a processor holds them near itself."""
WORTH = 24
"""Blocks of a file from which it is worth starting other processes."""
BOM = b"\xef\xbb\xbf"
CODES = b'"audio_codes":'
ABSENT = -1
"""Number of the codes of a row that has none."""
STRINGS = ("text", "audio", "reference", "ref_audio", "reference_text", "speaker", "language")


class Span(NamedTuple):
    """Where a block is, or what it is."""

    path: Path
    start: int
    """Offset in the file."""
    size: int
    """Bytes."""
    content: bytes | None = None
    """Of a file that is packed."""


@dataclass(frozen=True)
class Block:
    """Content of a block of lines."""

    lines: int
    """Lines, blank ones included."""
    rows: Rows
    """Usable rows; lines count from the block's first."""
    problems: list[Problems]
    """Of each row that cannot be used."""
    names: list[tuple[str, ...]]
    """The different sets of columns of its rows."""
    near: array[int]
    """`near_hashes` of every usable row's text."""
    tokens: tuple[array[int], set[int]] | None
    """Tokens of every usable row's text, and all ids in them; None while the tokenizer is not known."""
    contents: RowContents
    """Of its rows, where it is needed."""


def read_blocks(path: Path, reading: ReadingSpec, shown: str) -> Iterator[Block]:
    """The blocks of a file of JSON lines, in order. Raises `OSError`."""
    with open_bytes(path) as f:
        spans = _spans(f, path, packed=path.name.endswith(".gz"))
        if path.name.endswith(".gz"):
            reader = RowReader(reading, Rows(reading.folder, CodesColumn(path)))
            yield from (_block(reader, shown, span) for span in spans)
            return
        tasks = [(reading, shown, span) for span in spans]
    try:
        yield from in_order(_read, tasks, spare(len(tasks)) + 1 if len(tasks) >= WORTH else 0)
    finally:
        _reader.cache_clear()


def _spans(f: IO[bytes], path: Path, packed: bool) -> Iterator[Span]:
    """Blocks that end with a line. Of a line that is too long, only so much is read: a file of any size takes little memory."""
    start, end = 0, os.fstat(f.fileno()).st_size if not packed else None
    while end is None or start < end:
        content = f.read(BLOCK) if packed else b""
        if end is not None:
            f.seek(start + BLOCK)
        elif not content:
            return
        rest = f.readline(MAX_LINE + 2)
        size = (BLOCK if end is None else min(BLOCK, end - start)) + len(rest)
        yield Span(path, start, size, content + rest if packed else None)
        # what a line has beyond the limit is passed over
        while rest and not rest.endswith(b"\n"):
            rest = f.readline(MAX_LINE)
            size += len(rest)
        start += size


def _read(task: tuple[ReadingSpec, str, Span]) -> Block:
    """A block, for other processes to be asked for."""
    reading, shown, span = task
    return _block(_reader(reading), shown, span)


@lru_cache(maxsize=1)
def _reader(reading: ReadingSpec) -> RowReader:
    """The reader of a manifest, with what it has seen of the blocks before."""
    return RowReader(reading, Rows(reading.folder, CodesColumn(reading.folder)))


def _block(reader: RowReader, shown: str, span: Span) -> Block:
    """Reads a block into new rows."""
    import numpy as np

    content = span.content
    if content is None:
        with open(span.path, "rb") as f:
            f.seek(span.start)
            content = f.read(span.size)
    lines = int(np.count_nonzero(np.frombuffer(content, np.uint8) == ord("\n"))) + (not content.endswith(b"\n"))
    reader.rows, problems = Rows(reader.folder, CodesColumn(span.path)), list[Problems]()
    if not _Quick(reader, span).read(content, lines):
        for number, raw in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
            raw = raw.removeprefix(BOM)  # editors begin a file with one, `cat` puts it in the middle
            if raw.strip():
                record = record_of(raw, Place(shown, number, 1))
                wrong = Problems([record]) if isinstance(record, Problem) else reader.read(record.values, record.place)
                problems += [wrong] if wrong else []
    return block_of(reader, lines, problems)


def block_of(reader: RowReader, lines: int, problems: list[Problems]) -> Block:
    """A block with the rows that a reader has read."""
    texts = reader.rows.column("text")
    tokens = None if reader.tokenizer is None else reader.tokenizer.measure(texts)
    return Block(lines, reader.rows, problems, reader.names, near_hashes(texts), tokens, reader.recordings.contents(reader.rows))


class _Quick:
    """Reads a block as columns."""

    def __init__(self, reader: RowReader, span: Span) -> None:
        self.reader, self.span = reader, span
        self.speech = reader.kind == "speech"

    def read(self, content: bytes, lines: int) -> bool:
        """Adds the rows of a block of so many lines to the reader's; False, and nothing, for one that is to be read row by row."""
        decoder = self._decoder(content)
        if decoder is None or len(content) - content.rfind(b"\n", 0, -1) - 1 > MAX_LINE:
            return False
        written: list[tuple[int, bytes]] = []
        if self.speech and CODES in content:
            if self.span.content is not None:
                return False
            written, content = _without_codes(content)
        try:
            rows = decoder.decode_lines(content)
        except msgspec.DecodeError:
            return False
        return len(rows) == lines and self._add(rows, written)

    def _decoder(self, content: bytes) -> msgspec.json.Decoder[Any] | None:
        """Decodes lines that have the same fields as the first one."""
        end = content.find(b"\n")
        first = record_of(content[: end if end >= 0 else None], Place(""))
        if isinstance(first, Problem):
            return None
        fields = self.reader.fields(tuple(first.values))
        if fields.misspelled or fields.parts:
            return None
        return _decoder_of(self.reader.kind, tuple(fields.columns.names.items()), fields.columns.ignored, fields.plain)

    def _add(self, rows: Sequence[Any], written: list[tuple[int, bytes]]) -> bool:
        # strings by column, each column looked through at once: nearly none holds what would have to be looked at
        columns = {name: self._column(rows, name) for name in STRINGS}
        if any("\0" in "".join(filter(None, column)) for column in columns.values()):
            return False
        texts = self._cleaned(columns["text"])
        references = [None if text is None else self.reader.replacements.apply(text) for text in columns["reference_text"]]
        if not self._fine(texts) or not self._fine([text for text in references if text is not None]):
            return False

        # recordings exist, or codes are of the right form
        audio, codes = columns["audio"], None
        reference = [one or other for one, other in zip(columns["reference"], columns["ref_audio"])]
        if self.speech:
            if not all(self.reader.recordings.is_here(name) for name in dict.fromkeys([*audio, *reference]) if name):
                return False
            numbers = [getattr(row, "audio_codes", ABSENT) for row in rows]
            if numbers != (list(range(len(rows))) if written else [ABSENT] * len(rows)) or (not written and None in audio):
                return False
            codes = self._codes(written) if written else None
            if written and codes is None:
                return False
        added: dict[str, Sequence[Any]] = {
            "line": range(1, len(rows) + 1),
            "text": texts,
            "audio": audio,
            "reference": reference,
            "reference_text": references,
            "speaker": [speaker if speaker is None else intern(speaker) for speaker in columns["speaker"]],
            "cut": [bool(getattr(row, "cut", False)) for row in rows],
            "language": columns["language"],
        }
        self.reader.rows.add(added, codes)
        return True

    def _column(self, rows: Sequence[Any], name: str) -> list[Any]:
        """A field of rows that all have it or lack it; None for an empty string."""
        if not hasattr(rows[0], name):
            return [None] * len(rows)
        values = list(map(attrgetter(name), rows))
        return [value or None for value in values] if "" in values else values

    def _cleaned(self, texts: list[Any]) -> list[str]:
        """Texts as they are trained."""
        if not self.reader.replacements.entries and unicodedata.is_normalized("NFC", "\n".join(texts)):
            return [text.strip() for text in texts]
        return [self.reader.replacements.apply(text) for text in texts]

    def _fine(self, texts: Sequence[str]) -> bool:
        """Whether no text has a problem."""
        if not all(text[:1].isalnum() or unsayable(text) is None for text in texts):
            return False
        return self.reader.tokenizer is None or not self.reader.tokenizer.any_special(texts)

    def _codes(self, written: list[tuple[int, bytes]]) -> WrittenCodes | None:
        """Codes of rows, by their places in the block and what is written there; None if a row's are none."""
        frames, digests = array("i"), list[bytes]()
        for start in range(0, len(written), CODES_AT_ONCE):
            spaced = with_spaces([codes for _, codes in written[start : start + CODES_AT_ONCE]])
            counts = check_written(spaced)
            if counts is None:
                return None
            frames += counts
            digests += [sha256(row).digest() for row in spaced]
        offsets = array("q", [self.span.start + place for place, _ in written])
        return WrittenCodes(offsets, array("i", [len(codes) for _, codes in written]), frames, b"".join(digests))


def _without_codes(content: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Codes of lines with their places, and the lines with numbers from 0 in place of the codes."""
    written: list[tuple[int, bytes]] = []
    parts, at = [], 0
    while (key := content.find(CODES, at)) >= 0:
        start, line = content.find(b"[", key), content.find(b"\n", key)
        # mostly codes end a line, so their end is found from there; brackets of a text behind them are no codes, which the check sees
        end = content.rfind(b"]]", start, line if line >= 0 else None) + len(b"]]")
        if start < 0 or end < start or content[key + len(CODES) : start].strip():
            break
        parts += [content[at:start], str(len(written)).encode()]
        written.append((start, content[start:end]))
        at = end
    return written, b"".join([*parts, content[at:]])


@lru_cache(maxsize=64)
def _decoder_of(kind: str, names: tuple[tuple[str, str], ...], ignored: tuple[str, ...], plain: bool) -> msgspec.json.Decoder[Any] | None:
    """Decodes lines of rows with certain columns, and refuses others. None for names that msgspec does not take.

    Columns that are called as what they hold may be absent. Of others every row has all, since what one holds depends on which
    others there are.
    """
    known = _TYPES if kind == "speech" else {name: _TYPES[name] for name in ("text", "language")}
    if plain:
        optional = [(name, type_, _DEFAULTS.get(name)) for name, type_ in known.items() if name != "text"]
        members: list[Any] = [("text", known["text"]), *optional]
    else:
        members = [*((here, known[here]) for here, _ in names), *((f"ignored{i}", msgspec.Raw) for i in range(len(ignored)))]
    renamed = {**dict(names), **{f"ignored{i}": name for i, name in enumerate(ignored)}}
    try:
        row = msgspec.defstruct("Row", members, rename=renamed, forbid_unknown_fields=True, gc=False)
        return msgspec.json.Decoder(row)
    except (TypeError, ValueError):
        return None


_TYPES: dict[str, Any] = {
    **dict.fromkeys(STRINGS, str | None),
    "text": Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT)],
    "audio_codes": int,
    "confidence": Annotated[float, msgspec.Meta(ge=0, le=1)] | None,
    "cut": bool | None,
}
_DEFAULTS = {"audio_codes": ABSENT}
