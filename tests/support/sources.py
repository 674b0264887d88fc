"""The same twelve recordings as many kinds of tools would write them, small and without a network."""

from __future__ import annotations

import csv
import gzip
import html
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tests.support import audio

TEXTS = [
    "Hari ini hujan turun.",
    "Saya suka makan nasi.",
    "Adik pergi ke sekolah.",
    "Ibu memasak di dapur.",
    "Burung itu terbang tinggi.",
    "Kami bermain di padang.",
    "Kucing tidur di sofa.",
    "Ayah membaca buku.",
    "Bunga itu merah, bukan?",
    "Mereka menyanyi bersama.",
    "Pokok itu sangat tinggi.",
    'Katanya "air sungai jernih".',
]
RATE, SECONDS = 24_000, 1.2
SPEAKERS = ["ana", "ben"]


def clip(i: int) -> Any:
    """[samples] of one recording."""
    return audio.speech(i, SECONDS)


def encoded(i: int, kind: str = "WAV") -> bytes:
    """A recording as the bytes of a file."""
    return audio.encoded(clip(i), RATE, format=kind)


def write(path: Path, i: int) -> Path:
    """A recording as a file, by the end of its name."""
    return audio.write(path, clip(i), RATE)


def lines(path: Path, values: list[str], encoding: str = "utf-8", newline: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(v + newline for v in values).encode(encoding))
    return path


def jsonl(path: Path, values: list[dict[str, Any]]) -> Path:
    content = "".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values).encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def texts_beside(folder: Path) -> Path:
    for i, text in enumerate(TEXTS):
        lines(write(folder / SPEAKERS[i % 2] / f"{i}.flac", i).with_suffix(".txt"), [text])
    return folder


def ljspeech(folder: Path) -> Path:
    for i in range(len(TEXTS)):
        write(folder / "wavs" / f"LJ{i:03d}.wav", i)
    lines(folder / "metadata.csv", [f"LJ{i:03d}|{t.upper()}|{t}" for i, t in enumerate(TEXTS)])
    return folder


def spreadsheet(folder: Path) -> Path:
    """Semicolons, quotes, a BOM, Windows' line ends and paths, and columns that nobody needs."""
    buffer = io.StringIO()
    rows = csv.writer(buffer, delimiter=";", lineterminator="\r\n")
    rows.writerow(["No", "Sound", "Said", "Remark"])
    for i, text in enumerate(TEXTS):
        write(folder / "rec" / f"{i}.wav", i)
        rows.writerow([i, f"rec\\{i}.wav", text, "ok; fine"])
    (folder / "sheet.csv").write_bytes(buffer.getvalue().encode("utf-8-sig"))
    return folder / "sheet.csv"


def utf_16(folder: Path) -> Path:
    for i in range(len(TEXTS)):
        write(folder / f"{i}.ogg", i)
    return lines(folder / "t.tsv", ["file\tsentence", *(f"{i}.ogg\t{t}" for i, t in enumerate(TEXTS))], "utf-16", "\r\n")


def common_voice(folder: Path) -> Path:
    head = "client_id\tpath\tsentence\tup_votes\tlocale"
    rows = [f"{SPEAKERS[i % 2]}\tcommon_voice_ms_{i}.mp3\t{t}\t2\tms" for i, t in enumerate(TEXTS)]
    for i in range(len(TEXTS)):
        write(folder / "clips" / f"common_voice_ms_{i}.mp3", i)
    lines(folder / "train.tsv", [head, *rows[:3]])
    lines(folder / "validated.tsv", [head, *rows])
    return folder


def nemo(folder: Path) -> Path:
    rows = [
        {"audio_filepath": str(write(folder / f"{i}.wav", i)), "duration": SECONDS, "text": t, "speaker": i % 2, "lang": "ms"}
        for i, t in enumerate(TEXTS)
    ]
    return jsonl(folder / "manifest.json", rows)


def long_recording(folder: Path, name: str) -> tuple[Path, list[tuple[float, float]]]:
    """All recordings in one file, half a second apart, and where each is."""
    pause = np.zeros(RATE // 2, np.float32)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), np.concatenate([part for i in range(len(TEXTS)) for part in (clip(i), pause)]), RATE)
    step = SECONDS + 0.5
    return path, [(i * step, i * step + SECONDS) for i in range(len(TEXTS))]


def kaldi(folder: Path) -> Path:
    path, parts = long_recording(folder, "wav/session.wav")
    keys = [f"{SPEAKERS[i % 2]}-{i:03d}" for i in range(len(TEXTS))]
    lines(folder / "wav.scp", [f"session {path}"])
    lines(folder / "segments", [f"{k} session {a:.2f} {b:.2f}" for k, (a, b) in zip(keys, parts)])
    lines(folder / "text", [f"{k} {t}" for k, t in zip(keys, TEXTS)])
    lines(folder / "utt2spk", [f"{k} {k.partition('-')[0]}" for k in keys])
    return folder


def lhotse(folder: Path) -> Path:
    recordings, supervisions = [], []
    for i, text in enumerate(TEXTS):
        path = write(folder / f"{i}.flac", i)
        source = {"type": "file", "channels": [0], "source": str(path)}
        recordings.append({"id": f"r{i}", "sources": [source], "sampling_rate": RATE, "duration": SECONDS})
        about = {"id": f"s{i}", "recording_id": f"r{i}", "start": 0.0, "duration": SECONDS, "channel": 0}
        supervisions.append({**about, "text": text, "speaker": SPEAKERS[i % 2], "language": "Malay"})
    jsonl(folder / "ms_recordings_all.jsonl.gz", recordings)
    jsonl(folder / "ms_supervisions_all.jsonl.gz", supervisions)
    return folder


def tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))


