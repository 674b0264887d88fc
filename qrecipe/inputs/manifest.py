"""Manifests: read, validated row by row, texts cleaned. JSON lines as they are here, and tables of other tools where they are.

Rows are kept by column, so that a million of them fit. Knows nothing of audio beyond its path.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qrecipe.errors import DataError, Place, Problem, Problems
from qrecipe.files import canonical_json
from qrecipe.hashes import FileHashes, state_of
from qrecipe.inputs.blocks import BOM, Block, block_of, read_blocks
from qrecipe.inputs.codes import CodesColumn
from qrecipe.inputs.recordings import UnreadableRecording, are_current
from qrecipe.inputs.replacements import Replacements
from qrecipe.inputs.row_reader import MANIFEST_HELP, ReadingSpec, RowReader
from qrecipe.inputs.row_table import AT_ONCE, Rows
from qrecipe.inputs.tables import Format, format_of, open_bytes
from qrecipe.inputs.tokenizer import TextTokenizer
from qrecipe.inputs.unpacked import SHARDS, shards, unpacked
from qrecipe.inputs.unpacked import folder as unpacked_folder
from qrecipe.source import bounds

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

MAX_BAD_ROWS = 1000
"""Problems that are kept with their lines; further ones are counted."""
SHOWN_ALIKE = 3
"""Rows of which the same is wrong that are shown with their lines."""
ABOUT_FILES = ("QR043", "QR048")
"""Codes of rows that cannot be used because of the files that they name: one is missing, or may not be read."""
HEAD = 1 << 14
"""Bytes by which a file that is no manifest is known."""
UTF_16 = ((b"\xff\xfe\x00\x00", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"{\x00", "UTF-16"), (b"\x00{", "UTF-16"))
SOUND = (b"RIFF", b"RF64", b"OggS", b"fLaC", b"ID3", b"FORM", b"\xff\xfb", b"\xff\xf3")
SEPARATORS = ((b"\t", "tabs"), (b"|", "`|`"), (b";", "`;`"), (b",", "commas"))


@dataclass(frozen=True)
class Manifest:
    """The usable rows of a file and the problems of the others."""

    path: Path
    rows: Rows
    problems: Problems
    """Of rows that cannot be used; a recording that is not there is a warning until a run needs it."""
    shown: str
    """How messages name the file."""
    bad_rows: int = 0
    """Rows that cannot be used, those without their recordings included; `problems` shows the first ones of a kind."""
    missing: int = 0
    """Recordings that are not there."""
    notes: Problems = field(default_factory=Problems)
    """Remarks on the file as a whole: columns that are read under other names, or not at all."""
    near_hashes: array[int] = field(default_factory=lambda: array("q"))
    """64 bits of every row's near key: texts of equal ones are near-duplicates."""
    sounds: array[int] = field(default_factory=lambda: array("q"))
    """64 bits of the hash of every row's recording or codes, 0 for a row of text: equal ones are the same sound."""
    content: Hash | None = None
    """SHA-256 of the rows with their recordings, before it ends; None where nobody needs it."""
    token_counts: array[int] | None = None
    """Tokens of every row's text; None while the tokenizer is not known."""
    seen_tokens: frozenset[int] = frozenset()
    """All ids in the texts."""
    files: tuple[tuple[Path, str], ...] = ()
    """The file, or the folder and its shards, with the states in which they were read."""
    blocks: tuple[tuple[int, bytes], ...] = ()
    """Rows of each block, and the digest of the states in which their recordings were read."""
    lacks_files: bool = False
    """Whether a row cannot be used because of the files that it names."""

    def is_current(self) -> bool:
        """Whether all files are as they were when it was read with hashes. Where one was missing it is not: it may have come."""
        if self.lacks_files or not self.files or any(_state(file) != state for file, state in self.files):
            return False
        return are_current(self.rows, self.blocks)

    def summed(self) -> Problems:
        """Its problems; missing recordings, of which there may be thousands, as one."""
        missing = self.problems.warnings
        if missing:
            first = next((p for p in missing if p.help), missing[0])
            more = f"; {self.missing:,} recordings are missing in all" if self.missing > 1 else ""
            missing = Problems([replace(first, message=f"{first.message}{more}")])
        return Problems([*self.problems.errors, *missing])


