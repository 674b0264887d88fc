"""Clips of an import: parts cut out of long recordings, recordings out of tables, containers turned into FLAC."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import numpy as np
import soundfile

from qrecipe.data import media
from qrecipe.data.audio import AudioProblem, quiet
from qrecipe.files import copy_file
from qrecipe.inputs.tables import SOUNDS

EDGE = 0.05
"""Seconds by which a part may reach beyond its recording: labels are rounded."""


class Clips:
    """Writes recordings into one folder. Every name is used once; recordings that were written once are not written again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[Path, Path] = {}
        """Files that were converted or copied, by their source."""
        self._names: set[str] = set()
        self._open: tuple[Path, soundfile.SoundFile] | None = None

    def copied(self, path: Path) -> Path:
        """A copy of a recording, as FLAC if libsndfile does not read it. Raises `AudioProblem` and `OSError`."""
        if path not in self._files:
            if media.is_container(path):
                self._files[path] = self._flac(path, self._new(path.stem, ".flac"))
            else:
                self._files[path] = self._new(path.stem, path.suffix.lower())
                copy_file(path, self._files[path])
        return self._files[path]

    def written(self, name: str, content: bytes) -> Path:
        """A recording that a table holds. Raises `AudioProblem`."""
        suffix = Path(name).suffix.lower()
        stem = Path(name).stem if suffix in SOUNDS else name
        path = self._new(stem, suffix if suffix in SOUNDS else _suffix(content))
        path.write_bytes(content)
        if not media.is_container(path):
            return path
        flac = self._flac(path, self._new(stem, ".flac"))
        path.unlink()
        return flac

    def cut(self, path: Path, start: float, end: float) -> Path:
        """A part of a recording, seconds, as FLAC of its rate and channels. Raises `AudioProblem`."""
        sound = self._sound(path)
        length = sound.frames / sound.samplerate
        if end > length + EDGE:
            raise AudioProblem(f"the part ends at {end:.2f} s, and the recording at {length:.2f} s", "ends before the part that is named")
        first, last = round(start * sound.samplerate), min(round(end * sound.samplerate), sound.frames)
        with quiet():
            sound.seek(first)
            samples = sound.read(last - first, dtype="int16", always_2d=True)
        if len(samples) < last - first:
            raise AudioProblem(f"the recording breaks off at {(first + len(samples)) / sound.samplerate:.2f} s", "breaks off")
        target = self._new(f"{path.stem}-{int(start * 1000):08d}", ".flac")
        soundfile.write(str(target), samples, sound.samplerate, subtype="PCM_16")
        return target

    def close(self) -> None:
        """Closes the recording that was cut last."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _sound(self, path: Path) -> soundfile.SoundFile:
        """A long recording, which stays open for its next part."""
        if self._open is not None and self._open[0] == path:
            return self._open[1]
        self.close()
        readable = path
        if media.is_container(path):
            if path not in self._files:
                self._files[path] = self._flac(path, self.folder / f".{path.stem}.whole.flac")
            readable = self._files[path]
        try:
            self._open = (path, soundfile.SoundFile(str(readable)))
        except soundfile.SoundFileError as e:
            raise AudioProblem(f"cannot be read as audio: {e}") from None
        return self._open[1]

    def _flac(self, path: Path, target: Path) -> Path:
        """A container's sound as FLAC, block by block."""
        try:
            stream = media.open_stream(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with soundfile.SoundFile(str(target), "w", stream.rate, stream.channels, "PCM_16", format="FLAC") as out:
                for block in stream.blocks:
                    out.write(np.clip(block, -1.0, 1.0))
        except (ValueError, ImportError, soundfile.SoundFileError) as e:
            target.unlink(missing_ok=True)
            raise AudioProblem(f"cannot be read as audio: {e}") from None
        return target

    def _new(self, stem: str, suffix: str) -> Path:
        """A name that every file system takes and nothing has yet."""
        plain = unicodedata.normalize("NFC", stem)
        plain = re.sub(r"[^\w.-]+", "_", plain).strip("._")[:80] or "clip"
        name, number = plain + suffix, 1
        while name.casefold() in self._names:
            number += 1
            name = f"{plain}-{number}{suffix}"
        self._names.add(name.casefold())
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / name

    def discard_wholes(self) -> None:
        """Removes long recordings that were only converted to be cut."""
        self.close()
        for path in self.folder.glob(".*.whole.flac"):
            path.unlink()


def _suffix(content: bytes) -> str:
    """The end of the name of a recording that has none, by its first bytes."""
    kinds = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3", b"\xff\xf3": ".mp3"}
    return next((suffix for magic, suffix in kinds.items() if content.startswith(magic)), ".wav")
