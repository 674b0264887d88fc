"""Sources that are folders of a toolkit: recordings with texts beside them, Kaldi and ESPnet, Lhotse manifests and Shar."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qrecipe.errors import DataError, Place, Problem
from qrecipe.inputs.sources.source import Options, Recordings, Source, SourceRow, relative, sounds_below
from qrecipe.inputs.tables import Embedded, Record, encoding_of, records

TEXTS = (".txt", ".lab", ".normalized.txt", ".trans")
"""Ends of a text's name beside its recording."""


def text_beside(audio: Path) -> Path | None:
    """The text of a recording."""
    return next((p for suffix in TEXTS if (p := audio.with_suffix("").with_name(audio.stem + suffix)).is_file()), None)


def read_text(path: Path) -> str | None:
    """A text file in whatever encoding; None if it is none."""
    content = path.read_bytes()
    encoding = encoding_of(content)
    return None if encoding is None else content.decode(encoding, errors="replace").removeprefix("\ufeff")


def texts_beside(folder: Path, options: Options) -> Source:
    """A folder of recordings, a text file beside each; folders below it are speakers, where every recording is in one."""
    sounds = list(sounds_below(folder))
    parents = {p.parent for p in sounds}
    by_folder = len(parents) > 1 and folder not in parents

    def read() -> Iterator[SourceRow | Problem]:
        for audio in sounds:
            file = text_beside(audio)
            place = Place(relative(file or audio, folder), 1 if file else 0)
            text = read_text(file) if file is not None else None
            if text is None:
                yield Problem("QR042", "the recording has no text beside it" if file is None else "not a text", place)
                continue
            speaker = audio.relative_to(folder).parts[0] if by_folder else None
            yield SourceRow(place, " ".join(text.split()), audio, audio.name, speaker)

    what = "a folder of recordings with texts beside them"
    return Source("folder", what + (", the folders below it are speakers" if by_folder else ""), read())


def kaldi(folder: Path, options: Options) -> Source:
    """A Kaldi or ESPnet data folder: `wav.scp`, `text`, and where they exist `segments` and `utt2spk`."""
    files = {name: _pairs(folder / name) for name in ("wav.scp", "text", "utt2spk", "segments") if (folder / name).is_file()}
    if "text" not in files:
        raise DataError(Problem("QR040", "`text` is missing beside `wav.scp`", Place(str(folder))))
    # paths of `wav.scp` start where the toolkit ran, mostly some folders above
    recordings = [Recordings(f) for f in (folder, *itertools.islice(folder.resolve().parents, 3))]
    speakers = {key: value for _, key, value in files.get("utt2spk", [])}
    segments = {key: value.split() for _, key, value in files.get("segments", [])}
    wavs = {key: value for _, key, value in files["wav.scp"]}

    def read() -> Iterator[SourceRow | Problem]:
        for line, key, text in files["text"]:
            place = Place("text", line, 1)
            segment = segments.get(key, [])
            name = wavs.get(segment[0] if len(segment) == 3 else key, "")
            if name.endswith("|"):
                yield Problem("QR043", f"`wav.scp` has a command for {key}; commands are not run", place)
                continue
            audio = next((p for r in recordings if (p := _direct(r, name)) is not None), None)
            start, end = (float(segment[1]), float(segment[2])) if len(segment) == 3 else (None, None)
            yield SourceRow(place, text, audio, name or key, speakers.get(key), start=start, end=end)

    return Source("kaldi", f"a Kaldi or ESPnet folder: {', '.join(files)}", read())


def _direct(recordings: Recordings, name: str) -> Path | None:
    return recordings.find(name) if name else None


def _pairs(path: Path) -> list[tuple[int, str, str]]:
    """(line, key, rest) of every line of a file of the toolkit."""
    text = read_text(path) or ""
    lines = ((i, line.split(maxsplit=1)) for i, line in enumerate(text.splitlines(), start=1) if line.strip())
    return [(i, parts[0], parts[1].strip() if len(parts) > 1 else "") for i, parts in lines]


def lhotse(folder: Path, files: dict[str, list[Path]], options: Options) -> Source:
    """Lhotse: recordings with supervisions, or cuts, and for Shar the tars beside them."""
    what = ", ".join(relative(p, folder) for paths in files.values() for p in paths[:2])
    reader = _shar(folder, files) if files.get("tars") else _manifests(folder, files)
    return Source("lhotse", f"Lhotse manifests: {what}", reader)


def _manifests(folder: Path, files: dict[str, list[Path]]) -> Iterator[SourceRow | Problem]:
    recordings = Recordings(folder)
    sources = {}
    for path in files.get("recordings", []):
        for row in records(path, "jsonl", path.name):
            if isinstance(row, Record):
                sources[row.values.get("id")] = _file_of(row.values)
    for path in [*files.get("supervisions", []), *files.get("cuts", [])]:
        for row in records(path, "jsonl", relative(path, folder)):
            if isinstance(row, Problem):
                yield row
                continue
            cut = row.values
            name = _file_of(cut.get("recording") or {}) or sources.get(cut.get("recording_id"), "")
            for supervision in cut.get("supervisions", [cut]) or [{}]:
                yield _utterance(row.place, supervision, cut, recordings.find(name) if name else None, name)


def _file_of(recording: dict[str, Any]) -> str:
    """The file of a recording's manifest; "" for a command, an address or a part of memory."""
    sources = recording.get("sources") or [{}]
    return str(sources[0].get("source", "")) if sources[0].get("type", "file") == "file" else ""


def _utterance(
    place: Place, supervision: dict[str, Any], cut: dict[str, Any], audio: Path | Embedded | None, name: str
) -> SourceRow | Problem:
    """A supervision, whose times count from its cut's start."""
    text = supervision.get("text")
    if not isinstance(text, str):
        return Problem("QR042", "the row has no text", place)
    own = supervision is not cut
    start = float(supervision.get("start") or 0.0) + (float(cut.get("start") or 0.0) if own and not isinstance(audio, Embedded) else 0.0)
    duration = float(supervision.get("duration") or cut.get("duration") or 0.0)
    whole = float((cut.get("recording") or {}).get("duration") or cut.get("duration") or 0.0) if own else 0.0
    part = duration > 0 and (start > 0 or duration < whole - 0.01 or not own)
    speaker, language = supervision.get("speaker"), supervision.get("language")
    return SourceRow(place, text, audio, name, speaker, language, start if part else None, start + duration if part else None)


def _shar(folder: Path, files: dict[str, list[Path]]) -> Iterator[SourceRow | Problem]:
    """Shards: cuts in JSON lines, and their recordings in a tar of the same number and order."""
    for cuts, tar in zip(files["cuts"], files["tars"], strict=False):
        sounds = (r for r in records(tar, "tar", tar.name) if isinstance(r, Record) and "audio" in r.values)
        for row, sound in itertools.zip_longest(records(cuts, "jsonl", relative(cuts, folder)), sounds):
            if row is None:
                break
            if isinstance(row, Problem):
                yield row
                continue
            audio = sound.values["audio"] if sound is not None else None
            for supervision in row.values.get("supervisions") or [{}]:
                yield _utterance(row.place, supervision, row.values, audio, f"{row.values.get('id')}")
