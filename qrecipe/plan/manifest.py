"""JSONL manifests: read, validated row by row, texts cleaned. Knows nothing of audio beyond its path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from qrecipe.errors import Place, Problem
from qrecipe.files import is_file
from qrecipe.plan import boundaries
from qrecipe.plan.rows import fits
from qrecipe.plan.texts import unsayable
from qrecipe.plan.tokenizer import TextTokenizer, clean_text
from qrecipe.recipe.reader import NO_CHARACTER

MAX_LINE = 1 << 20
"""Bytes of a row."""
MAX_PROBLEMS = 1000
"""Rows whose problems are kept; further ones are counted."""


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
    """The usable rows of a file and what is wrong with the others."""

    path: Path
    rows: list[Row]
    problems: list[Problem]
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
    name = shown or str(path)
    rows: list[Row] = []
    problems: list[Problem] = []
    roots = boundaries.followed(path.parent, *([root] if root is not None else []))
    bad = 0
    try:
        with open(path, "rb") as f:
            for number, raw in enumerate(_lines(f), start=1):
                if not raw.strip():
                    continue
                found = _row(raw, kind, path, Place(name, number, 1), tokenizer, roots)
                if isinstance(found, Row):
                    rows.append(found)
                    continue
                bad += 1
                if bad <= MAX_PROBLEMS:
                    problems.extend(found)
    except OSError as e:
        return Manifest(path, [], [Problem("QR040", f"cannot read the manifest: {e.strerror or e}", Place(name))], name)
    if bad > MAX_PROBLEMS:
        problems.append(Problem("QR041", f"{bad - MAX_PROBLEMS:,} more rows cannot be used", Place(name)))
    if not rows and not problems:
        problems.append(Problem("QR041", "the manifest has no rows", Place(name)))
    return Manifest(path, rows, problems, name)


def _lines(f: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends; of one that is too long, the part that shows it. A file of any size takes little memory."""
    while line := f.readline(MAX_LINE + 2):
        if not line.endswith(b"\n"):
            while (rest := f.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
        yield line.removesuffix(b"\n")


def _row(
    raw: bytes, kind: Literal["text", "speech"], path: Path, place: Place, tokenizer: TextTokenizer | None, roots: tuple[str, ...]
) -> Row | list[Problem]:
    if len(raw) > MAX_LINE:
        return [Problem("QR041", f"the line has more than {MAX_LINE:,} bytes", place)]
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as e:
        return [Problem("QR041", f"not UTF-8 (byte {e.start} of the line)", place)]
    except (ValueError, RecursionError) as e:
        column = getattr(e, "colno", 1)
        return [Problem("QR041", f"not JSON: {getattr(e, 'msg', e)}", Place(place.file, place.line, column))]
    if not fits(kind, value):
        from qrecipe.plan.documents import check  # what is wrong with a row is asked less often than whether

        problems = check(f"{kind}-row", value, place, "QR041")
        if problems:
            return problems
    strings = "".join(v for v in value.values() if isinstance(v, str))
    if NO_CHARACTER.search(strings):
        return [Problem("QR041", "an escape that is no character (NUL, or half of a surrogate pair)", place)]
    text = clean_text(value["text"])
    if kind == "text":
        why = tokenizer.text_problem(text) if tokenizer else unsayable(text)
        return [Problem("QR042", why, place)] if why else Row(place.line, text)
    return _speech_row(value, text, path, place, tokenizer, roots)


def _speech_row(
    value: dict[str, Any], text: str, path: Path, place: Place, tokenizer: TextTokenizer | None, roots: tuple[str, ...]
) -> Row | list[Problem]:
    problems = []
    reference = value.get("reference") or value.get("ref_audio")
    reference_text = value.get("reference_text")
    reference_text = clean_text(reference_text) if reference_text else None
    for what, t in (("the text", text), ("the reference's text", reference_text)):
        if t is None:
            continue
        why = tokenizer.text_problem(t) if tokenizer else unsayable(t)
        if why:
            problems.append(Problem("QR042", why.replace("the text", what, 1), place))
    if value.get("audio") is None and value.get("audio_codes") is None:
        problems.append(Problem("QR041", "a speech row has `audio` or `audio_codes`", place))
    codes = value.get("audio_codes")
    if codes is not None and len({len(frame) for frame in codes}) != 1:
        problems.append(Problem("QR041", "`audio_codes` has frames of different widths", place))
    folder = path.parent
    audio = (folder / value["audio"]) if value.get("audio") else None
    ref = (folder / reference) if reference else None
    for file in (audio, ref):
        if file is None:
            continue
        if not boundaries.within(file, roots):
            problems.append(boundaries.row_problem(file, _relative(file, folder), place))
        elif not is_file(file):
            problems.append(Problem("QR043", f"there is no file {_relative(file, folder)}", place, severity="warning"))
    if problems:
        return problems
    return Row(
        line=place.line,
        text=text,
        audio=audio,
        reference=ref,
        reference_text=reference_text,
        speaker=value.get("speaker"),
        codes=tuple(tuple(f) for f in codes) if codes is not None else None,
        cut=bool(value.get("cut", False)),
    )


def _relative(file: Path, folder: Path) -> str:
    try:
        return str(file.relative_to(folder))
    except ValueError:
        return str(file)
