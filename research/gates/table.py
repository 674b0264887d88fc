"""Which gate catches which fault: real recordings, and the same ones spoilt, under the recommended gates.

Writes the table of research/gates/README.md to standard output, as Markdown. A column is a kind of recording, a cell what the gate
measured and decided. Nothing is generated, so no model is needed::

    pip install '.[asr,asr-model,mos,speaker]'
    python research/gates/table.py recipes/data/malay/dev.jsonl --tag ms --reference recipes/data/malay/ref.ogg --other FOLDER

FOLDER holds the same texts in files of the same names, spoken by another voice; research/demo_data/make.py makes them
with `VOICE = "jf_alpha"`. Without it that column is the same voice six semitones higher.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from qrecipe.data.audio import load
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.evaluate.corruptions import CORRUPTIONS
from qrecipe.evaluate.evaluators import EvaluatorChoice, EvaluatorSet
from qrecipe.evaluate.gates import judge
from qrecipe.evaluate.measure import measure_samples
from qrecipe.evaluate.probe import corruptions_for as must_notice
from qrecipe.evaluate.samples import Sample, recorded
from qrecipe.evaluate.values import Value
from qrecipe.qwen3 import FRAME_SAMPLES
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.metrics import find
from qrecipe.recipe.recipe import Evaluation
from qrecipe.store import Journal

GATES: list[dict[str, Any]] = [
    {"metric": "cer", "max_over_floor": 0.05},
    {"metric": "cer", "max": 0.25},
    {"metric": "repeated_words", "max": 0.05},
    {"metric": "duration_ratio", "min": 0.8},
    {"metric": "duration_ratio", "max": 1.25},
    {"metric": "early_stop_rate", "max": 0.15},
    {"metric": "runaway_rate", "max": 0.15},
    {"metric": "silence_share", "max_over_floor": 0.1},
    {"metric": "speaker_similarity", "min": 0.75},
    {"metric": "mos", "max_decrease": 0.3, "baseline": "recordings"},
    {"metric": "f0_correlation", "min": 0.6},
]
"""The gates that docs/gates.md recommends."""
COLUMNS = ("transcripts", "cut", "stub", "doubled", "endless", "gaps", "reversed", "noise", "voice", "flat")
MARK = {"pass": "pass", "fail": "**fail**", "undecided": "undecided"}


def rows_of(manifest: Path, reference: Path, prompts: int) -> SpeechData:
    """Rows of a manifest with as many frames as they last, without codes that say anything."""
    rows = []
    for line, text in enumerate(manifest.read_text(encoding="utf-8").splitlines()[:prompts], start=1):
        entry = json.loads(text)
        path = manifest.parent / entry["audio"]
        codes = torch.zeros((len(load(path, 60.0).samples) // FRAME_SAMPLES, 1), dtype=torch.int64)
        rows.append(SpeechRow(line, entry["text"], [], [], codes, 1.0, 0.0, "", reference, None, False, path))
    return SpeechData(manifest.stem, "target", rows)


def main() -> int:
    """Prints the table; 1 if a gate passes a fault that it is there to notice, or fails good recordings."""
    parser = argparse.ArgumentParser(description="Which gate catches which fault.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--tag", required=True, help="BCP 47 tag of the texts")
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--other", type=Path, help="the same clips in another voice")
    parser.add_argument("--asr", default="wheel:whisper-base")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--memory", type=Path, help="what was heard before")
    arguments = parser.parse_args()
    settings = Evaluators.model_validate({"asr": {"model": arguments.asr}, "speaker": {"backend": "resemblyzer"}})
    journal = Journal(arguments.memory)
    evaluators = EvaluatorSet(cast(Any, None), None, EvaluatorChoice(settings, Path.cwd(), {"target": arguments.tag}), journal=journal)
    data = rows_of(arguments.manifest, arguments.reference, arguments.prompts)
    natural = recorded(data, Evaluation(), evaluators)
    columns: dict[str, list[Sample]] = {"recordings": natural, **{name: CORRUPTIONS[name](natural) for name in COLUMNS}}
    if arguments.other is not None:
        columns["voice"] = [_spoken_by(s, arguments.other) for s in natural]
    good = True
    print("| gate | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for fields in GATES:
        gate = Gate.model_validate({"data": "dev", **fields})
        spec = find(gate.metric)
        assert spec is not None
        values = {name: _measured(gate.metric, samples, evaluators, data) for name, samples in columns.items()}
        cells = []
        for name, found in values.items():
            verdict = judge(gate, spec, found, values["recordings"], values["recordings"])
            noticed = name == "recordings" or name in must_notice(gate, spec)
            wanted = "pass" if name == "recordings" else "fail"
            good = good and (not noticed or verdict.outcome == wanted)
            value = "-" if verdict.measured is None else f"{verdict.measured:.2f}"
            cells.append(f"{value} {MARK[verdict.outcome]}" if noticed else f"{value} {verdict.outcome}")
        print(f"| `{gate.label().replace('(dev)', '')}` | " + " | ".join(cells) + " |", flush=True)
    return 0 if good else 1


def _measured(metric: str, samples: Sequence[Sample], evaluators: EvaluatorSet, data: SpeechData) -> list[Value]:
    spec = find(metric)
    assert spec is not None
    print(f"{metric}: {len(samples)} recordings", file=sys.stderr, flush=True)
    return measure_samples(samples, [spec], evaluators, data.rows)[metric]


def _spoken_by(sample: Sample, folder: Path) -> Sample:
    assert sample.row.audio is not None
    audio = load(folder / sample.row.audio.name, 60.0).samples
    return replace(sample, audio=audio, codes=torch.zeros((len(audio) // FRAME_SAMPLES, 1), dtype=torch.int64))


if __name__ == "__main__":
    sys.exit(main())
