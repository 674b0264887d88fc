"""Measuring metrics of a model over a dataset: teacher-forced, or by speaking every prompt with every seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch

from qrecipe.data.audio import RATE, load, resample
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.evaluate.listeners import Listeners
from qrecipe.evaluate.metrics import Ratio, Sample, TeacherForced
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
    weight: float = 1.0
    """Weight of the value in a mean over prompts: the denominator of a ratio."""

    def as_json(self) -> dict[str, Any]:
        """For the store of evaluations."""
        return asdict(self)


Progress = Callable[[str, int, int], None]
"""Told (what, done, of)."""
Kept = Callable[[Any, Callable[[], list[speak.Spoken]]], list[speak.Spoken]]
"""Gives the speech of a batch by its key, or has it made and keeps it."""


def function_of(spec: MetricSpec) -> Callable[[Any], float | Ratio]:
    """The function that measures a metric, imported when it is needed."""
    module, name = spec.function.split(":")
    found: Callable[[Any], float | Ratio] = getattr(import_module(module), name)
    return found


def value_of(spec: MetricSpec, item: Any, line: int, layout: Layout, seed: int | None) -> Value | None:
    """One value of a metric; None for a ratio without a denominator (a text without letters)."""
    found = function_of(spec)(item)
    if not isinstance(found, Ratio):
        return Value(line, layout, seed, float(found))
    if not found.denominator:
        return None
    return Value(line, layout, seed, found.numerator / found.denominator, float(found.denominator))


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


def spoken_rows(data: SpeechData, settings: Evaluation) -> list[SpeechRow]:
    """The rows that are spoken, those of a like length together: a batch lasts as long as its longest."""
    rows = [r for r in data.rows if r.reference is not None][: settings.prompts]
    return sorted(rows, key=lambda r: (r.frames, r.line))


def generated(
    opened: Opened,
    data: SpeechData,
    layout: Layout,
    settings: Evaluation,
    listeners: Listeners,
    progress: Progress | None = None,
    kept: Kept | None = None,
) -> list[tuple[int, Sample]]:
    """Speaks the dataset's prompts with every seed: (seed, sample). Batches are fixed by the settings."""
    rows = spoken_rows(data, settings)
    samples: list[tuple[int, Sample]] = []
    total = len(rows) * len(settings.seeds)
    for seed in settings.seeds:
        for start in range(0, len(rows), settings.batch):
            chunk = rows[start : start + settings.batch]
            samples += [(seed, s) for s in _speak(opened, data, chunk, layout, settings, seed, listeners, kept)]
            if progress is not None:
                progress(f"speaking {data.name} ({layout})", len(samples), total)
    return samples


def _speak(
    opened: Opened,
    data: SpeechData,
    rows: list[SpeechRow],
    layout: Layout,
    settings: Evaluation,
    seed: int,
    listeners: Listeners,
    kept: Kept | None,
) -> list[Sample]:
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

    def make() -> list[speak.Spoken]:
        return speak.speak(opened, utterances, layout=layout, seed=seed, max_frames=max(caps))

    spoken = make() if kept is None else kept([layout, seed, [r.line for r in rows], caps], make)
    found = []
    for row, utterance, cap, said in zip(rows, utterances, caps, spoken, strict=True):
        audio = resample(said.audio, said.rate)
        if len(audio) < RATE // 10:  # the speaker encoder needs a few mel frames
            audio = np.pad(audio, (0, RATE // 10 - len(audio)))
        found.append(Sample(row, audio, said.codes, cap, data.language, listeners, utterance.x_vector))
    return found


def recorded(data: SpeechData, settings: Evaluation, listeners: Listeners) -> list[Sample]:
    """The recordings of the rows that are spoken, as if they had been generated: what a metric finds in real speech."""
    found = []
    for row in spoken_rows(data, settings):
        if row.audio is not None and row.reference is not None:
            audio = load(row.audio, math.inf).samples
            found.append(Sample(row, audio, row.codes, cap_of(row, settings), data.language, listeners, data.x_vectors[row.reference]))
    return found


def measure_recordings(
    data: SpeechData, metrics: Sequence[str], settings: Evaluation, listeners: Listeners, progress: Progress | None = None
) -> dict[str, list[Value]]:
    """Values of metrics of generated speech over the recordings themselves, in the layout's place that of the first."""
    specs = [s for s in (find(m) for m in metrics) if s is not None]
    values: dict[str, list[Value]] = {s.name: [] for s in specs}
    samples = recorded(data, settings, listeners)
    for i, sample in enumerate(samples):
        for spec in specs:
            value = value_of(spec, sample, sample.row.line, settings.layouts[0], None)
            if value is not None:
                values[spec.name].append(value)
        if progress is not None:
            progress(f"listening to the recordings of {data.name}", i + 1, len(samples))
    return values


def measure(
    opened: Opened,
    data: SpeechData,
    metrics: Sequence[str],
    settings: Evaluation,
    listeners: Listeners,
    progress: Progress | None = None,
    on_samples: Callable[[Layout, list[tuple[int, Sample]]], None] | None = None,
    kept: Kept | None = None,
) -> dict[str, list[Value]]:
    """Values of metrics over a dataset in every layout of the settings. The modules must hold the weights as exported."""
    specs = [s for s in (find(m) for m in metrics) if s is not None]
    forced = [s for s in specs if s.source == "teacher_forced"]
    spoken = [s for s in specs if s.source == "generated"]
    values: dict[str, list[Value]] = {s.name: [] for s in specs}
    tables = Tables(opened.talker)

    def add(spec: MetricSpec, item: Any, line: int, layout: Layout, seed: int | None) -> None:
        value = value_of(spec, item, line, layout, seed)
        if value is not None:
            values[spec.name].append(value)

    for layout in settings.layouts:
        if forced:
            for row, item in teacher_forced(opened, tables, data, layout, settings.prompt):
                for spec in forced:
                    add(spec, item, row.line, layout, None)
        if spoken:
            samples = generated(opened, data, layout, settings, listeners, progress, kept)
            if on_samples is not None:
                on_samples(layout, samples)
            for i, (seed, sample) in enumerate(samples):
                for spec in spoken:
                    add(spec, sample, sample.row.line, layout, seed)
                if progress is not None and any(s.needs for s in spoken):
                    progress(f"listening to {data.name} ({layout})", i + 1, len(samples))
    return values
