"""A million rows of each kind, validated and planned: seconds, processor seconds and memory of each command, with an empty cache.

python -m benchmarks.rows                       text, audio and inline codes, a million rows of each
python -m benchmarks.rows --kinds recordings --work /dev/shm/rows      a recording of its own for every row, a million files of 1 KB
python -m benchmarks.rows --kinds text --rows 100000
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from qrecipe.qwen3 import CODEBOOK_SIZE
from qrecipe.sentences import sentences

WORDS, RECORDINGS = 9, 200
FRAMES, CODEBOOKS = 25, 16
"""Of a row with inline codes: two seconds of a published base."""
DISTINCT = 2_000
"""Frames that are drawn."""
STAGES: dict[str, dict[str, Any]] = {
    "text": {"objective": "text_lm", "train": [{"match": "talker.model.text_embedding", "rows": "seen", "lr": 1e-3}]},
    "audio": {
        "objective": "speech",
        "layout": "streaming",
        "train": [{"match": "talker.model.codec_embedding", "rows": "languages", "lr": 1e-3}],
    },
}


def manifest(kind: str, rows: int, folder: Path) -> Path:
    """Writes a manifest of one kind: sentences of nine words, with one of 200 recordings, with one of its own, or with codes."""
    words = sorted({w for s in sentences("spanish") for w in s.split() if w.isalpha()})
    draw, path = random.Random(0), folder / f"{kind}.jsonl"
    recordings, codes = _recordings(folder) if kind == "audio" else [], _codes(draw) if kind == "codes" else None
    with open(path, "w", encoding="utf-8") as f:
        for i in range(rows):
            row: dict[str, Any] = {"text": " ".join(draw.choices(words, k=WORDS)) + "."}
            if kind in ("audio", "recordings"):
                audio = recordings[i % len(recordings)] if recordings else _recording(folder, i)
                row = {"audio": audio, **row, "speaker": f"speaker{i % 50}"}
            line = json.dumps(row, ensure_ascii=False)
            f.write(f'{line[:-1]}, "audio_codes": {next(codes)}}}\n' if codes is not None else line + "\n")
    return path


def _recordings(folder: Path) -> list[str]:
    """Different recordings of four seconds."""
    (folder / "clips").mkdir(exist_ok=True)
    for i in range(RECORDINGS):
        sound = np.random.default_rng(i).normal(0, 0.1, 4 * 16_000)
        soundfile.write(str(folder / "clips" / f"{i}.wav"), sound, 16_000)
    return [f"clips/{i}.wav" for i in range(RECORDINGS)]


def _recording(folder: Path, i: int) -> str:
    """A recording like no other: half a second at 1 kHz, a thousand in a folder."""
    name = f"own/{i // 1000:04d}/{i:07d}.wav"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(folder / name), "wb") as file:
        file.setparams((1, 2, 1_000, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(i).integers(-3_000, 3_000, 500, dtype=np.int16).tobytes())
    return name


def _codes(draw: random.Random) -> Iterator[str]:
    """Codes of rows as JSON, as `json.dumps` writes them: frames that were drawn, in an order of their own."""
    frames = [json.dumps(draw.choices(range(CODEBOOK_SIZE), k=CODEBOOKS)) for _ in range(DISTINCT)]
    while True:
        yield "[" + ", ".join(draw.choices(frames, k=FRAMES)) + "]"


def recipe(kind: str, folder: Path) -> Path:
    """A recipe that reads the manifest in one stage."""
    dataset = {"kind": "text" if kind == "text" else "speech", "language": "malay", "path": f"{kind}.jsonl"}
    stage = {"id": "one", "data": ["data"], "epochs": 1, **STAGES["text" if kind == "text" else "audio"]}
    value = {
        "qrecipe": 1,
        "name": f"rows-{kind}",
        "version": "0.1.0",
        "base": {"model": "builtin:mini"},
        "languages": {"malay": {"bcp47": "ms", "init": {"copy": "spanish"}}},
        "datasets": {"data": dataset},
        "stages": [stage],
    }
    path = folder / f"{kind}.yaml"
    path.write_text(json.dumps(value))
    return path


def measured(verb: str, file: Path, cache: Path) -> dict[str, Any]:
    """One command in a process of its own; memory is that of its largest process, and of all where it starts others."""
    environment = {**os.environ, "QRECIPE_CACHE": str(cache)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "qrecipe", verb, str(file)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        time.sleep(0.05)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.returncode == 0, f"{verb} ended with {process.returncode}"
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 1), "processor": round(processor, 1), "GB": round(peak / 1e9, 2)}


def _memory(process: int) -> int:
    """Bytes of a process and of those that it started; pages that they share count once a process."""
    total = 0
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0
    return total + sum(_memory(int(child)) for child in children)


def main() -> None:
    """Prints a row of a table for each kind and verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default="text,audio,codes")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--work", type=Path, help="Where the manifests are made and stay; default: a temporary folder.")
    arguments = parser.parse_args()
    print("| rows | command | seconds | processor | GB |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for kind in arguments.kinds.split(","):
            if not (folder / f"{kind}.jsonl").exists():
                manifest(kind, arguments.rows, folder)
            for verb in ("validate", "plan"):
                with tempfile.TemporaryDirectory() as cache:
                    for what in (verb, f"{verb} again") if kind == "recordings" else (verb,):
                        result = measured(verb, recipe(kind, folder), Path(cache))
                        print(f"| {arguments.rows:,} of {kind} | {what} |", " | ".join(map(str, result.values())), "|", flush=True)


if __name__ == "__main__":
    main()