@dataclass(frozen=True)
class Table:
    """How a dataset says that its file is to be read."""

    format: Format | None = None
    """None: as the file's name promises, else JSON lines."""
    columns: tuple[tuple[str, str], ...] = ()
    """(what a row holds here, the column)."""
    replacements: Replacements = field(default_factory=Replacements)
    """Of the dataset's language, applied to every text."""
    language: str = ""
    """The dataset's, which is part of its content."""
    root: Path | None = None
    """Recordings lie in the manifest's folder, in this one, below either, or where the person who runs it allows."""


def _state(file: Path) -> str:
    """The state of a file; empty where there is none."""
    try:
        return state_of(os.stat(file))
    except OSError:
        return ""


def start_of_content(kind: str, language: str) -> Hash:
    """Hash of a dataset's content before its rows."""
    return hashlib.sha256(f"[{canonical_json(kind)},{canonical_json(language)},[".encode())


def read_manifest(
    path: Path,
    kind: Literal["text", "speech"],
    tokenizer: TextTokenizer | None,
    shown: str | None = None,
    table: Table = Table(),
    hashes: FileHashes | None = None,
) -> Manifest:
    """Reads a manifest. Never raises for what the file holds; a missing file is one problem without rows.

    With `hashes` it has the content of its rows; raises `OSError` for a recording that cannot be read. Recordings that a
    table holds are unpacked into the cache.
    """
    whole = Place(shown or str(path))
    format_ = table.format or format_of(path) or "jsonl"
    folder = path if path.is_dir() else path.parent
    rows = Rows(folder, CodesColumn.of(path))
    files = tuple((file, _state(file)) for file in (path, *(shards(path, format_) if path.is_dir() else ())))
    try:
        other = other_format(path) if format_ == "jsonl" and not path.is_dir() else None
        if other is not None:
            help_ = "say how it is read: `format: csv`" if "table" in other else MANIFEST_HELP
            return Manifest(path, rows, Problems([Problem("QR041", f"not a manifest: {other}", whole, help_)]), whole.file)
        roots = [folder, *([table.root] if table.root is not None else []), *([unpacked_folder()] if format_ in SHARDS else [])]
        store = hashes.store if hashes is not None else None
        reading = ReadingSpec(kind, folder, tokenizer, bounds.followed(*roots), table.columns, table.replacements, store)
        reader, content = RowReader(reading, rows), start_of_content(kind, table.language)
        parts = read_blocks(path, reading, whole.file) if format_ == "jsonl" else _table(reader, path, format_, whole)
        return replace(_joined(_hashed(parts, content, hashes), rows, reader, path, whole), content=content, files=files)
    except UnreadableRecording as e:
        raise e.error from None
    except OSError as e:
        unreadable = Problem("QR040", f"cannot read the manifest: {e.strerror or e}", whole)
        return Manifest(path, Rows(folder, CodesColumn(path)), Problems([unreadable]), whole.file)
    except DataError as e:
        return Manifest(path, Rows(folder, CodesColumn(path)), e.problems, whole.file)


def _table(reader: RowReader, path: Path, format: Format, whole: Place) -> Iterator[Block]:
    """A table of another tool in blocks, read row by row so that one bad row costs no other."""
    records = unpacked(path, format, whole.file)
    remaining = reader.required(records, whole) if format in ("csv", "parquet") else records
    while part := list(islice(remaining, AT_ONCE)):
        reader.rows, problems = Rows(reader.folder, CodesColumn(path)), list[Problems]()
        for record in part:
            wrong = Problems([record]) if isinstance(record, Problem) else reader.read(record.values, record.place)
            problems += [wrong] if wrong else []
        yield block_of(reader, 0, problems)


def _hashed(parts: Iterable[Block], content: Hash, hashes: FileHashes | None) -> Iterator[Block]:
    """Blocks whose rows were added to the manifest's content."""
    separator = b""
    for block in parts:
        if hashes is not None and block.contents.text:
            content.update(separator + block.contents.text)
            hashes.add(block.contents.learned)
            separator = b","
        yield block
    if hashes is not None:
        hashes.save()


