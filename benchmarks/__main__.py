"""Measures rows of a table, each in a process of its own, and writes `OUT/rows/NAME.json`, `OUT/results.json` and `OUT/table.md`.

Nothing large is written there: bases and kept states lie under `--work`.

A row that is there already is not measured again, so that the same command goes on where it was stopped. A row that fails or
takes longer than it may is written down in `OUT/rows/NAME.error.txt` and tried again after the others:

    python -m benchmarks gpu --out measured --minutes 9           on one GPU; again until it says that all rows are there
    python -m benchmarks gpu --stock ~/Qwen3-TTS                  with the public script, from `git clone https://github.com/QwenLM/Qwen3-TTS`
    torchrun --nproc-per-node 2 -m benchmarks.scale --out measured    one GPU beside two, and the memory of small cards
    OMP_NUM_THREADS=1 python -m benchmarks cpu --out measured     the demo's stages, encoding and speaking on a CPU, and what a
                                                                  host does for a GPU's steps
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

GPU = [
    "predictor", "rows", "layers", "stock", "stock-predictor", "everything", "lora", "agreement", "encoding", "recordings", "speaking", "whole",
    "respell",
    "predictor-4096", "upper", "rows-both", "predictor-again", "rows-plain", "predictor-plain", "layers-plain",
]  # fmt: skip
"""What decides first comes first."""
CPU = ["demo-language", "demo-talker", "encoding", "speaking", "host-rows", "host-predictor", "host-layers", "host-lora"]
LEAST = 20.0
"""Seconds that a row needs to be worth beginning."""
SOFT = 0.75
"""Of its share, after which a row finishes with the stretches that it has."""
SHOWN = (
    "frames/s",
    "caching frames/s",
    "peak GB",
    "reserved GB",
    "estimated GB",
    "ms a step",
    "GPU's own ms a step",
    "processor ms a step",
    "host ms a step",
    "laying out ms",
    "first step s",
    "s a step",
    "s a look",
)
TOLD = ("what", "row", "machine", "versions", "date", "shape", "losses", "steps", "seconds in all")
"""What stands beside the table."""


def main() -> int:
    """Measures what is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("where", choices=("gpu", "cpu"))
    parser.add_argument("--out", type=Path, default=Path("measured"))
    parser.add_argument("--rows", help="names, by commas; default: all")
    parser.add_argument("--minutes", type=float, default=9.0, help="no row goes on for longer than this")
    parser.add_argument("--share", type=float, default=100.0, help="seconds that one row may take, beside --prepare")
    parser.add_argument(
        "--prepare", type=float, default=240.0, help="seconds more for what comes before: compiling, caching, a batch too large"
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "qrecipe-benchmarks", help="folder for what is large")
    parser.add_argument("--shape", choices=("1.7b", "0.6b", "mini"), default="1.7b", help="of the GPU's rows")
    parser.add_argument("--steps", type=int, default=10, help="in each of three stretches")
    parser.add_argument("--frames", type=int, help="of a step, instead of each row's own")
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--hours", type=float, default=2.0, help="of recordings, in the rows `recordings` and `whole`")
    parser.add_argument("--prompts", type=int, default=64, help="of each language, in the row `whole`")
    parser.add_argument("--sentences", type=int, default=1000, help="in the row `respell`")
    parser.add_argument("--stock", type=Path, help="a checkout of github.com/QwenLM/Qwen3-TTS; without it those rows are left out")
    parser.add_argument("--profile", action="store_true", help="also write rows/NAME.profile.txt: what two more steps spend their time on")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ends", type=float, default=float("inf"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        given.work.mkdir(parents=True, exist_ok=True)
        _replace(given.result, json.dumps(_measure(given.one, given)) + "\n")
        return 0
    names = given.rows.split(",") if given.rows else GPU if given.where == "gpu" else CPU
    if given.stock is None:
        names = [n for n in names if not n.startswith("stock")]
    (given.out / "rows").mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + given.minutes * 60
    command = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
    for name in sorted(names, key=lambda n: (given.out / "rows" / f"{n}.error.txt").exists()):
        left = ends - time.monotonic()
        if left < LEAST:
            break
        if not (given.out / "rows" / f"{name}.json").is_file():
            print(f"{name}: {_row(command, name, given.out / 'rows', given.share, min(left, given.share + given.prepare))}", flush=True)
            _write(given.out, names)
    missing = _write(given.out, names)
    print((given.out / "table.md").read_text())
    print(f"missing: {', '.join(missing)}; the same command goes on" if missing else "all rows are there")
    return 0


