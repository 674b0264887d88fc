"""Reads the rows of a manifest one by one: what each holds, and everything that keeps it out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic_core import from_json

from qrecipe.errors import DataError, Place, Problem, Problems, listed
from qrecipe.inputs.codes import Codes
from qrecipe.inputs.columns import NAMES, Columns, recognise
from qrecipe.inputs.recordings import RecordingFiles
from qrecipe.inputs.replacements import Replacements
from qrecipe.inputs.row_table import Rows
from qrecipe.inputs.rows import SpeechLine, fields, parse
from qrecipe.inputs.tables import Record
from qrecipe.inputs.texts import unsayable
from qrecipe.inputs.tokenizer import TextTokenizer
from qrecipe.source import bounds, paths
from qrecipe.source.reader import NO_CHARACTER

MAX_LINE = 1 << 20
"""Bytes of a row."""
MAX_MAPPINGS = 1000
"""Sets of fields of one file that are remembered."""
NEAR = 0.8
"""Likeness from which an unknown field is a misspelled one, and no column of another tool."""
MANIFEST_HELP = 'a manifest is JSONL, one JSON object a line: {"audio": "clips/1.wav", "text": "..."}'


@dataclass(frozen=True)
class JudgedColumns:
    """Columns of a row, judged once for all rows that have the same."""

    columns: Columns
    plain: bool
    """Whether every column is called as the field that it holds."""
    misspelled: tuple[str, str] | None
    """A column that is not read and should be, and the field that it means."""
    parts: tuple[str, ...]
    """Columns that say where a recording begins."""


class ReadingSpec(NamedTuple):
    """Settings with which the rows of one manifest are read."""

    kind: Literal["text", "speech"]
    folder: Path
    """Recordings are named relative to it."""
    tokenizer: TextTokenizer | None
    roots: tuple[str, ...]
    """Folders that recordings may be in, links followed."""
    columns: tuple[tuple[str, str], ...]
    """(what a row holds here, the column), as the dataset states it."""
    replacements: Replacements
    store: Path | None = None
    """Of hashes of files; None where nobody needs the content of the rows."""


class RowReader:
    """Reads the rows of one manifest. `rows` takes those that can be used."""

    def __init__(self, reading: ReadingSpec, rows: Rows) -> None:
        self.rows = rows
        self.kind, self.folder, self.tokenizer, self._roots, columns, self.replacements, store = reading
        self.recordings = RecordingFiles(self.folder, self._roots, store)
        self._stated = dict(columns)
        self._known = fields(self.kind)
        self._mappings: dict[tuple[str, ...], JudgedColumns] = {}
        """By the columns of a row: most files have one kind."""
        self._listings: paths.Listings = {}
        """Files of folders that lack a recording."""

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
            parts.append("not needed: " + listed([f"`{n}`" for n in ignored], 12))
        return Problems([Problem("QR087", "; ".join(parts), place)] if parts else [])

    def fields(self, names: tuple[str, ...]) -> JudgedColumns:
        """Which field holds what; a file's rows mostly have the same."""
        judged = self._mappings.get(names)
        if judged is None:
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
            judged = JudgedColumns(Columns(mapping, ignored), plain, misspelled, parts)
            if len(self._mappings) < MAX_MAPPINGS:
                self._mappings[names] = judged
        return judged

    @property
    def names(self) -> list[tuple[str, ...]]:
        """The different sets of columns of the rows that were read."""
        return list(self._mappings)

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
        names = self.fields(tuple(first.values)).columns.names.keys()
        lacking = "text" if "text" not in names else "audio" if self.kind == "speech" and not names & {"audio", "audio_codes"} else None
        if lacking is not None:
            listed = ", ".join(f"`{' '.join(name.split())[:40]}`" for name in list(first.values)[:6])
            message = f"no column of the table is known as `{lacking}`; its first row has {listed}"
            help_ = f"name it, such as `columns: {{{lacking}: NAME}}`; `qrecipe import` reads tables without names. Else " + MANIFEST_HELP
            raise DataError(Problem("QR041", message, whole, help_))

    def read(self, values: dict[str, Any], place: Place) -> Problems:
        """Adds a record to the rows; else the problems that keep it out."""
        fields = self.fields(tuple(values))
        row = values if fields.plain else {here: values[there] for here, there in fields.columns.names.items()}
        if (fields.misspelled or fields.parts) and (wrong := self._misread(values, fields, place)):
            return wrong
        line = parse(self.kind, row)
        if line is None and self.kind == "speech":
            row = _coerced(row)
            line = parse(self.kind, row)
        if line is None:
            from qrecipe.inputs.documents.check import check  # only for rows that are wrong: jsonschema takes long to import

            problems = check(f"{self.kind}-row", row, place, "QR041")
            if problems:
                return problems
        strings = "".join([v for v in row.values() if isinstance(v, str)])
        if ("\0" in strings or not strings.isascii()) and NO_CHARACTER.search(strings):
            return _bad(place, "an escape that is no character (NUL, or half of a surrogate pair)")
        line = line or parse(self.kind, row, strict=False)
        assert line is not None, "the schema takes it"
        text = self.replacements.apply(line.text)
        if isinstance(line, SpeechLine):
            return self._speech(line, text, place)
        why = self.text_problem(text)
        if why:
            return Problems([Problem("QR042", why, place)])
        self.rows.append(place.line, text, None, None, None, None, None, False, line.language)
        return Problems()

    def _misread(self, values: Mapping[str, Any], fields: JudgedColumns, place: Place) -> Problems:
        """JudgedColumns that are not read and should be: misspelled ones, and a part of a recording."""
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
        reference_text = self.replacements.apply(line.reference_text) if line.reference_text else None
        for name, t in (("the text", text), ("the reference's text", reference_text)):
            why = self.text_problem(t) if t is not None else None
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
        if self.recordings.is_here(text):
            return text
        folder = self.folder
        file, exists = paths.find(folder, text)
        if not bounds.within(file, self._roots):
            problems.append(bounds.row_problem(file, _relative(file, folder), place, folder))
        elif not exists:
            help_ = paths.hint(text, folder, self._listings)
            problems.append(Problem("QR043", f"there is no file {_relative(file, folder)}", place, help_, "warning"))
        return _relative(file, folder)

    def text_problem(self, text: str) -> str | None:
        """Why a clean text cannot be used, or None."""
        return self.tokenizer.text_problem(text) if self.tokenizer else unsayable(text)


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


def record_of(raw: bytes, place: Place) -> Record | Problem:
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
