r"""Recordings of people for the speech tokenizer, which must carry voices that no synthesiser made.

Gathered on a machine with a network into a few compact files, and laid out as shards on the one that trains:

    python research/mini_base/people.py gather UNPACKED... --out PEOPLE
    python research/mini_base/people.py shards PEOPLE --out CORPUS --workers 16

What is taken, 4.57 hours of more than 300 people in seven languages and 3,346 clips (54.7 MB in packs):

| source | where | who | language | minutes | licence |
|---|---|---|---|---|---|
| asterisk-en, -es | Debian asterisk-core-sounds-en-g722, -es-g722 1.6.1 | Allison Smith | English, Spanish | 12.4, 12.3 | CC-BY-SA-3.0 |
| asterisk-fr | Debian asterisk-core-sounds-fr-g722 1.6.1 | June Wallack | French | 18.5 | CC-BY-SA-3.0 |
| asterisk-ru | Debian asterisk-core-sounds-ru-g722 1.6.1 | a woman of IvrvoiceRU (Maxim Topal) | Russian | 18.5 | CC-BY-3.0 |
| festvox-ru | Debian festvox-ru 0.5+dfsg-6 | a man (Nickolay V. Shmyrev) | Russian | 14.1 | BSD-like |
| gcin-voice | Debian gcin-voice 0~20170223-3 | Chu Lo (ChionMeilin) | Mandarin | 2.8 | CC-BY-3.0 |
| shtooka-tan | GitHub hugolpz/audio-cmn ff9ed3d | Yue Tan (Shtooka) | Mandarin | 15.5 | CC-BY-SA |
| audio-cmn | the same | Chen Wang | Mandarin | 11.3 | CC-BY-SA |
| kerstin | GitHub rhasspy/dataset-voice-kerstin f731271 | Kerstin | German | 24.0 | CC0-1.0 |
| gcompris-en | GitHub gcompris/GCompris-voices c0e8a74 | art4apps.org | English | 6.0 | CC-BY-SA |
| gcompris-es | the same | Smart4Kids.com | Spanish | 17.7 | CC-BY-SA |
| gcompris-gd | the same | volunteers, taken for one voice | Scottish Gaelic | 18.8 | public domain |
| librispeech-many, -ten | GitHub resemble-ai/Resemblyzer 15d828e | 251 readers | English | 48.9, 11.4 | CC-BY-4.0 |
| orders | GitHub Picovoice/speech-to-intent-benchmark 47b1ca6 | a crowd of more than 50 | English | 37.4 | Apache-2.0 |
| wake-words | GitHub Picovoice/wake-word-benchmark 8491919 | a crowd of more than 50 | English | 5.0 | Apache-2.0 |

The licences are those that the packages' `copyright` and the repositories' licence files state; LibriSpeech's is its publisher's.
Romanian, Italian and everything of Tux Paint are left out: they judge the studies. So is what is under the GPL alone.

`gather` wants the packages unpacked (`apt-get download`, `dpkg -x`) and the repositories checked out, each below a folder of
its name; it needs PyAV, which reads G.722. It levels every recording to a peak of 0.7, trims it to 0.1 s of silence, cuts what
is longer than 15 s at its pauses, leaves out what is clipped or silent, and joins short words of one speaker. `PEOPLE` then
holds Ogg Opus files of at most ten minutes of one voice and `people.json`: `sources` (licences and authors) and `packs`, in
each of which a clip is ``[start, samples, speaker, source]`` at 24 kHz.

`shards` writes what `codec_data.read_shard` reads: `people-*.npz` to train on and `heldpeople-00000.npz`, which is only measured
on. `voice` is `FIRST` plus the number of the voice: a person, or a share of a crowd whose members said little each, so that
drawing voices by the square root of their hours repeats nobody too often. What sounds in a frame
is `UNKNOWN`, `language` and `char` are -1, and the texts are empty.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import random
import sys
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from voices import FRAME, PEAK, RATE, UNKNOWN, Samples

from qrecipe.data.audio import AudioProblem, load

FIRST = 200
"""The number of the first voice; those of voices.py and corpus.py are below."""
SHARD = 250
"""Clips of a shard."""
HELD_ONE_IN, HELD_MOST = 60, 6
"""One clip in so many of every voice is held out, at least one and at most so many."""
SHORTEST, LONGEST = 0.5, 15.0
"""Seconds of a clip."""
WORD = 2.0
"""Seconds below which a recording is joined to others of its speaker."""
JOINED = (2.5, 5.5)
"""Seconds that joined clips reach, spread evenly."""
GAP = 0.15
"""Seconds of silence between joined words."""
PAUSE_DB = -25.0
"""How far a pause at which a long recording is cut lies below its speech, at least."""
BATCH = 64
"""Files that are heard together, before a look at how much there is."""
PACK_SECONDS = 600.0
BETWEEN = RATE // 10
"""Samples of silence between the clips of a pack."""
BITS = 22_000
"""Bits a second asked for; speech takes about an eighth more."""
FILE_SECONDS = 120.0
"""Recordings beyond this are no prompts or sentences."""


@dataclass(frozen=True)
class Source:
    """Recordings of one person, or of a crowd, in one place."""

    name: str
    place: str
    """The package or repository with its version."""
    files: str
    """Pattern below an unpacked folder."""
    speaker: str
    """Who speaks; of a crowd, what its voices are called."""
    language: str
    licence: str
    credit: str
    minutes: float
    """At most so much is taken."""
    shares: int = 0
    """A crowd's speakers are spread over so many voices; 0 for one person."""
    told: bool = True
    """Whether the beginning of a file's name, up to a hyphen, tells the members of a crowd apart; else nothing of theirs is joined."""

    def who(self, file: Path) -> str:
        """The speaker of a file; the crowd where nothing tells its members apart."""
        return f"{self.speaker} {file.stem.split('-')[0]}" if self.shares and self.told else self.speaker

    def voice(self, file: Path) -> str:
        """The voice that a file's clips are drawn under: its speaker, or a share of the crowd."""
        if not self.shares:
            return self.speaker
        told = self.who(file) if self.told else file.name
        return f"{self.speaker}, share {zlib.crc32(told.encode()) % self.shares}"


