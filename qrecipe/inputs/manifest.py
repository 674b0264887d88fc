"""Manifests: read, validated row by row, texts cleaned. JSON lines as they are here, and tables of other tools where they are.

Rows are kept by column, so that a million of them fit. Knows nothing of audio beyond its path.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from itertools import chain, cycle, starmap
from operator import getitem
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

from pydantic_core import from_json

from qrecipe.errors import DataError, Place, Problem, Problems
from qrecipe.inputs.columns import NAMES, Columns, recognise
from qrecipe.inputs.replacements import Replacements
from qrecipe.inputs.rows import SpeechLine, fields, parse
from qrecipe.inputs.tables import Format, Record, format_of, open_bytes
from qrecipe.inputs.texts import near_key, unsayable
from qrecipe.inputs.tokenizer import TextTokenizer
from qrecipe.inputs.unpacked import SHARDS, unpacked
from qrecipe.inputs.unpacked import folder as unpacked_folder
from qrecipe.qwen3 import CODEBOOK_SIZE
from qrecipe.source import bounds, paths
from qrecipe.source.reader import NO_CHARACTER

MAX_LINE = 1 << 20
"""Bytes of a row."""
MAX_BAD_ROWS = 1000
"""Problems that are kept with their lines; further ones are counted."""
SHOWN_ALIKE = 3
"""Rows of which the same is wrong that are shown with their lines."""
HEAD = 1 << 14
"""Bytes by which a file that is no manifest is known."""
BOM = b"\xef\xbb\xbf"
UTF_16 = ((b"\xff\xfe\x00\x00", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"{\x00", "UTF-16"), (b"\x00{", "UTF-16"))
SOUND = (b"RIFF", b"RF64", b"OggS", b"fLaC", b"ID3", b"FORM", b"\xff\xfb", b"\xff\xf3")
SEPARATORS = ((b"\t", "tabs"), (b"|", "`|`"), (b";", "`;`"), (b",", "commas"))
MANIFEST_HELP = 'a manifest is JSONL, one JSON object a line: {"audio": "clips/1.wav", "text": "..."}'
MAX_MAPPINGS = 1000
"""Sets of fields of one file that are remembered."""
NEAR = 0.8
"""Likeness from which an unknown field is a misspelled one, and no column of another tool."""


_INSIDE = tuple(f"{code}," for code in range(CODEBOOK_SIZE))
_LAST = tuple(f"{code}],[" for code in range(CODEBOOK_SIZE))
"""Codes as JSON writes them, inside a frame and at its end."""


class Codes:
    """Ready codes of a row, frames x codebooks, in two bytes each."""

    __slots__ = ("_codes", "width")

    def __init__(self, frames: Sequence[Sequence[int]]) -> None:
        """Raises `ValueError` for frames of different widths."""
        self.width = len(frames[0])
        if len(set(map(len, frames))) > 1:
            raise ValueError("`audio_codes` has frames of different widths")
        self._codes = array("H", chain.from_iterable(frames))

    def __len__(self) -> int:
        """Frames."""
        return len(self._codes) // self.width

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Codes) and (self.width, self._codes) == (other.width, other._codes)

    def __hash__(self) -> int:
        return hash((self.width, self._codes.tobytes()))

    def tolist(self) -> list[list[int]]:
        """A list of frames."""
        codes = self._codes.tolist()
        return [codes[i : i + self.width] for i in range(0, len(codes), self.width)]

    def json(self) -> str:
        """The list of frames as canonical JSON."""
        written = "".join(map(getitem, cycle([_INSIDE] * (self.width - 1) + [_LAST]), self._codes))
        return "[[" + written.removesuffix("],[") + "]]"


class Row(NamedTuple):
    """One row of a manifest that can be used as far as its text goes."""

    line: int
    """Line of the manifest, from 1; of a table without lines, its number."""
    text: str
    """NFC, stripped."""
    audio: Path | None = None
    reference: Path | None = None
    reference_text: str | None = None
    speaker: str | None = None
    codes: Codes | None = None
    """Ready codes."""
    cut: bool = False
    language: str | None = None
    """The language that the row itself states, which counts for nothing."""


class Rows(Sequence[Row]):
    """Rows by column: each is put together when it is asked for."""

    def __init__(self, folder: Path, columns: Mapping[str, list[Any]] | None = None) -> None:
        self.folder = folder
        self._columns = columns or {field: [] for field in Row._fields}
        self._lists = tuple(self._columns.values())

    def __len__(self) -> int:
        return len(self._lists[0])

    def append(self, *values: Any) -> None:
        """Adds a row by its fields in their order; recordings are text, below the folder or whole."""
        for column, value in zip(self._lists, values):
            column.append(value)

    def column(self, field: str) -> Sequence[Any]:
        """One field of every row; recordings as text, below the folder or whole."""
        return self._columns[field]

    def spoken_by(self, reference: Path, text: str | None) -> Rows:
        """The same rows with one reference for all."""
        references: dict[str, list[Any]] = {"reference": [str(reference.absolute())] * len(self), "reference_text": [text] * len(self)}
        return Rows(self.folder, {**self._columns, **references})

    def path(self, recording: str | None) -> Path | None:
        """A recording as rows have it."""
        return None if recording is None else self.folder / recording

    def _row(self, line: int, text: str, audio: str | None, reference: str | None, *others: Any) -> Row:
        return Row(line, text, self.path(audio), self.path(reference), *others)

    def __iter__(self) -> Iterator[Row]:
        return starmap(self._row, zip(*self._lists))

    @overload
    def __getitem__(self, i: int) -> Row: ...
    @overload
    def __getitem__(self, i: slice) -> list[Row]: ...
    def __getitem__(self, i: int | slice) -> Row | list[Row]:
        if isinstance(i, slice):
            return list(starmap(self._row, zip(*(column[i] for column in self._lists))))
        return self._row(*(column[i] for column in self._lists))


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
    tokenizer: TextTokenizer | None = None
    """Of the base that reads the texts; None while that is not known."""

    @cached_property
    def near_keys(self) -> array[int]:
        """64 bits of the hash of every row's near key, in this process: texts of equal ones are near-duplicates."""
        return array("q", (hash(near_key(text)) for text in self.rows.column("text")))

    @cached_property
    def tokens(self) -> int | None:
        """Tokens of all texts; None while the tokenizer is not known."""
        return None if self.tokenizer is None else sum(map(self.tokenizer.length, self.rows.column("text")))

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


