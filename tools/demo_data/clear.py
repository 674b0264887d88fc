r"""Chooses, out of the Malay clips of the demo, the half that the embedded base's speech tokenizer keeps clearest.

A talker learns to say what the speech tokenizer made of its recordings. This one garbles some clips beyond what Whisper
understands, though it understands the recordings; who learns from those learns to garble. So every clip of ``train.jsonl`` goes
through the speech tokenizer and back, Whisper base listens, and the half with the lowest character error rate is written,
in the order of ``train.jsonl``, to ``clear.jsonl``, which the demo's recipe trains on.

    OMP_NUM_THREADS=1 python tools/demo_data/clear.py                # needs qrecipe[asr,asr-model]
    OMP_NUM_THREADS=1 python tools/demo_data/clear.py --first 20     # says the rates of the first clips, writes nothing

Rounding on another processor can move a clip's rate, and so which side of the middle a few clips fall on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import jiwer
import soundfile
import torch
from qwen_tts import Qwen3TTSTokenizer

from qrecipe.builtin import mini
from qrecipe.data.audio import RATE
from qrecipe.errors import Place
from qrecipe.evaluate.asr import FasterWhisper
from qrecipe.evaluate.listeners import resampled
from qrecipe.evaluate.normalise import normalise
from qrecipe.evaluate.wheels import materialise
from qrecipe.files import FileHashes, write_text
from qrecipe.plan.evaluators import find
from qrecipe.recipe.evaluator import Asr, Evaluators

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "recipes" / "data" / "malay"


def whisper() -> FasterWhisper:
    """The recogniser of the demo's gates."""
    asr, place = Asr(backend="faster_whisper", model="wheel:whisper-base"), Place("clear.py")
    found, problems = find("asr", Evaluators(asr=asr), ROOT, place, FileHashes())
    if problems:
        raise SystemExit(f"clear.py: {problems[0].message}")
    return FasterWhisper(asr, materialise(found, place))


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--first", type=int, help="only so many clips, and write nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = (DATA / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    listener = whisper()
    tokenizer = Qwen3TTSTokenizer.from_pretrained(str(mini.folder() / "speech_tokenizer"), dtype=torch.float32)
    rates: list[float] = []
    for number, line in enumerate(lines[: given.first], 1):
        row = json.loads(line)
        samples = soundfile.read(DATA / row["audio"], dtype="float32")[0]
        kept = tokenizer.decode(tokenizer.encode([samples], sr=RATE))[0][0]
        wanted = normalise(row["text"], "ms")
        found = jiwer.process_characters(wanted, normalise(listener.transcribe(resampled(kept), "ms"), "ms"))
        rates.append(min(1.0, (found.substitutions + found.deletions + found.insertions) / len(wanted)))
        print(f"{number}/{len(lines)} {row['audio']} {rates[-1]:.3f}", flush=True)
    if given.first is None:
        best = sorted(range(len(lines)), key=rates.__getitem__)[: len(lines) // 2]
        write_text(DATA / "clear.jsonl", "".join(lines[i] for i in sorted(best)))
        print(f"{len(best)} clips, the worst at {max(rates[i] for i in best):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
