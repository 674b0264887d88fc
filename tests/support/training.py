"""Stages that take a second: four recordings, a language row, a learner of the embedded base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.errors import Place
from qrecipe.model.load import LoadedBase
from qrecipe.model.weights import Delta, Learner, parameters
from qrecipe.plan import trainable
from qrecipe.recipe.stage import SpeechStage, Stage
from qrecipe.source.reader import Node
from qrecipe.train.observer import Observer, StepReport
from tests.support import audio

ROW = 2072
REFERENCE = Path("reference.wav")
LANGUAGE = {"match": "talker.model.codec_embedding", "rows": "languages", "lr": 5e-3}
PROJECTION = {"match": "talker.text_projection", "lr": 2e-3}


def speech_data(opened: LoadedBase, voice: Any, texts: list[str], language: str, first: int = 0, cut: bool = False) -> SpeechData:
    rows = []
    for i, text in enumerate(texts):
        role, body = opened.tokenizer.assistant(text)
        codes = opened.encode([audio.speech(first + i, 0.64 + 0.08 * i)])[0]
        rows.append(SpeechRow(i + 1, text, role, body, codes, 1.0, 0.0, "", REFERENCE, None, cut))
    return SpeechData(language, language, rows, x_vectors={REFERENCE: voice.x_vector})


def speech_stage(*train: dict[str, Any], **changes: Any) -> SpeechStage:
    fields = {"id": "s", "objective": "speech", "data": ["malay"], "steps": 3, "warmup": 0.0, "schedule": "constant", "train": list(train)}
    return SpeechStage.model_validate({**fields, "batch": {"frames": 200}, **changes})


def learner_of(opened: LoadedBase, stage: Stage, seen: list[int] | None = None) -> tuple[Learner, trainable.Trainable]:
    tensors = {k: tuple(v.shape) for k, v in parameters(opened.net).items()}
    found, problems = trainable.resolve(stage, Node({}, Place("r.yaml")), tensors, {"malay": ROW}, seen)
    assert not problems
    return Learner(opened.net, found, Delta(), stage.masters), found


@dataclass
class Recorder(Observer):
    """Keeps what a stage reports; `on_step` is called as well."""

    on_step: Callable[[StepReport], None] | None = None
    steps: list[StepReport] = field(default_factory=list)
    selections: list[tuple[int, float, bool]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    shown: list[dict[str, Any]] = field(default_factory=list)

    def step(self, report: StepReport) -> None:
        self.steps.append(report)
        if self.on_step is not None:
            self.on_step(report)

    def selected(self, step: int, value: float, best: bool) -> None:
        self.selections.append((step, value, best))

    def event(self, kind: str, **fields: object) -> None:
        self.events.append({"event": kind, **fields})

    def progress(self, kind: str, **fields: object) -> None:
        self.shown.append({"event": kind, **fields})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == kind]