def shar(folder: Path) -> Path:
    for shard in range(2):
        own = list(range(shard * 6, shard * 6 + 6))
        tar(folder / f"recording.{shard:06d}.tar", [(f"c{i}.flac", encoded(i, "FLAC")) for i in own])
        cuts = [
            {
                "id": f"c{i}",
                "start": 0.0,
                "duration": SECONDS,
                "recording": {"id": f"c{i}", "duration": SECONDS, "sources": [{"type": "shar", "source": ""}]},
                "supervisions": [{"id": f"c{i}", "start": 0.0, "duration": SECONDS, "text": TEXTS[i], "speaker": SPEAKERS[i % 2]}],
            }
            for i in own
        ]
        jsonl(folder / f"cuts.{shard:06d}.jsonl.gz", cuts)
    return folder


def webdataset(folder: Path) -> Path:
    for shard in range(2):
        members = []
        for i in range(shard * 6, shard * 6 + 6):
            members += [(f"d/{i:04d}.wav", encoded(i)), (f"d/{i:04d}.json", json.dumps({"text": TEXTS[i], "speaker": "x"}).encode())]
        tar(folder / f"{shard:04d}.tar", members)
    return folder


def _rows(first: int = 0, last: int = len(TEXTS)) -> list[dict[str, Any]]:
    return [
        {"audio": {"bytes": encoded(i, "FLAC"), "path": f"{i}.flac"}, "transcription": TEXTS[i], "speaker_id": i % 2, "votes": 2}
        for i in range(first, last)
    ]


def parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True)
    for shard in range(2):
        pq.write_table(pa.Table.from_pylist(_rows(shard * 6, shard * 6 + 6)), folder / "data" / f"train-{shard:05d}-of-00002.parquet")
    return folder


def saved(folder: Path) -> Path:
    """As `datasets.Dataset.save_to_disk` writes it."""
    import pyarrow as pa

    folder.mkdir(parents=True)
    rows = pa.Table.from_pylist(_rows())
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), rows.schema) as out:
        out.write_table(rows)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def _clock(seconds: float, comma: str) -> str:
    return f"{int(seconds // 3600):02d}:{int(seconds // 60 % 60):02d}:{int(seconds % 60):02d}{comma}{round(seconds % 1 * 1000):03d}"


def srt(folder: Path) -> Path:
    _, parts = long_recording(folder, "talk.mp3")
    blocks = [f"{n}\n{_clock(a, ',')} --> {_clock(b, ',')}\n<i>{t}</i>\n" for n, ((a, b), t) in enumerate(zip(parts, TEXTS), 1)]
    return lines(folder / "talk.ms.srt", blocks)


def vtt(folder: Path) -> Path:
    _, parts = long_recording(folder, "talk.flac")
    blocks = [f"{_clock(a, '.')} --> {_clock(b, '.')}\n<v Ana>{t.replace(' ', chr(10), 1)}\n" for (a, b), t in zip(parts, TEXTS)]
    return lines(folder / "talk.vtt", ["WEBVTT", "", *blocks])


def audacity(folder: Path) -> Path:
    _, parts = long_recording(folder, "session.wav")
    lines(folder / "labels.txt", [f"{a:.6f}\t{b:.6f}\t{t}" for (a, b), t in zip(parts, TEXTS)])
    return folder


