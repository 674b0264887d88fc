"""Output of every reader of a source: utterances, one after the other, with the recording, the text and the place of each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qrecipe.errors import Place, Problem
from qrecipe.inputs.tables import SOUNDS, Embedded

FOLDERS = ("", "clips", "wavs", "wav", "audio", "audios", "recordings", "data")
"""Folders beside a table in which tools put its recordings."""


@dataclass(frozen=True)
class SourceRow:
    """A recording with what is said in it, as a source has them. Nothing is checked yet."""

    place: Place
    text: str
    audio: Path | Embedded | None
    """None where the source names none that exists; `name` says which."""
    name: str = ""
    """The recording as the source names it."""
    speaker: str | None = None
    language: str | None = None
    start: float | None = None
    """Seconds where the utterance begins, in a recording that holds more."""
    end: float | None = None
    confidence: float | None = None
    """From 0 to 1, of a text or a cut that a machine made; None for a person's."""


@dataclass
class Source:
    """A recognised source."""

    format: str
    """Key of the registry."""
    what: str
    """A sentence for people: what it was recognised as, and by what."""
    utterances: Iterator[SourceRow | Problem]
    """Read once, as they are asked for."""
    ignored: tuple[str, ...] = ()
    """Columns that are not needed."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Further lines of the data card, such as a revision."""


@dataclass(frozen=True)
class Options:
    """Settings that a person states about a source."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Field of a row -> the column."""
    audio: Path | None = None
    """The long recording that labels or subtitles belong to."""


class Recordings:
    """Finds the files that a table names, however it names them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._by_name: dict[str, Path | None] | None = None

    def find(self, name: str) -> Path | None:
        """The recording of a name: relative to the table or absolute, with or without its ending; None if none fits.

        Of a path that leads nowhere the end counts: a folder that was moved, or a table that names paths from elsewhere.
        """
        name = name.strip().replace("\\", "/").removeprefix("file://")
        if not name:
            return None
        for folder in FOLDERS:
            for suffix in ("", *SOUNDS):
                path = self._folder / folder / (name + suffix)
                if (suffix or path.suffix.lower() in SOUNDS) and _is_file(path):
                    return path
        end = name.partition("/")[2]
        return self.find(end) if end else self._anywhere(name)

    def _anywhere(self, name: str) -> Path | None:
        """The only recording of this name below the folder."""
        if self._by_name is None:
            self._by_name = {}
            for path in sounds_below(self._folder):
                for key in {path.name, path.stem}:
                    self._by_name[key] = None if key in self._by_name else path
        return self._by_name.get(name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no file can have such a name
        return False


def sounds_below(folder: Path) -> Iterator[Path]:
    """Recordings in a folder and below it, in order."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        folders[:] = [f for f in folders if not f.startswith(".")]
        yield from (Path(parent) / f for f in sorted(files) if f.lower().endswith(SOUNDS) and not f.startswith("."))


def relative(path: Path, folder: Path) -> str:
    """A path as messages name it."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