def read_manifest(
    path: Path,
    kind: Literal["text", "speech"],
    tokenizer: TextTokenizer | None,
    shown: str | None = None,
    root: Path | None = None,
    table: Table = Table(),
) -> Manifest:
    """Reads a manifest. Never raises for what the file holds; a missing file is one problem without rows.

    Recordings lie in the manifest's folder, in `root`, below either, or where the person who runs it allows; those that a
    table holds are unpacked into the cache.
    """
    whole = Place(shown or str(path))
    format_ = table.format or format_of(path) or "jsonl"
    kinds = _Kinds(whole)
    folder = path if path.is_dir() else path.parent
    rows = Rows(folder)
    try:
        other = other_format(path) if format_ == "jsonl" and not path.is_dir() else None
        if other is not None:
            help_ = "say how it is read: `format: csv`" if "table" in other else MANIFEST_HELP
            return Manifest(path, rows, Problems([Problem("QR041", f"not a manifest: {other}", whole, help_)]), whole.file)
        # every row is read by itself, so that one bad row costs no other
        records = _lines_of(path, whole.file) if format_ == "jsonl" else unpacked(path, format_, whole.file)
        roots = [folder, *([root] if root is not None else []), *([unpacked_folder()] if format_ in SHARDS else [])]
        reader = _Reader(kind, rows, tokenizer, bounds.followed(*roots), dict(table.columns), table.replacements)
        for record in reader.required(records, whole) if format_ in ("csv", "parquet") else records:
            wrong = Problems([record]) if isinstance(record, Problem) else reader.read(record.values, record.place)
            if wrong:
                kinds.add(wrong)
    except OSError as e:
        unreadable = Problem("QR040", f"cannot read the manifest: {e.strerror or e}", whole)
        return Manifest(path, Rows(folder), Problems([unreadable]), whole.file)
    except DataError as e:
        return Manifest(path, Rows(folder), e.problems, whole.file)
    problems = kinds.summed()
    if not rows and not problems:
        problems.append(Problem("QR041", "the manifest has no rows", whole))
    return Manifest(path, rows, problems, whole.file, kinds.rows, kinds.missing, reader.notes(whole), tokenizer)


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
    with open(path, "rb") as f:
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


