"""JSONL manifests: read, validated row by row, texts cleaned. Knows nothing of audio beyond its path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

from qrecipe.errors import Place, Problem, Problems
from qrecipe.files import is_file
from qrecipe.plan import boundaries
from qrecipe.plan.rows import SpeechLine, parse
from qrecipe.plan.texts import unsayable
from qrecipe.plan.tokenizer import TextTokenizer, clean_text
from qrecipe.recipe.reader import NO_CHARACTER

MAX_LINE = 1 << 20
"""Bytes of a row."""
MAX_BAD_ROWS = 1000
"""Rows whose problems are reported; further ones are counted."""


@dataclass(frozen=True)
class Row:
    """One row of a manifest that can be used as far as its text goes."""

    line: int
    """Line of the manifest, from 1."""
    text: str
    """NFC, stripped."""
    audio: Path | None = None
    reference: Path | None = None
    reference_text: str | None = None
    speaker: str | None = None
    codes: tuple[tuple[int, ...], ...] | None = None
    """Ready codes, frames x codebooks."""
    cut: bool = False


@dataclass(frozen=True)
class Manifest:
    """The usable rows of a file and the problems of the others."""

    path: Path
    rows: list[Row]
    problems: Problems
    """Of rows that cannot be used; a recording that is not there is a warning until a run needs it."""
    shown: str
    """How messages name the file."""


def read_manifest(
    path: Path,
    kind: Literal["text", "speech"],
    tokenizer: TextTokenizer | None,
    shown: str | None = None,
    root: Path | None = None,
) -> Manifest:
    """Reads a manifest. Never raises for what the file holds; a missing file is one problem without rows.

    Recordings lie in the manifest's folder, in `root`, below either, or where the person who runs it allows.
    """
    whole = Place(shown or str(path))
    reader = _Reader(kind, path, tokenizer, boundaries.followed(path.parent, *([root] if root is not None else [])))
    rows: list[Row] = []
    problems = Problems()
    bad = 0
    try:
        with open(path, "rb") as f:
            for number, raw in enumerate(_lines(f), start=1):
                if not raw.strip():
                    continue
                row = reader.row(raw, Place(whole.file, number, 1))
                if isinstance(row, Row):
                    rows.append(row)
                    continue
                bad += 1
                if bad <= MAX_BAD_ROWS:
                    problems += row
    except OSError as e:
        unreadable = Problem("QR040", f"cannot read the manifest: {e.strerror or e}", whole)
        return Manifest(path, [], Problems([unreadable]), whole.file)
    if bad > MAX_BAD_ROWS:
        problems.append(Problem("QR041", f"{bad - MAX_BAD_ROWS:,} more rows cannot be used", whole))
    if not rows and not problems:
        problems.append(Problem("QR041", "the manifest has no rows", whole))
    return Manifest(path, rows, problems, whole.file)


def _lines(f: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends; of one that is too long, the part that shows it. A file of any size takes little memory."""
    while line := f.readline(MAX_LINE + 2):
        if not line.endswith(b"\n"):
            while (rest := f.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
        yield line.removesuffix(b"\n")


@dataclass(frozen=True)
class _Reader:
    """Reads the rows of one manifest."""

    kind: Literal["text", "speech"]
    path: Path
    tokenizer: TextTokenizer | None
    roots: tuple[str, ...]
    """Folders that recordings may be in, links followed."""

    def row(self, raw: bytes, place: Place) -> Row | Problems:
        """A line as a row, or what is wrong with it."""
        if len(raw) > MAX_LINE:
            return _bad(place, f"the line has more than {MAX_LINE:,} bytes")
        try:
            value = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as e:
            return _bad(place, f"not UTF-8 (byte {e.start} of the line)")
        except (ValueError, RecursionError) as e:
            return _bad(replace(place, column=getattr(e, "colno", 1)), f"not JSON: {getattr(e, 'msg', e)}")
        line = parse(self.kind, value)
        if line is None:
            from qrecipe.plan.documents import check  # only for rows that are wrong: jsonschema takes long to import

            problems = check(f"{self.kind}-row", value, place, "QR041")
            if problems:
                return problems
        strings = "".join(v for v in value.values() if isinstance(v, str))
        if NO_CHARACTER.search(strings):
            return _bad(place, "an escape that is no character (NUL, or half of a surrogate pair)")
        line = line or parse(self.kind, value, strict=False)
        assert line is not None, "the schema takes it"
        text = clean_text(line.text)
        if isinstance(line, SpeechLine):
            return self._speech(line, text, place)
        why = self._text_problem(text)
        return Problems([Problem("QR042", why, place)]) if why else Row(place.line, text)

    def _speech(self, line: SpeechLine, text: str, place: Place) -> Row | Problems:
        """A row with a recording or codes, and perhaps with a reference."""
        problems = Problems()
        reference_text = clean_text(line.reference_text) if line.reference_text else None
        for name, t in (("the text", text), ("the reference's text", reference_text)):
            why = self._text_problem(t) if t is not None else None
            if why:
                problems.append(Problem("QR042", why.replace("the text", name, 1), place))
        codes = line.audio_codes
        if line.audio is None and codes is None:
            problems += _bad(place, "a speech row has `audio` or `audio_codes`")
        if codes is not None and len({len(frame) for frame in codes}) != 1:
            problems += _bad(place, "`audio_codes` has frames of different widths")
        folder, reference = self.path.parent, line.reference or line.ref_audio
        audio = folder / line.audio if line.audio else None
        ref = folder / reference if reference else None
        for file in (audio, ref):
            if file is None:
                continue
            if not boundaries.within(file, self.roots):
                problems.append(boundaries.row_problem(file, _relative(file, folder), place))
            elif not is_file(file):
                problems.append(Problem("QR043", f"there is no file {_relative(file, folder)}", place, None, "warning"))
        if problems:
            return problems
        return Row(
            line=place.line,
            text=text,
            audio=audio,
            reference=ref,
            reference_text=reference_text,
            speaker=line.speaker,
            codes=tuple(tuple(f) for f in codes) if codes is not None else None,
            cut=line.cut,
        )

    def _text_problem(self, text: str) -> str | None:
        return self.tokenizer.text_problem(text) if self.tokenizer else unsayable(text)


def _bad(place: Place, message: str) -> Problems:
    return Problems([Problem("QR041", message, place)])


def _relative(file: Path, folder: Path) -> str:
    try:
        return str(file.relative_to(folder))
    except ValueError:
        return str(file)
