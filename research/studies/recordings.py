r"""Makes the data of the studies on human recordings, which nobody looked at while templates were chosen. Out of packages of Debian:

- Romanian, which neither the embedded base nor the published ones speak: the stamps of Tux Paint, a drawing program for
  children, described aloud by one volunteer (Tabbytha, of Google Code-In), at 44.1 kHz, with the words beside them. GPL-2.
- Italian, which the published bases know and the embedded one does not: the prompts of Asterisk, a telephone exchange,
  recorded by Carlo Flora in a studio, at 16 kHz, with their list. CC-BY-3.0.

Nothing of them is in this repository. On Debian, or with the packages fetched elsewhere::

    apt-get download tuxpaint-stamps-default asterisk-core-sounds-it asterisk-core-sounds-it-g722       # 161 and 10 MB
    for package in *.deb; do dpkg -x $package unpacked; done
    python research/studies/recordings.py romanian unpacked
    python research/studies/recordings.py italian unpacked          # needs PyAV (pip install av), which reads G.722

Writes ``research/studies/data/LANGUAGE``: ``speech-all.jsonl``, ``text-all.jsonl`` (its sentences), ``dev.jsonl``, ``ref.ogg`` and
``audio/``: mono, 24 kHz, trimmed and levelled. A text that occurs twice is kept once; texts with digits or signs that a
voice says in words, and recordings that cannot be their text by their length, are left out. Held out are longer
ones, chosen by a hash of their place, no two of which begin alike; nothing that begins like one of them and is as
long trains. Measured with tuxpaint-stamps-default 2022.06.04 and asterisk-core-sounds 1.6.1.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import re
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from synthetic import DATA, write_rows

from qrecipe.data.audio import AudioProblem, Clip, load, rate_problem
from qrecipe.qwen3 import SAMPLE_RATE

SHORTEST = 2.2
"""Seconds of a held-out recording at least."""
LONGEST = 12.0
WRITTEN = re.compile(r"[a-zăâîșțàèéìòùóö ,.;:!?'’-]+", re.IGNORECASE)
"""What is read as it is written; what stands in quotation marks is mostly of another language."""
LOST = re.compile(r"\w\?\w|\?\s+[a-z]")
"""Where a letter with an accent became a question mark in a list."""
PEAK = 0.7


@dataclass(frozen=True)
class Recording:
    """One recording, before it is prepared."""

    file: Path
    text: str
    rank: str
    """Hash of its place in the package: an order that nobody chose."""

    @property
    def beginning(self) -> str:
        """The first two words: `Semnul pentru ...` occurs many times."""
        return " ".join(re.findall(r"\w+", self.text.lower())[:2])


@dataclass(frozen=True)
class Source:
    """Recordings by one person."""

    listed: Callable[[Path], Iterator[tuple[Path, str, str]]]
    """(file, its text, its place) of everything that is unpacked in a folder."""
    held: int
    """How many judge."""


def stamps(unpacked: Path) -> Iterator[tuple[Path, str, str]]:
    """Tux Paint's descriptions in Romanian."""
    for file in sorted(unpacked.rglob("*_desc_ro.ogg")):
        described = file.with_name(file.name.removesuffix("_desc_ro.ogg") + ".txt")
        if described.is_file():
            found = re.search(r"^ro\.utf8=(.+)$", described.read_text("utf-8", errors="replace"), re.MULTILINE)
            if found is not None:
                yield file, found[1], "/".join(file.parts[-4:])


def prompts(unpacked: Path) -> Iterator[tuple[Path, str, str]]:
    """Asterisk's prompts in Italian, without single letters and digits."""
    for listed in sorted(unpacked.rglob("core-sounds-it.txt.gz")):
        for line in gzip.decompress(listed.read_bytes()).decode("utf-8-sig").splitlines():
            name, colon, text = line.partition(":")
            file = unpacked / "usr" / "share" / "asterisk" / "sounds" / "it_IT_m_Carlo" / f"{name}.g722"
            if colon and "/" not in name and file.is_file():
                yield file, text, name


