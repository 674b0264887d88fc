"""Long recordings with labels: Audacity tracks, SRT and WebVTT. An utterance is a part of the recording."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qrecipe.errors import DataError, Place, Problem
from qrecipe.inputs.sources.source import Options, Source, SourceRow, relative
from qrecipe.inputs.tables import SOUNDS, encoding_of, need

SUBTITLES = (".srt", ".vtt")
AUDACITY = re.compile(r"\s*(\d+(?:[.,]\d+)?)\t\s*(\d+(?:[.,]\d+)?)\t?(.*)")
MARKUP = re.compile(r"</?[^<>]+>|\{\\[^{}]*\}")
"""Tags of subtitles: fonts, colours, voices of WebVTT, positions."""
SPEAKER = re.compile(r"<v(?:\.\S+)? +([^<>]+)>")


@dataclass(frozen=True)
class Label:
    """A part of a recording."""

    line: int
    start: float
    """Seconds."""
    end: float
    text: str
    speaker: str | None = None


def is_audacity(path: Path) -> bool:
    """Whether every line of a text file begins with two times and tabs."""
    try:
        lines = [line for line in _text(path).splitlines() if line.strip() and not line.startswith("\\")]
    except DataError:
        return False
    return bool(lines) and all(AUDACITY.fullmatch(line) for line in lines)


def labels(path: Path, shown: str) -> list[Label]:
    """The labels of a file. Raises `DataError`."""
    if path.suffix.lower() == ".srt":
        return _srt(path, shown)
    if path.suffix.lower() == ".vtt":
        return _vtt(path, shown)
    matches = ((i, AUDACITY.fullmatch(line)) for i, line in enumerate(_text(path).splitlines(), start=1))
    return [Label(i, _seconds(m[1]), _seconds(m[2]), m[3]) for i, m in matches if m is not None]


def _seconds(text: str) -> float:
    return float(text.replace(",", "."))


def _text(path: Path) -> str:
    content = path.read_bytes()
    encoding = encoding_of(content)
    if encoding is None:
        raise DataError(Problem("QR041", "not a text", Place(path.name)))
    return content.decode(encoding, errors="replace").removeprefix("\ufeff")


def _srt(path: Path, shown: str) -> list[Label]:
    srt = need("srt", "import", "SRT")
    text = _text(path)
    try:
        parsed = list(srt.parse(text, ignore_errors=False))
    except Exception as e:  # srt raises classes of its own
        raise DataError(Problem("QR041", f"not SRT: {str(e).splitlines()[0]}", Place(shown))) from None
    lines = {int(m[1]): text.count("\n", 0, m.start(1)) + 1 for m in re.finditer(r"^(\d+)\r?\n[\d:,. ]+-->", text, re.MULTILINE)}
    return [
        Label(lines.get(s.index, n), s.start.total_seconds(), s.end.total_seconds(), _plain(s.content))
        for n, s in enumerate(parsed, start=1)
    ]


def _vtt(path: Path, shown: str) -> list[Label]:
    webvtt = need("webvtt", "import", "WebVTT")
    text = _text(path)
    try:
        captions = list(webvtt.from_string(text))
    except Exception as e:
        raise DataError(Problem("QR041", f"not WebVTT: {e}", Place(shown))) from None
    lines = [i for i, line in enumerate(text.splitlines(), start=1) if "-->" in line]
    parts = []
    for n, c in enumerate(captions):
        voice = SPEAKER.search(c.raw_text)
        line = lines[n] if n < len(lines) else n + 1
        parts.append(Label(line, _clock(c.start), _clock(c.end), _plain(c.raw_text), voice[1].strip() if voice else None))
    return parts


def _clock(text: str) -> float:
    """`HH:MM:SS.mmm` in seconds."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def _plain(text: str) -> str:
    """Text of a subtitle: one line, without markup."""
    return " ".join(html.unescape(MARKUP.sub("", text)).split())


def recording_of(path: Path, options: Options) -> Path:
    """The recording that labels belong to: the stated one, that of the same name, or the only one. Raises `DataError`."""
    if options.audio is not None:
        if not options.audio.is_file():
            raise DataError(Problem("QR040", "there is no such recording", Place(str(options.audio))))
        return options.audio
    beside = [p for p in sorted(path.parent.iterdir()) if p.suffix.lower() in SOUNDS]
    stem = path.stem
    for candidate in (stem, stem.rpartition(".")[0]):  # talk.sk.srt goes with talk.mp3
        same = [p for p in beside if p.stem == candidate]
        if same:
            return same[0]
    if len(beside) == 1:
        return beside[0]
    what = "no recording" if not beside else "several recordings, none of its name,"
    raise DataError(Problem("QR040", f"{what} beside {path.name}", Place(str(path)), "name it: `--audio FILE`"))


def read(paths: list[Path], folder: Path, options: Options) -> Source:
    """Files with labels, each with its recording."""
    kinds = {".srt": "SRT subtitles", ".vtt": "WebVTT subtitles"}
    kind = kinds.get(paths[0].suffix.lower(), "Audacity labels")
    pairs = [(p, recording_of(p, options)) for p in paths]
    parsed = [(relative(p, folder), audio, labels(p, relative(p, folder))) for p, audio in pairs]

    def utterances() -> Iterator[SourceRow | Problem]:
        for shown, audio, parts in parsed:
            for part in parts:
                place = Place(shown, part.line, 1)
                if part.end <= part.start:
                    yield Problem("QR041", "the part ends before it begins", place)
                    continue
                yield SourceRow(place, part.text, audio, audio.name, part.speaker, start=part.start, end=part.end)

    named = f"{paths[0].name} with {pairs[0][1].name}" if len(pairs) == 1 else f"{len(pairs)} files, each with its recording"
    return Source("labels", f"{kind} of long recordings: {named}, {sum(len(p) for _, _, p in parsed)} parts", utterances())
