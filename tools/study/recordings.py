r"""Makes the data of the study on Romanian out of recordings by a person, which nobody looked at while templates were chosen.

The stamps of Tux Paint, a drawing program for children, are described aloud; in Romanian, which neither the embedded base
nor the published ones speak, by one volunteer (Tabbytha, of Google Code-In), at 44.1 kHz, with the words beside them. They
are a package of Debian, under GPL-2; nothing of it is in this repository. On Debian, or with the package fetched elsewhere::

    apt-get download tuxpaint-stamps-default          # 161 MB; 2022.06.04 is what was measured
    dpkg -x tuxpaint-stamps-default_*.deb stamps
    python tools/study/recordings.py stamps

Writes ``studies/data/romanian``: ``speech-all.jsonl``, ``text-all.jsonl`` (its sentences), ``dev.jsonl``, ``ref.ogg`` and
``audio/``: mono, 24 kHz, trimmed and levelled. A text that occurs twice is kept once; texts with digits or signs that a
voice says in words, and recordings that cannot be their text by their length, are left out. Held out are longer
descriptions, chosen by a hash of their place, no two of which begin alike; nothing that begins like one of them and is as
long trains.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from data import DATA, write_rows

from qrecipe.data.audio import RATE, AudioProblem, load, rate_problem

LANGUAGE, CODE = "romanian", "ro"
HELD = 40
SHORTEST = 2.2
"""Seconds of a held-out description at least."""
LONGEST = 12.0
WRITTEN = re.compile(r"[a-zăâîșțéóö ,.;:!?'’()-]+", re.IGNORECASE)
"""What is read as it is written; what stands in quotation marks is mostly of another language."""
PEAK = 0.7


@dataclass(frozen=True)
class Recording:
    """One description, before it is prepared."""

    file: Path
    text: str
    rank: str
    """Hash of its place among the stamps: an order that nobody chose."""

    @property
    def beginning(self) -> str:
        """The first two words: `Semnul pentru ...` occurs many times."""
        return " ".join(re.findall(r"\w+", self.text.lower())[:2])


def recordings(stamps: Path) -> Iterator[Recording]:
    """Recordings with their texts, those with the same text once."""
    seen = set()
    for file in sorted(stamps.rglob(f"*_desc_{CODE}.ogg")):
        described = file.with_name(file.name.removesuffix(f"_desc_{CODE}.ogg") + ".txt")
        if not described.is_file():
            continue
        found = re.search(rf"^{CODE}\.utf8=(.+)$", described.read_text("utf-8", errors="replace"), re.MULTILINE)
        text = clean(found[1]) if found is not None else ""
        if text and WRITTEN.fullmatch(text) and text.lower() not in seen:
            seen.add(text.lower())
            place = "/".join(file.relative_to(stamps).parts[-4:])
            yield Recording(file, text, hashlib.sha256(place.encode()).hexdigest())


def clean(text: str) -> str:
    """Composed letters with commas below, single spaces, no quotation marks around all of it."""
    composed = unicodedata.normalize("NFC", text).translate(str.maketrans("şţŞŢ", "șțȘȚ"))
    return re.sub(r"\s+", " ", composed).strip(' "”„“')


def write(source: Recording, target: Path) -> float | None:
    """Writes a recording as the studies want it; gives its seconds, None for one that is not its text or cannot be used."""
    try:
        samples = load(source.file, LONGEST).samples
    except AudioProblem:
        return None
    seconds = len(samples) / RATE
    if rate_problem(source.text, seconds) is not None:
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    peak = float(np.abs(samples).max())
    soundfile.write(str(target), samples * (PEAK / peak), RATE, format="OGG", subtype="OPUS")
    return seconds


def split(found: list[tuple[Recording, float]]) -> tuple[list[Recording], list[Recording]]:
    """(held out, to train on). The first that is held out is the reference."""
    held: list[Recording] = []
    begun = set()
    for recording, seconds in sorted(found, key=lambda item: item[0].rank):
        plain = seconds >= SHORTEST and re.search(r"\b\w\b", recording.text.replace(" o ", " ").replace("O ", "")) is None
        if plain and recording.beginning not in begun and len(held) <= HELD:
            held.append(recording)
            begun.add(recording.beginning)
    long = {r for r, seconds in found if seconds >= SHORTEST}
    return held, [r for r, _ in found if r not in held and not (r in long and r.beginning in begun)]


def main() -> int:
    """Runs the command line: 0, or 2 if there are no stamps in the folder."""
    parser = argparse.ArgumentParser(description="Make the data of the study on Romanian.")
    parser.add_argument("stamps", type=Path, help="the folder that tuxpaint-stamps-default was unpacked to")
    folder = DATA / LANGUAGE
    found = []
    for number, recording in enumerate(recordings(parser.parse_args().stamps)):
        seconds = write(recording, folder / "audio" / f"{recording.rank[:12]}.ogg")
        if seconds is not None:
            found.append((recording, seconds))
        if number % 100 == 99:
            print(f"{number + 1} recordings", file=sys.stderr, flush=True)
    if len(found) <= HELD:
        print("there are no descriptions in Romanian here; see the first lines of this file", file=sys.stderr)
        return 2
    (reference, *held), trained = split(found)
    length = dict(found)
    for name, part in (("dev", held), ("speech-all", trained)):
        write_rows(folder / f"{name}.jsonl", ({"audio": f"audio/{r.rank[:12]}.ogg", "text": r.text} for r in part))
        print(f"{name}: {len(part)} recordings, {sum(length[r] for r in part) / 60:.1f} minutes")
    write_rows(folder / "text-all.jsonl", ({"text": r.text} for r in trained))
    (folder / "audio" / f"{reference.rank[:12]}.ogg").replace(folder / "ref.ogg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
