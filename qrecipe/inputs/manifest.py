"""JSONL manifests: read, validated row by row, texts cleaned. Knows nothing of audio beyond its path."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal

from qrecipe.errors import Place, Problem, Problems, nearest
from qrecipe.inputs.rows import SpeechLine, fields, parse
from qrecipe.inputs.texts import unsayable
from qrecipe.inputs.tokenizer import TextTokenizer, clean_text
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
OTHER_NAMES = {
    **dict.fromkeys(("audio_filepath", "audio_path", "audio_file", "file_name", "filename", "file", "path", "wav", "clip"), "audio"),
    **dict.fromkeys(("transcript", "transcription", "sentence", "normalized_text", "raw_transcription", "transcript_text"), "text"),
    **dict.fromkeys(("speaker_id", "client_id", "spk", "speaker_name"), "speaker"),
    **dict.fromkeys(("ref_text", "prompt_text"), "reference_text"),
    **dict.fromkeys(("prompt_audio", "reference_audio", "ref_wav"), "reference"),
}
"""Fields of other tools' manifests -> what they are here."""


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
    language: str | None = None
    """The language that the row itself states, which counts for nothing."""


@dataclass(frozen=True)
class Manifest:
    """The usable rows of a file and the problems of the others."""

    path: Path
    rows: list[Row]
    problems: Problems
    """Of rows that cannot be used; a recording that is not there is a warning until a run needs it."""
    shown: str
    """How messages name the file."""
    bad_rows: int = 0
    """Rows that cannot be used, those without their recordings included; `problems` shows the first ones of a kind."""
    missing: int = 0
    """Recordings that are not there."""

    def summed(self) -> Problems:
        """Its problems; missing recordings, of which there may be thousands, as one."""
        missing = self.problems.warnings
        if missing:
            first = next((p for p in missing if p.help), missing[0])
            more = f"; {self.missing:,} recordings are missing in all" if self.missing > 1 else ""
            missing = Problems([replace(first, message=f"{first.message}{more}")])
        return Problems([*self.problems.errors, *missing])


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
    reader = _Reader(kind, path, tokenizer, bounds.followed(path.parent, *([root] if root is not None else [])))
    rows: list[Row] = []
    kinds = _Kinds(whole)
    try:
        other = other_format(path)
        if other is not None:
            return Manifest(path, [], Problems([Problem("QR041", f"not a manifest: {other}", whole, MANIFEST_HELP)]), whole.file)
        with open(path, "rb") as f:
            for number, raw in enumerate(_lines(f), start=1):
                if not raw.strip():
                    continue
                row = reader.row(raw, Place(whole.file, number, 1))
                if isinstance(row, Row):
                    rows.append(row)
                else:
                    kinds.add(row)
    except OSError as e:
        unreadable = Problem("QR040", f"cannot read the manifest: {e.strerror or e}", whole)
        return Manifest(path, [], Problems([unreadable]), whole.file)
    problems = kinds.summed()
    if not rows and not problems:
        problems.append(Problem("QR041", "the manifest has no rows", whole))
    return Manifest(path, rows, problems, whole.file, kinds.rows, kinds.missing)


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


def _lines(f: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends; of one that is too long, the part that shows it. A file of any size takes little memory."""
    while line := f.readline(MAX_LINE + 2):
        if not line.endswith(b"\n"):
            while (rest := f.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
        yield line.removesuffix(b"\n").removeprefix(BOM)  # editors begin a file with one, `cat` puts it in the middle


@dataclass(frozen=True)
class _Reader:
    """Reads the rows of one manifest."""

    kind: Literal["text", "speech"]
    path: Path
    tokenizer: TextTokenizer | None
    roots: tuple[str, ...]
    """Folders that recordings may be in, links followed."""
    listings: paths.Listings = field(default_factory=dict)
    """Files of folders that lack a recording."""

    def row(self, raw: bytes, place: Place) -> Row | Problems:
        """A line as a row, or what is wrong with it."""
        if len(raw) > MAX_LINE:
            return _bad(place, f"the line has more than {MAX_LINE:,} bytes")
        try:
            value = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as e:
            return _bad(place, f"not UTF-8 (byte {e.start} of the line)")
        except (ValueError, RecursionError) as e:
            message = f"not JSON: {getattr(e, 'msg', e)}"
            help_ = "JSON wants a backslash twice; folders are separated by `/` here" if "escape" in message else None
            return Problems([Problem("QR041", message, replace(place, column=getattr(e, "colno", 1)), help_)])
        line = parse(self.kind, value)
        if line is None:
            from qrecipe.inputs.documents import check  # only for rows that are wrong: jsonschema takes long to import

            problems = check(f"{self.kind}-row", value, place, "QR041")
            renames = _renames(value, self.kind)
            unknown = Problems(replace(p, help=renames) for p in problems if p.message.startswith("unknown field"))
            if unknown and renames:
                return unknown  # with other names, nothing may be missing
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
        return Problems([Problem("QR042", why, place)]) if why else Row(place.line, text, language=line.language)

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
        reference = line.reference or line.ref_audio
        audio, ref = (self._file(t, place, problems) if t else None for t in (line.audio, reference))
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
            language=line.language,
        )

    def _file(self, text: str, place: Place, problems: Problems) -> Path:
        """The recording that a row names, with a problem if it leads out or is not there."""
        folder = self.path.parent
        file, exists = paths.find(folder, text)
        if not bounds.within(file, self.roots):
            problems.append(bounds.row_problem(file, _relative(file, folder), place, folder))
        elif not exists:
            help_ = paths.hint(text, folder, self.listings)
            problems.append(Problem("QR043", f"there is no file {_relative(file, folder)}", place, help_, "warning"))
        return file

    def _text_problem(self, text: str) -> str | None:
        return self.tokenizer.text_problem(text) if self.tokenizer else unsayable(text)


def _renames(value: object, kind: Literal["text", "speech"]) -> str | None:
    """Our names for fields of a row that are another tool's."""
    if not isinstance(value, dict):
        return None
    known = fields(kind)
    renamed = {name: OTHER_NAMES.get(name) or nearest(name, known) for name in value if name not in known}
    meant = {name: here for name, here in renamed.items() if here in known and here not in value}
    if not meant:
        return None
    return "rename " + ", ".join(f"`{name}` to `{here}`" for name, here in meant.items())


def _bad(place: Place, message: str) -> Problems:
    return Problems([Problem("QR041", message, place)])


def _relative(file: Path, folder: Path) -> str:
    try:
        return str(file.relative_to(folder))
    except ValueError:
        return str(file)