SOURCES = {"romanian": Source(stamps, 40), "italian": Source(prompts, 24)}


def recordings(source: Source, unpacked: Path) -> Iterator[Recording]:
    """Recordings with their texts, those with the same text once."""
    seen = set()
    for file, said, place in source.listed(unpacked):
        text = clean(said)
        if text and WRITTEN.fullmatch(text) and not LOST.search(text) and text.lower() not in seen:
            seen.add(text.lower())
            yield Recording(file, text, hashlib.sha256(place.encode()).hexdigest())


def clean(text: str) -> str:
    """Composed letters with commas below, single spaces, no dots or quotation marks around all of it that nobody says."""
    composed = unicodedata.normalize("NFC", text).translate(str.maketrans("şţŞŢ", "șțȘȚ"))
    spaced = re.sub(r"\s+", " ", composed.replace("…", "...")).strip(' "”„“')
    return spaced.removeprefix("...").removesuffix("...").strip()


def heard(file: Path) -> Clip:
    """A recording, trimmed. Raises `AudioProblem`."""
    if file.suffix != ".g722":
        return load(file, LONGEST)
    import av

    with av.open(str(file), format="g722") as container:
        parts = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.wav"
        soundfile.write(str(plain), np.concatenate(parts), 16_000, subtype="PCM_16")
        return load(plain, LONGEST)


def write(source: Recording, target: Path) -> float | None:
    """Writes a recording as the studies want it; gives its seconds, None for one that is not its text or cannot be used."""
    try:
        samples = heard(source.file).samples
    except AudioProblem:
        return None
    seconds = len(samples) / SAMPLE_RATE
    if rate_problem(source.text, seconds) is not None:
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    peak = float(np.abs(samples).max())
    soundfile.write(str(target), samples * (PEAK / peak), SAMPLE_RATE, format="OGG", subtype="OPUS")
    return seconds


def split(found: list[tuple[Recording, float]], count: int) -> tuple[list[Recording], list[Recording]]:
    """(held out, to train on): the reference and `count` more, the reference first."""
    held: list[Recording] = []
    begun = set()
    for recording, seconds in sorted(found, key=lambda item: item[0].rank):
        plain = seconds >= SHORTEST and re.search(r"\b\w\b", recording.text.replace(" o ", " ").replace("O ", "")) is None
        if plain and recording.beginning not in begun and len(held) <= count:
            held.append(recording)
            begun.add(recording.beginning)
    long = {r for r, seconds in found if seconds >= SHORTEST}
    return held, [r for r, _ in found if r not in held and not (r in long and r.beginning in begun)]


def main() -> int:
    """Runs the command line: 0, or 2 if the folder does not hold the recordings."""
    parser = argparse.ArgumentParser(description="Make the data of a study on human recordings.")
    parser.add_argument("language", choices=sorted(SOURCES))
    parser.add_argument("unpacked", type=Path, help="the folder that the packages were unpacked to")
    given = parser.parse_args()
    source, folder = SOURCES[given.language], DATA / given.language
    length: dict[Recording, float] = {}
    for number, recording in enumerate(recordings(source, given.unpacked)):
        seconds = write(recording, folder / "audio" / f"{recording.rank[:12]}.ogg")
        if seconds is not None:
            length[recording] = seconds
        if number % 100 == 99:
            print(f"{number + 1} recordings", file=sys.stderr, flush=True)
    if len(length) <= source.held:
        print("the recordings are not here; see the first lines of this file", file=sys.stderr)
        return 2
    (reference, *held), trained = split(list(length.items()), source.held)
    for name, part in (("dev", held), ("speech-all", trained)):
        write_rows(folder / f"{name}.jsonl", ({"audio": f"audio/{r.rank[:12]}.ogg", "text": r.text} for r in part))
        print(f"{name}: {len(part)} recordings, {sum(length[r] for r in part) / 60:.1f} minutes")
    write_rows(folder / "text-all.jsonl", ({"text": r.text} for r in trained))
    (folder / "audio" / f"{reference.rank[:12]}.ogg").replace(folder / "ref.ogg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