def _joined(parts: Iterable[Block], rows: Rows, reader: RowReader, path: Path, whole: Place) -> Manifest:
    """The manifest that its blocks make."""
    kinds, lines = _Kinds(whole), 0
    near, sounds, counts, seen, blocks = array("q"), array("q"), array("i"), set[int](), list[tuple[int, bytes]]()
    for block in parts:
        for problems in block.problems:
            kinds.add(Problems(replace(p, place=replace(p.place, line=p.place.line + lines)) for p in problems))
        rows.extend(block.rows, lines)
        for names in block.names:
            reader.fields(names)
        near += block.near
        sounds += block.contents.sounds
        blocks.append((len(block.rows), block.contents.states))
        if block.tokens is not None:
            counts += block.tokens[0]
            seen |= block.tokens[1]
        lines += block.lines
    problems = kinds.summed()
    if not rows and not problems:
        problems.append(Problem("QR041", "the manifest has no rows", whole))
    return Manifest(
        path,
        rows,
        problems,
        whole.file,
        bad_rows=kinds.rows,
        missing=kinds.missing,
        notes=reader.notes(whole),
        near_hashes=near,
        sounds=sounds,
        token_counts=counts if reader.tokenizer is not None else None,
        seen_tokens=frozenset(seen),
        blocks=tuple(blocks),
        lacks_files=any(code in ABOUT_FILES for code, _ in kinds.counts),
    )


@dataclass
class _Kinds:
    """Problems of a manifest's rows: the first ones of each kind with their lines, then how many more there are.

    Numbers and verdicts never depend on how many are shown.
    """

    whole: Place
    shown: Problems = field(default_factory=Problems)
    rows: int = 0
    """Rows with a problem."""
    missing: int = 0
    """Recordings that are not there."""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(code, message) -> problems. Missing recordings are one kind."""

    def add(self, problems: Problems) -> None:
        """Takes what is wrong with one row."""
        self.rows += 1
        for problem in problems:
            absent = problem.severity == "warning"
            self.missing += absent
            kind = self._kind(problem)
            self.counts[kind] += 1
            if self.counts[kind] <= (MAX_BAD_ROWS if absent else SHOWN_ALIKE) and len(self.shown) < MAX_BAD_ROWS:
                self.shown.append(problem)

    def summed(self) -> Problems:
        """The problems to show; the last one of a kind says how many more rows are alike."""
        last = {self._kind(p): i for i, p in enumerate(self.shown)}
        problems, unseen = Problems(self.shown), 0
        shown = Counter(map(self._kind, self.shown))
        for kind, count in self.counts.items():
            more = count - shown[kind]
            if more and kind in last:
                problems[last[kind]] = replace(problems[last[kind]], note=f"{more:,} more rows are alike")
            unseen += 0 if kind in last else more
        if unseen:
            problems.append(Problem("QR041", f"{unseen:,} more rows cannot be used", self.whole))
        return problems

    @staticmethod
    def _kind(problem: Problem) -> tuple[str, str]:
        """Problems of a kind have one cause. Missing recordings are one, whatever they are called."""
        return problem.code, "" if problem.severity == "warning" else problem.message


def other_format(path: Path) -> str | None:
    """The kind of a file that is no JSONL at all, by its beginning; None for what may be a manifest. Raises `OSError`."""
    with open_bytes(path) as f:
        head = f.read(HEAD)
    for mark, encoding in UTF_16:
        if head.startswith(mark):
            return f"the file is in {encoding}; save it as UTF-8"
    if head.startswith(SOUND):
        return "the file is a recording"
    first = next((line for line in head.removeprefix(BOM).splitlines() if line.strip()), b"").strip()
    if first.startswith(b"[") and not first.endswith(b"]"):
        return "the file is one JSON list; write its entries one a line"
    for separator, name in SEPARATORS:
        if not first.startswith((b"{", b"[")) and separator in first:
            return f"the file looks like a table with columns between {name}"
    return None