ASTERISK = "usr/share/asterisk/sounds"
SOURCES = (
    Source(
        "asterisk-en",
        "asterisk-core-sounds-en-g722 1.6.1 (Debian)",
        f"asterisk-core-sounds-en-g722/{ASTERISK}/en_US_f_Allison/**/*.g722",
        "Allison Smith",
        "English",
        "CC-BY-SA-3.0",
        "Allison Smith, Digium",
        12,
    ),
    Source(
        "asterisk-es",
        "asterisk-core-sounds-es-g722 1.6.1 (Debian)",
        f"asterisk-core-sounds-es-g722/{ASTERISK}/es_MX_f_Allison/**/*.g722",
        "Allison Smith",
        "Spanish",
        "CC-BY-SA-3.0",
        "Allison Smith, Digium",
        12,
    ),
    Source(
        "asterisk-fr",
        "asterisk-core-sounds-fr-g722 1.6.1 (Debian)",
        f"asterisk-core-sounds-fr-g722/{ASTERISK}/fr_CA_f_June/**/*.g722",
        "June Wallack",
        "French",
        "CC-BY-SA-3.0",
        "June Wallack",
        18,
    ),
    Source(
        "asterisk-ru",
        "asterisk-core-sounds-ru-g722 1.6.1 (Debian)",
        f"asterisk-core-sounds-ru-g722/{ASTERISK}/ru_RU_f_IvrvoiceRU/**/*.g722",
        "IvrvoiceRU",
        "Russian",
        "CC-BY-3.0",
        "Maxim Topal, IvrvoiceRU",
        18,
    ),
    Source(
        "festvox-ru",
        "festvox-ru 0.5+dfsg (Debian)",
        "festvox-ru/usr/share/festival/voices/russian/**/*.wav",
        "festvox-ru",
        "Russian",
        "BSD-like (Festival)",
        "Nickolay V. Shmyrev",
        14,
    ),
    Source(
        "gcin-voice",
        "gcin-voice 0~20170223 (Debian)",
        "gcin-voice/usr/share/gcin-voice/ogg/*/5.ogg",
        "Chu Lo",
        "Mandarin",
        "CC-BY-3.0",
        "ChionMeilin with the voice of Chu Lo",
        10,
    ),
    Source(
        "shtooka-tan",
        "hugolpz/audio-cmn ff9ed3d0c631",
        "audio-cmn/96k/hsk/*.mp3",
        "Yue Tan",
        "Mandarin",
        "CC-BY-SA",
        "Yue Tan, Shtooka",
        14,
    ),
    Source(
        "audio-cmn",
        "hugolpz/audio-cmn ff9ed3d0c631",
        "audio-cmn/64k/syllabs/*.mp3",
        "Chen Wang",
        "Mandarin",
        "CC-BY-SA",
        "Chen Wang, Hugo Lopez",
        10,
    ),
    Source(
        "kerstin",
        "rhasspy/dataset-voice-kerstin f73127135cf8",
        "dataset-voice-kerstin/verified/*.flac",
        "Kerstin",
        "German",
        "CC0-1.0",
        "Kerstin, Rhasspy",
        24,
    ),
    Source(
        "gcompris-en",
        "gcompris/GCompris-voices c0e8a743b7b4",
        "GCompris-voices/en/words/*.ogg",
        "Art4Apps",
        "English",
        "CC-BY-SA",
        "art4apps.org",
        12,
    ),
    Source(
        "gcompris-es",
        "gcompris/GCompris-voices c0e8a743b7b4",
        "GCompris-voices/es/words/*.ogg",
        "Smart4Kids",
        "Spanish",
        "CC-BY-SA",
        "Smart4Kids.com",
        18,
    ),
    Source(
        "gcompris-gd",
        "gcompris/GCompris-voices c0e8a743b7b4",
        "GCompris-voices/gd/**/*.ogg",
        "GCompris Gaelic",
        "Scottish Gaelic",
        "public domain",
        "volunteers of GCompris",
        18,
    ),
    Source(
        "librispeech-many",
        "resemble-ai/Resemblyzer 15d828edebe0",
        "Resemblyzer/audio_data/librispeech_train-clean-100/*.flac",
        "LibriSpeech",
        "English",
        "CC-BY-4.0",
        "LibriSpeech, Vassil Panayotov",
        60,
        shares=8,
    ),
    Source(
        "librispeech-ten",
        "resemble-ai/Resemblyzer 15d828edebe0",
        "Resemblyzer/audio_data/librispeech_test-other/*/*.flac",
        "LibriSpeech other",
        "English",
        "CC-BY-4.0",
        "LibriSpeech, Vassil Panayotov",
        20,
        shares=3,
    ),
    Source(
        "orders",
        "Picovoice/speech-to-intent-benchmark 47b1ca63afe4",
        "speech-to-intent-benchmark/data/speech/clean/*.wav",
        "coffee orders",
        "English",
        "Apache-2.0",
        "Picovoice",
        40,
        shares=6,
        told=False,
    ),
    Source(
        "wake-words",
        "Picovoice/wake-word-benchmark 84919190fb18",
        "wake-word-benchmark/audio/*/*",
        "wake words",
        "English",
        "Apache-2.0",
        "Picovoice",
        5,
        shares=2,
        told=False,
    ),
)