def _lines_of(path: Path, shown: str) -> Iterator[Record | Problem]:
    """Lines of JSON. Of one that is too long, only so much is read: a file of any size takes little memory."""
    with open_bytes(path) as f:
        number = 0
        while line := f.readline(MAX_LINE + 2):
            number += 1
            if not line.endswith(b"\n"):
                while (rest := f.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
            raw = line.removesuffix(b"\n").removeprefix(BOM)  # editors begin a file with one, `cat` puts it in the middle
            if raw.strip():
                yield _record(raw, Place(shown, number, 1))


def _record(raw: bytes, place: Place) -> Record | Problem:
    """A line as a record, or why it is none."""
    if len(raw) > MAX_LINE:
        return Problem("QR041", f"the line has more than {MAX_LINE:,} bytes", place)
    try:
        value = from_json(raw)
    except ValueError:
        value = None
    if isinstance(value, dict):
        return Record(place, value)
    try:  # a second time, for what there is to say
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as e:
        return Problem("QR041", f"not UTF-8 (byte {e.start} of the line)", place)
    except (ValueError, RecursionError) as e:
        message = f"not JSON: {getattr(e, 'msg', e)}"
        help_ = "JSON wants a backslash twice; folders are separated by `/` here" if "escape" in message else None
        return Problem("QR041", message, replace(place, column=getattr(e, "colno", 1)), help_)
    if not isinstance(value, dict):
        return Problem("QR041", f"{str(value)[:100]} is not of type 'object'", place)
    return Record(place, value)


@dataclass(frozen=True)
class _Fields:
    """Columns of a row, judged once for all rows that have the same."""

    columns: Columns
    plain: bool
    """Whether every column is called as the field that it holds."""
    misspelled: tuple[str, str] | None
    """A column that is not read and should be, and the field that it means."""
    parts: tuple[str, ...]
    """Columns that say where a recording begins."""


class _Reader:
    """Reads the rows of one manifest."""

    def __init__(
        self,
        kind: Literal["text", "speech"],
        rows: Rows,
        tokenizer: TextTokenizer | None,
        roots: tuple[str, ...],
        columns: Mapping[str, str],
        replacements: Replacements,
    ) -> None:
        """`rows` takes those that can be used; `roots` are folders that recordings may be in, links followed."""
        self.kind = kind
        self.rows = rows
        self.folder = rows.folder
        self._tokenizer = tokenizer
        self._roots = roots
        self._stated = columns
        self._replacements = replacements
        self._known = fields(kind)
        self._mappings: dict[tuple[str, ...], _Fields] = {}
        """By the columns of a row: most files have one kind."""
        self._listings: paths.Listings = {}
        """Files of folders that lack a recording."""
        self._readable: dict[str, bool] = {}
        """Whether recordings may be in a folder."""

    def notes(self, place: Place) -> Problems:
        """A sentence for columns that are read under other names or not at all."""
        columns = [f.columns for f in self._mappings.values()]
        misspelled = {f.misspelled[0] for f in self._mappings.values() if f.misspelled}
        renamed = {there: here for c in columns for here, there in c.names.items() if here != there}
        stated = set(self._stated.values())
        renamed = {there: here for there, here in renamed.items() if there not in stated}
        ignored = list(dict.fromkeys(n for c in columns for n in c.ignored if n not in misspelled))
        parts = [f"`{here}` is read from `{there}`" for there, here in renamed.items()]
        if ignored:
            more = f" and {len(ignored) - 12} more" if len(ignored) > 12 else ""
            parts.append("not needed: " + ", ".join(f"`{n}`" for n in ignored[:12]) + more)
        return Problems([Problem("QR087", "; ".join(parts), place)] if parts else [])

    def _fields(self, names: tuple[str, ...]) -> _Fields:
        """Which field holds what; a file's rows mostly have the same."""
        fields = self._mappings.get(names)
        if fields is None:
            known = self._known - set(self._stated)
            own = {n: n for n in names if n in known}
            others = recognise([n for n in names if n not in known], self._stated)
            mapped = {h: t for h, t in others.names.items() if h in self._known and h not in own}
            if "ref_audio" in own:
                mapped.pop("reference", None)
            mapping = {**own, **mapped}
            ignored = tuple(n for n in names if n not in mapping.values())
            near = ((n, get_close_matches(n, self._known - mapping.keys(), n=1, cutoff=NEAR)) for n in ignored)
            misspelled = next(((n, close[0]) for n, close in near if close), None)
            parts = tuple(n for n in ignored if self.kind == "speech" and n in NAMES["start"])
            plain = not ignored and all(here == there for here, there in mapping.items())
            fields = _Fields(Columns(mapping, ignored), plain, misspelled, parts)
            if len(self._mappings) < MAX_MAPPINGS:
                self._mappings[names] = fields
        return fields

    def required(self, records: Iterator[Record | Problem], whole: Place) -> Iterator[Record | Problem]:
        """The records of a table, all of the same columns. Raises `DataError` where none of them holds what every row needs."""
        early: list[Record | Problem] = []
        for first in records:
            early.append(first)
            if isinstance(first, Record):
                self._require(first, whole)
                break
        yield from chain(early, records)

    def _require(self, first: Record, whole: Place) -> None:
        names = self._fields(tuple(first.values)).columns.names.keys()
        lacking = "text" if "text" not in names else "audio" if self.kind == "speech" and not names & {"audio", "audio_codes"} else None
        if lacking is not None:
            listed = ", ".join(f"`{' '.join(name.split())[:40]}`" for name in list(first.values)[:6])
            message = f"no column of the table is known as `{lacking}`; its first row has {listed}"
            help_ = f"name it, such as `columns: {{{lacking}: NAME}}`; `qrecipe import` reads tables without names. Else " + MANIFEST_HELP
            raise DataError(Problem("QR041", message, whole, help_))

    def read(self, values: dict[str, Any], place: Place) -> Problems:
        """Adds a record to the rows; else the problems that keep it out."""
        fields = self._fields(tuple(values))
        row = values if fields.plain else {here: values[there] for here, there in fields.columns.names.items()}
        if (fields.misspelled or fields.parts) and (wrong := self._misread(values, fields, place)):
            return wrong
        line = parse(self.kind, row)
        if line is None and self.kind == "speech":
            row = _coerced(row)
            line = parse(self.kind, row)
        if line is None:
            from qrecipe.inputs.documents import check  # only for rows that are wrong: jsonschema takes long to import

            problems = check(f"{self.kind}-row", row, place, "QR041")
            if problems:
                return problems
        strings = "".join([v for v in row.values() if isinstance(v, str)])
        if ("\0" in strings or not strings.isascii()) and NO_CHARACTER.search(strings):
            return _bad(place, "an escape that is no character (NUL, or half of a surrogate pair)")
        line = line or parse(self.kind, row, strict=False)
        assert line is not None, "the schema takes it"
        text = self._replacements.apply(line.text)
        if isinstance(line, SpeechLine):
            return self._speech(line, text, place)
        why = self._text_problem(text)
        if why:
            return Problems([Problem("QR042", why, place)])
        self.rows.append(place.line, text, None, None, None, None, None, False, line.language)
        return Problems()

    def _misread(self, values: Mapping[str, Any], fields: _Fields, place: Place) -> Problems:
        """Fields that are not read and should be: misspelled ones, and a part of a recording."""
        if fields.misspelled:
            name, near = fields.misspelled
            return Problems([Problem("QR041", f"unknown field `{name}`", place, f"rename `{name}` to `{near}`")])
        for name in fields.parts:
            if values[name] not in (None, "", 0, "0", "0.0"):
                help_ = "`qrecipe import` cuts the parts out"
                return Problems([Problem("QR041", f"the row is a part of a recording: `{name}` is {values[name]}", place, help_)])
        return Problems()

    def _speech(self, line: SpeechLine, text: str, place: Place) -> Problems:
        """Adds a row with a recording or codes, and perhaps with a reference."""
        problems = Problems()
        reference_text = self._replacements.apply(line.reference_text) if line.reference_text else None
        for name, t in (("the text", text), ("the reference's text", reference_text)):
            why = self._text_problem(t) if t is not None else None
            if why:
                problems.append(Problem("QR042", why.replace("the text", name, 1), place))
        codes = None
        if line.audio_codes is not None:
            try:
                codes = Codes(line.audio_codes)
            except ValueError as e:
                problems += _bad(place, str(e))
        elif line.audio is None:
            problems += _bad(place, "a speech row has `audio` or `audio_codes`")
        reference = line.reference or line.ref_audio
        audio, ref = (self._file(t, place, problems) if t else None for t in (line.audio, reference))
        if not problems:
            speaker = sys.intern(line.speaker) if line.speaker else None
            self.rows.append(place.line, text, audio, ref, reference_text, speaker, codes, line.cut, line.language)
        return problems

    def _file(self, text: str, place: Place, problems: Problems) -> str:
        """The recording that a row names, below the folder or whole, with a problem if it leads out or is not there."""
        if self._is_here(text):
            return text
        folder = self.folder
        file, exists = paths.find(folder, text)
        if not bounds.within(file, self._roots):
            problems.append(bounds.row_problem(file, _relative(file, folder), place, folder))
        elif not exists:
            help_ = paths.hint(text, folder, self._listings)
            problems.append(Problem("QR043", f"there is no file {_relative(file, folder)}", place, help_, "warning"))
        return _relative(file, folder)

    def _is_here(self, text: str) -> bool:
        """Whether a row names a file, and no link, of a folder that it may read: in one look, as nearly every row does."""
        path = text if text.startswith("/") else f"{self.folder}/{text}"
        folder = path[: path.rindex("/")]
        try:
            regular = stat.S_ISREG(os.lstat(path).st_mode)
        except (OSError, ValueError):
            return False
        if folder not in self._readable:
            self._readable[folder] = bounds.within(f"{folder}/file", self._roots)
        return regular and self._readable[folder]

    def _text_problem(self, text: str) -> str | None:
        return self._tokenizer.text_problem(text) if self._tokenizer else unsayable(text)


def _coerced(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of tables as a row has them: numbers of speakers, empty cells, words for true."""
    row = dict(values)
    for name in ("speaker", "language"):
        if isinstance(row.get(name), int):
            row[name] = str(row[name])
    for name in ("audio", "speaker", "language", "reference", "reference_text", "cut"):
        if name in row and row[name] in (None, ""):
            del row[name]
    if isinstance(row.get("cut"), str) and row["cut"].lower() in ("true", "false", "1", "0"):
        row["cut"] = row["cut"].lower() in ("true", "1")
    return row


def _bad(place: Place, message: str) -> Problems:
    return Problems([Problem("QR041", message, place)])


def _relative(file: Path, folder: Path) -> str:
    try:
        return str(file.relative_to(folder))
    except ValueError:
        return str(file)