def voice_notes(folder: Path) -> Path:
    """AAC in MP4, as phones write it, with a table."""
    import av

    for i in range(len(TEXTS)):
        folder.mkdir(parents=True, exist_ok=True)
        with av.open(str(folder / f"note {i}.m4a"), "w", format="mp4") as out:
            stream = out.add_stream("aac", rate=RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(clip(i).reshape(1, -1), format="fltp", layout="mono")
            frame.sample_rate = RATE
            for packet in (*stream.encode(frame), *stream.encode(None)):
                out.mux(packet)
    lines(folder / "notes.csv", ["audio,text", *(f'note {i}.m4a,"{t.replace(chr(34), chr(34) * 2)}"' for i, t in enumerate(TEXTS))])
    return folder


def librispeech(folder: Path) -> Path:
    """A folder a speaker and one a chapter, with the texts of a chapter in one file."""
    for k, speaker in enumerate(("84", "174")):
        chapter = folder / speaker / f"{k}21"
        own = [(i, f"{speaker}-{k}21-{i:04d}") for i in range(k, len(TEXTS), 2)]
        for i, name in own:
            write(chapter / f"{name}.flac", i)
        lines(chapter / f"{speaker}-{k}21.trans.txt", [f"{name} {TEXTS[i]}" for i, name in own])
    return folder


def festival(folder: Path) -> Path:
    quoted = [text.replace('"', '\\"') for text in TEXTS]
    for i in range(len(TEXTS)):
        write(folder / "wav" / f"ms_{i:03d}.wav", i)
    lines(folder / "etc" / "txt.done.data", [f'( ms_{i:03d} "{text}" )' for i, text in enumerate(quoted)])
    return folder


def prompts(folder: Path) -> Path:
    """As Asterisk's packages have them."""
    names = [f"{'digits/' if i % 3 == 0 else ''}prompt-{i}" for i in range(len(TEXTS))]
    for i, name in enumerate(names):
        write(folder / f"{name}.wav", i)
    lines(folder / "core-sounds-ms.txt", ["\ufeff; Sounds in Malay", "", *(f"{n}: {t}" for n, t in zip(names, TEXTS))], newline="\r\n")
    return folder


def sphinx(folder: Path) -> Path:
    """As CMU Sphinx has them: the name behind the text, in a file without an ending."""
    for i in range(len(TEXTS)):
        write(folder / f"ms-{i:03d}.wav", i)
    lines(folder / "fileids", [f"ms-{i:03d}" for i in range(len(TEXTS))])
    lines(folder / "transcription", [f"<s> {text} </s> (ms-{i:03d})" for i, text in enumerate(TEXTS)])
    return folder


def klettres(folder: Path) -> Path:
    """An index in XML that names paths from above its folder; names of recordings repeat in other folders."""
    rows = []
    for i, text in enumerate(TEXTS):
        path = write(folder / "ms" / ("alpha", "syllab")[i % 2] / f"{i // 2}.wav", i)
        rows.append(f'<sound name="{html.escape(text)}" file="{path.relative_to(folder)}" />')
    lines(folder / "ms" / "sounds.xml", ["<klettres>", '  <language code="ms">', *rows, "  </language>", "</klettres>"])
    return folder / "ms"


@dataclass(frozen=True)
class Kind:
    """A source of one kind."""

    make: Callable[[Path], Path]
    """Writes it into a folder and returns what is imported."""
    recognised: str
    """How the message begins."""
    speakers: int = 1
    columns: str | None = None


KINDS = {
    "folder": Kind(texts_beside, "a folder of recordings with texts beside them", 2),
    "ljspeech": Kind(ljspeech, "metadata.csv without a header, as LJSpeech has it"),
    "spreadsheet": Kind(spreadsheet, "table sheet.csv, semicolons between the columns, utf-8", 1, "audio=Sound,text=Said"),
    "utf-16": Kind(utf_16, "table t.tsv, tabs between the columns, utf-16"),
    "common voice": Kind(common_voice, "Common Voice: validated.tsv beside clips/", 2),
    "nemo": Kind(nemo, "NeMo manifest manifest.json", 2),
    "kaldi": Kind(kaldi, "a Kaldi or ESPnet folder: wav.scp, text, utt2spk, segments", 2),
    "lhotse": Kind(lhotse, "Lhotse manifests: ms_recordings_all.jsonl.gz", 2),
    "shar": Kind(shar, "Lhotse manifests: cuts.000000.jsonl.gz", 2),
    "webdataset": Kind(webdataset, "WebDataset, 2 shards"),
    "parquet": Kind(parquet, "Parquet, 2 files", 2),
    "saved dataset": Kind(saved, "a saved Hugging Face dataset, 1 Arrow files", 2),
    "srt": Kind(srt, "SRT subtitles of long recordings: talk.ms.srt with talk.mp3, 12 parts"),
    "vtt": Kind(vtt, "WebVTT subtitles of long recordings: talk.vtt with talk.flac"),
    "audacity": Kind(audacity, "Audacity labels of long recordings: labels.txt with session.wav"),
    "librispeech": Kind(librispeech, "174/121/174-121.trans.txt and 1 more: a recording's name and its text", 2),
    "festival": Kind(festival, "etc/txt.done.data: a recording's name and its text in each line"),
    "prompts": Kind(prompts, "core-sounds-ms.txt: a recording's name and its text in each line"),
    "sphinx": Kind(sphinx, "transcription: a recording's name and its text in each line"),
    "xml": Kind(klettres, "sounds.xml: a recording's name and its text in each line, the folders are speakers", 2),
    "voice notes": Kind(voice_notes, "table notes.csv, commas between the columns"),
}