@dataclass(frozen=True)
class Piece:
    """A stretch of one speaker's speech, levelled."""

    samples: Samples
    speaker: str
    source: str
    voice: str


def order(files: Iterable[Path]) -> list[Path]:
    """Files in an order that nobody chose and that depends on their names alone."""
    return sorted(files, key=lambda file: hashlib.sha256("/".join(file.parts[-3:]).encode()).hexdigest())


def heard(file: Path) -> list[Samples]:
    """The speech of one file: trimmed, cut at pauses where it is long, levelled; nothing if it cannot be used."""
    try:
        if file.suffix != ".g722":
            samples = load(file, FILE_SECONDS).samples
        else:
            with tempfile.TemporaryDirectory() as folder:
                plain = Path(folder) / "plain.wav"
                soundfile.write(str(plain), _g722(file), 16_000, subtype="PCM_16")
                samples = load(plain, FILE_SECONDS).samples
    except AudioProblem:
        return []
    return [part * (PEAK / float(np.abs(part).max())) for part in cut(samples)]


def _g722(file: Path) -> NDArray[np.int16]:
    import av

    with av.open(str(file), format="g722") as container:
        return np.concatenate([np.zeros(0, np.int16), *(frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0))])


def cut(samples: Samples) -> list[Samples]:
    """Parts of at most `LONGEST` seconds, cut in the middle of the deepest pause of the middle third; without one, nothing is kept."""
    if len(samples) <= LONGEST * RATE:
        return [samples]
    window = RATE // 20
    frames = samples[: len(samples) // window * window].reshape(-1, window)
    level = 10 * np.log10((frames**2).mean(axis=1) + 1e-10)
    around = np.convolve(level, np.full(5, 0.2), mode="same")
    third = len(level) // 3
    at = third + int(np.argmin(around[third : 2 * third]))
    if around[at] > np.percentile(level, 95) + PAUSE_DB:
        return []
    place = at * window + window // 2
    return [*cut(samples[:place]), *cut(samples[place:])]


def joined(pieces: Iterable[Piece], seed: str) -> Iterator[Piece]:
    """Pieces below `WORD` seconds put together with gaps; the others as they are, and what stays under `SHORTEST` left out."""
    draw = random.Random(seed)
    waiting: dict[str, list[Piece]] = defaultdict(list)
    goal: dict[str, float] = defaultdict(lambda: draw.uniform(*JOINED))
    gap = np.zeros(round(GAP * RATE), np.float32)

    def together(parts: list[Piece]) -> Piece:
        between = [samples for part in parts for samples in (gap, part.samples)]
        return Piece(np.concatenate(between[1:]), parts[0].speaker, parts[0].source, parts[0].voice)

    for piece in pieces:
        if len(piece.samples) >= WORD * RATE:
            yield piece
            continue
        parts = waiting[piece.speaker]
        parts.append(piece)
        if sum(len(part.samples) + len(gap) for part in parts) >= goal[piece.speaker] * RATE:
            yield together(parts)
            del waiting[piece.speaker], goal[piece.speaker]
    for parts in waiting.values():
        whole = together(parts)
        if len(whole.samples) >= SHORTEST * RATE:
            yield whole


def pieces(source: Source, files: list[Path], hear: Callable[[list[Path]], list[list[Samples]]]) -> Iterator[Piece]:
    """Pieces of a source's files, up to its minutes; `hear` is `heard` of several files."""
    room = source.minutes * 60 * RATE
    for start in range(0, len(files), BATCH):
        some = files[start : start + BATCH]
        for file, parts in zip(some, hear(some), strict=True):
            for part in parts:
                if source.told or len(part) >= SHORTEST * RATE:
                    room -= len(part)
                    yield Piece(part, source.who(file), source.name, source.voice(file))
            if room <= 0:
                return


@contextlib.contextmanager
def mapping(workers: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """`map` over so many processes; with one worker, in this one."""
    if workers == 1:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield pool.imap


def gather(unpacked: list[Path], out: Path, workers: int, sources: tuple[Source, ...] = SOURCES) -> int:
    """Writes packs and index of all sources that are there; gives the number of clips."""
    out.mkdir(parents=True, exist_ok=True)
    voices: dict[str, list[Piece]] = defaultdict(list)
    found = []
    with mapping(workers) as over:
        for source in sources:
            files = order(file for folder in unpacked for file in folder.glob(source.files))
            if not files:
                print(f"{source.name}: not here", file=sys.stderr, flush=True)
                continue
            kept = list(pieces(source, files, lambda some: list(over(heard, some))))
            clips = list(joined(kept, source.name)) if source.told else kept
            for clip in clips:
                voices[clip.voice].append(clip)
            found.append(source)
            seconds = sum(len(clip.samples) for clip in clips) / RATE
            people = len({clip.speaker for clip in clips})
            print(f"{source.name}: {len(files)} files, {len(clips)} clips, {seconds / 60:.1f} min, {people} names", flush=True)
        parts = [(f"voice-{n:03d}-{k}.ogg", some) for n, clips in enumerate(voices.values()) for k, some in enumerate(packed(clips))]
        rows = over(write_pack, [(out / name, some) for name, some in parts])
        packs = [{"file": name, "voice": some[0].voice, "clips": row} for (name, some), row in zip(parts, rows, strict=True)]
    index = {"rate": RATE, "sources": [asdict(source) for source in found], "packs": packs}
    (out / "people.json").write_text(json.dumps(index, ensure_ascii=False, indent=1), encoding="utf-8")
    return sum(len(clips) for clips in voices.values())


def packed(clips: list[Piece]) -> Iterator[list[Piece]]:
    """Clips of one voice in lists of at most `PACK_SECONDS`."""
    some: list[Piece] = []
    filled = 0
    for clip in clips:
        if some and filled + len(clip.samples) + BETWEEN > PACK_SECONDS * RATE:
            yield some
            some, filled = [], 0
        some.append(clip)
        filled += len(clip.samples) + BETWEEN
    if some:
        yield some


def write_pack(job: tuple[Path, list[Piece]]) -> list[list[int | str]]:
    """Writes one Ogg Opus file; gives its part of the index."""
    import av

    path, clips = job
    rows: list[list[int | str]] = []
    row = []
    at = 0
    for clip in clips:
        rows.append([at, len(clip.samples), clip.speaker, clip.source])
        row += [clip.samples, np.zeros(BETWEEN, np.float32)]
        at += len(clip.samples) + BETWEEN
    frame = av.AudioFrame.from_ndarray(np.concatenate(row)[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts = RATE, 0
    with av.open(str(path), "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=RATE, options={"compression_level": "5"})  # three times as fast as 10
        stream.bit_rate, stream.layout = BITS, "mono"
        queue = av.AudioFifo()
        queue.write(frame)
        while (some := queue.read(480, partial=True)) is not None:
            container.mux(stream.encode(some))
        container.mux(stream.encode(None))
    return rows


@dataclass(frozen=True)
class Clip:
    """A clip as it is trained on: whole frames."""

    samples: NDArray[np.int16]
    voice: int
    held: bool


def unpack(job: tuple[Path, int, list[list[Any]], set[int]]) -> list[Clip]:
    """The clips of one pack: (file, number of its voice, its part of the index, places of held-out clips).

    Raises:
        ValueError: the file is not the one that the index describes.
    """
    path, voice, rows, held = job
    try:
        audio, rate = soundfile.read(str(path), dtype="float32")
    except soundfile.SoundFileError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    if rate != RATE:  # libsndfile gives the rate that was written
        raise ValueError(f"{path}: {rate} Hz, not {RATE}")
    clips = []
    for place, (start, size, *_) in enumerate(rows):
        if start + size > len(audio):
            raise ValueError(f"{path}: ends at sample {len(audio)}, before clip {place} does ({start + size})")
        samples = np.pad(audio[start : start + size], (0, -size % FRAME))
        clips.append(Clip(np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16), voice, place in held))
    return clips


def held_places(packs: list[dict[str, Any]]) -> dict[str, set[int]]:
    """For every file the places of its held-out clips: of each voice the first by a hash of their place."""
    by_voice: dict[str, list[tuple[str, str, int]]] = defaultdict(list)
    for pack in packs:
        for place in range(len(pack["clips"])):
            rank = hashlib.sha256(f"{pack['file']} {place}".encode()).hexdigest()
            by_voice[pack["voice"]].append((rank, pack["file"], place))
    held: dict[str, set[int]] = defaultdict(set)
    for rows in by_voice.values():
        for _, file, place in sorted(rows)[: min(HELD_MOST, math.ceil(len(rows) / HELD_ONE_IN))]:
            held[file].add(place)
    return held


def write_shard(path: Path, clips: list[Clip]) -> None:
    """Writes clips as `codec_data.read_shard` and the readers of corpus.py's shards want them, in one move."""
    audio = np.concatenate([clip.samples for clip in clips])
    content = {
        "audio": audio,
        "samples": np.array([len(clip.samples) for clip in clips], np.int64),
        "voice": np.array([clip.voice for clip in clips], np.int16),
        "language": np.full(len(clips), -1, np.int16),
        "texts": np.frombuffer(b"\n" * (len(clips) - 1), np.uint8),
        "char": np.full(len(audio) // FRAME, -1, np.int16),
        "phoneme": np.full((len(audio) // FRAME, 2), UNKNOWN, np.uint8),
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        np.savez(file, **content)
    partial.rename(path)


def shards(folder: Path, out: Path, workers: int) -> dict[str, float]:
    """Lays the packs of a folder out as shards in mixed order; gives the hours of every voice.

    Raises:
        ValueError: as `unpack`, or the folder has no index.
    """
    try:
        packs = json.loads((folder / "people.json").read_text(encoding="utf-8"))["packs"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder}: holds no index of `people.py gather`: {error}") from error
    out.mkdir(parents=True, exist_ok=True)
    numbers = {voice: FIRST + k for k, voice in enumerate(dict.fromkeys(pack["voice"] for pack in packs))}
    held = held_places(packs)
    jobs = [(folder / pack["file"], numbers[pack["voice"]], pack["clips"], held[pack["file"]]) for pack in packs]
    with mapping(workers) as over:
        clips = [clip for some in over(unpack, jobs) for clip in some]
    write_shard(out / "heldpeople-00000.npz", [clip for clip in clips if clip.held])
    trained = [clip for clip in clips if not clip.held]
    random.Random("people").shuffle(trained)
    for number, start in enumerate(range(0, len(trained), SHARD)):
        write_shard(out / f"people-{number:05d}.npz", trained[start : start + SHARD])
    length = {voice: sum(len(clip.samples) for clip in clips if clip.voice == number) for voice, number in numbers.items()}
    return {voice: samples / RATE / 3600 for voice, samples in length.items()}


def main() -> int:
    """Runs the command line: 0, or 2 if there is nothing to work on."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    gathering = verbs.add_parser("gather", help="pack the recordings of unpacked packages")
    gathering.add_argument("unpacked", type=Path, nargs="+", help="folders with packages, each below a folder of its name")
    laying = verbs.add_parser("shards", help="lay packs out as shards to train on")
    laying.add_argument("folder", type=Path, help="what `gather` wrote")
    for verb in (gathering, laying):
        verb.add_argument("--out", type=Path, required=True)
        verb.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if args.verb == "gather":
        if not gather(args.unpacked, args.out, args.workers):
            print("none of the sources is here; see the first lines of this file", file=sys.stderr)
            return 2
        return 0
    try:
        hours = shards(args.folder, args.out, args.workers)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for voice, some in hours.items():
        print(f"{some:6.3f} h  {voice}")
    print(f"{sum(hours.values()):6.3f} h  of {len(hours)} voices")
    return 0


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main())
