"""Measuring metrics of a model over a dataset: teacher-forced, or by speaking every prompt with every seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch

from qrecipe.data.audio import RATE, resample
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.evaluate.metrics import Sample, TeacherForced
from qrecipe.model import forward, prompt, speak
from qrecipe.model.forward import Tables
from qrecipe.model.opened import Opened
from qrecipe.recipe.gate import Layout, PromptKind
from qrecipe.recipe.metrics import MetricSpec, find
from qrecipe.recipe.recipe import Evaluation

FRAMES_AT_ONCE = 2000
"""Frames of teacher-forced rows in one batch, padding included."""
MIN_CAP = 25
"""Frames below which generation is never cut (two seconds)."""


@dataclass(frozen=True)
class Value:
    """One measured number."""

    line: int
    """Line of the manifest."""
    layout: Layout
    seed: int | None
    """None for teacher-forced metrics."""
    value: float

    def as_json(self) -> dict[str, Any]:
        """For the store of evaluations."""
        return asdict(self)


Progress = Callable[[str, int, int], None]
"""Told (what, done, of)."""


def function_of(spec: MetricSpec) -> Callable[[Any], float]:
    """The function that measures a metric, imported when it is needed."""
    module, name = spec.function.split(":")
    found: Callable[[Any], float] = getattr(import_module(module), name)
    return found


def teacher_forced(
    opened: Opened,
    tables: Tables,
    data: SpeechData,
    layout: Layout,
    kind: PromptKind | None,
    language: str | None = None,
    rows: Sequence[SpeechRow] | None = None,
) -> list[tuple[SpeechRow, TeacherForced]]:
    """Negative log-likelihoods of every row, in the dataset's order.

    `language` overrides the dataset's (`auto` for none); rows are batched by length, which changes no result beyond
    rounding since attention is causal and padding stands on the right.
    """
    rows = data.rows if rows is None else rows
    row_of_language = opened.language_row(language or data.language)
    ids = prompt.ControlIds.of(opened.config)
    results: dict[int, TeacherForced] = {}
    order = sorted(range(len(rows)), key=lambda i: (rows[i].frames, i))
    batch: list[int] = []
    for position, i in enumerate(order):
        batch.append(i)
        following = rows[order[position + 1]].frames if position + 1 < len(order) else None
        if following is not None and following * (len(batch) + 1) <= FRAMES_AT_ONCE:
            continue
        examples = [data.example(rows[j], row_of_language, layout, kind, opened.tokenizer) for j in batch]
        laid = prompt.collate(examples, ids).to(opened.device)
        with torch.no_grad(), opened.autocast():
            logits = forward.speech_logits(tables, laid, opened.compute_dtype)
            talker = forward.talker_nll(logits, laid).double().cpu()
            predictor = forward.predictor_nll(logits, laid).double().cpu()
        labels = frames = 0
        for j, example in zip(batch, examples, strict=True):
            n = example.codes.shape[0]
            results[j] = TeacherForced(float(talker[labels : labels + example.labels].mean()), float(predictor[frames : frames + n].mean()))
            labels += example.labels
            frames += n
        batch = []
    return [(rows[i], results[i]) for i in range(len(rows))]


def cap_of(row: SpeechRow, settings: Evaluation) -> int:
    """Frames at which the generation of a row is cut."""
    return max(MIN_CAP, int(settings.frame_cap * row.frames))


def generated(
    opened: Opened, data: SpeechData, layout: Layout, settings: Evaluation, progress: Progress | None = None
) -> list[tuple[int, Sample]]:
    """Speaks the dataset's prompts with every seed: (seed, sample) in order. Batches are fixed by the settings."""
    rows = [r for r in data.rows if r.reference is not None][: settings.prompts]
    samples: list[tuple[int, Sample]] = []
    total = len(rows) * len(settings.seeds)
    for seed in settings.seeds:
        for start in range(0, len(rows), settings.batch):
            chunk = rows[start : start + settings.batch]
            samples += [(seed, s) for s in _speak(opened, data, chunk, layout, settings, seed)]
            if progress is not None:
                progress(f"speaking {data.name} ({layout})", len(samples), total)
    return samples


def _speak(opened: Opened, data: SpeechData, rows: list[SpeechRow], layout: Layout, settings: Evaluation, seed: int) -> list[Sample]:
    utterances = []
    for row in rows:
        assert row.reference is not None
        in_context = settings.prompt != "x_vector" and row.reference_text is not None
        utterances.append(
            speak.Utterance(
                text=row.text,
                language=data.language,
                x_vector=data.x_vectors[row.reference],
                reference_text=row.reference_text if in_context else None,
                reference_codes=data.reference_codes.get(row.reference) if in_context else None,
            )
        )
    caps = [cap_of(r, settings) for r in rows]
    spoken = speak.speak(opened, utterances, layout=layout, seed=seed, max_frames=max(caps))
    found = []
    for row, utterance, cap, said in zip(rows, utterances, caps, spoken, strict=True):
        audio = resample(said.audio, said.rate)
        if len(audio) < RATE // 10:  # the speaker encoder needs a few mel frames
            audio = np.pad(audio, (0, RATE // 10 - len(audio)))
        found.append(Sample(row, said, cap, opened.x_vector(audio), utterance.x_vector))
    return found


def measure(
    opened: Opened,
    data: SpeechData,
    metrics: Sequence[str],
    settings: Evaluation,
    progress: Progress | None = None,
    on_samples: Callable[[Layout, list[tuple[int, Sample]]], None] | None = None,
) -> dict[str, list[Value]]:
    """Values of metrics over a dataset in every layout of the settings. The modules must hold the weights as exported."""
    specs = [s for s in (find(m) for m in metrics) if s is not None]
    forced = [s for s in specs if s.source == "teacher_forced"]
    spoken = [s for s in specs if s.source == "generated"]
    values: dict[str, list[Value]] = {s.name: [] for s in specs}
    tables = Tables(opened.talker)
    for layout in settings.layouts:
        if forced:
            for row, item in teacher_forced(opened, tables, data, layout, settings.prompt):
                for spec in forced:
                    values[spec.name].append(Value(row.line, layout, None, function_of(spec)(item)))
        if spoken:
            samples = generated(opened, data, layout, settings, progress)
            if on_samples is not None:
                on_samples(layout, samples)
            for seed, sample in samples:
                for spec in spoken:
                    values[spec.name].append(Value(sample.row.line, layout, seed, function_of(spec)(sample)))
    return values