def _row(command: list[str], name: str, rows: Path, share: float, seconds: float) -> str:
    """Measures a row in a process of its own, which ends after so many seconds with all that it started; says in one line what came out.

    `share` are those after a first step.
    """
    file, failed, log = rows / f"{name}.json", rows / f"{name}.error.txt", rows / f"{name}.log"
    options = ["--one", name, "--result", str(file), "--share", str(SOFT * share), "--ends", str(SOFT * seconds)]
    began = time.monotonic()
    with open(log, "w") as said:  # no pipe: what a compiler starts would hold it open
        process = subprocess.Popen([*command, *options], stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    took = time.monotonic() - began
    if file.is_file():
        failed.unlink(missing_ok=True)
        log.unlink()
        found = json.loads(file.read_text())
        return "; ".join(f"{k} {_plain(v)}" for k, v in found.items() if k not in TOLD) + f" ({took:.0f} s)"
    os.replace(log, failed)
    lines = failed.read_text().strip().splitlines()
    if code is None:
        return f"cut after {took:.0f} s, all that it may take; what it said is in {failed}"
    return f"failed after {took:.0f} s: {(lines or ['?'])[-1][:200]}; all of it is in {failed}"


def _measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    import torch

    from benchmarks import demo, host, speech, stock, training, whole

    device = torch.device("cuda" if given.where == "gpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = name != "agreement"
    began = time.perf_counter()
    if name in training.CASES:
        profile = given.out / "rows" / f"{name}.profile.txt" if given.profile else None
        found = training.run(name, given.shape, device, given.steps, given.clips, profile, given.frames, given.share, began + given.ends)
    elif name == "agreement":
        found = training.agreement(given.shape, device)
    elif name.startswith("demo-"):
        found = demo.run(name.removeprefix("demo-"), min(given.steps, 8))
    elif name.startswith("host-"):
        found = host.run(name.removeprefix("host-"), given.steps)
    elif name == "encoding":
        found = speech.encoding(_spoken(given), 15.0 if device.type == "cuda" else 2.0)
    elif name == "recordings":
        found = speech.recordings(_spoken(given), given.work, given.hours)
    elif name == "speaking":
        found = speech.speaking(_spoken(given), *(([1, 8, 64, 256], 120, 10) if device.type == "cuda" else ([1, 16], 60, 20)))
    elif name == "whole":
        found = whole.run(_spoken(given), given.work, given.hours, given.prompts)
    elif name == "respell":
        found = whole.respelled(_spoken(given), given.work, given.sentences)
    else:
        only = "talker.code_predictor" if name == "stock-predictor" else None
        found = stock.run(given.stock, _base(given), given.work, given.steps, only)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    versions = {"python": platform.python_version(), **{p: version(p) for p in ("torch", "transformers", "qwen-tts")}}
    about = {"seconds in all": round(time.perf_counter() - began, 1), "date": time.strftime("%Y-%m-%d")}
    return {"row": name, **found, **about, "shape": given.shape if given.where == "gpu" else "mini", "machine": where, "versions": versions}


def _spoken(given: argparse.Namespace) -> str:
    """The base that encodes and speaks."""
    return "builtin:mini" if given.where == "cpu" or given.shape == "mini" else str(_base(given))


def _base(given: argparse.Namespace) -> Path:
    """A base folder of the shape with random weights, for what opens one; made once."""
    from tests.gpu.random_base import write

    folder: Path = given.work / f"base-{given.shape}"
    if not (folder / "model.safetensors").is_file() or not (folder / "speech_tokenizer" / "config.json").is_file():
        write(given.shape, folder)
    return folder.resolve()


def _write(out: Path, names: list[str]) -> list[str]:
    """The results so far; returns the rows that are missing."""
    rows = [json.loads(f.read_text()) for f in (out / "rows" / f"{n}.json" for n in names) if f.is_file()]
    _replace(out / "results.json", json.dumps(rows, indent=1) + "\n")
    shown = [key for key in SHOWN if any(key in r for r in rows)]
    lines = ["| row | " + " | ".join(shown) + " | else |", "|" + "---|" * (len(shown) + 2)]
    for r in rows:
        rest = "; ".join(f"{k} {_plain(v)}" for k, v in r.items() if k not in {*SHOWN, *TOLD, "stretches"})
        lines.append(f"| {r['what']} | " + " | ".join(_plain(r.get(k, "")) for k in shown) + f" | {rest} |")
    if rows:
        lines += ["", f"{rows[0]['machine']}, {rows[0]['shape']}, {rows[0]['date']}, {rows[0]['versions']}"]
    _replace(out / "table.md", "\n".join(lines) + "\n")
    return [n for n in names if not (out / "rows" / f"{n}.json").is_file()]


def _replace(file: Path, text: str) -> None:
    temporary = file.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, file)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    return ", ".join(_plain(v) for v in value) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    sys.exit(main())
