"""Measuring metrics of a model over a dataset: teacher-forced, by speaking every prompt with every seed, or of recordings."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import chain, islice
from typing import Any

import torch

from qrecipe.data.speech import OnProgress, SpeechData, SpeechRow
from qrecipe.evaluate.evaluators import EvaluatorSet
from qrecipe.evaluate.metrics import Measurement, Ratio, TeacherForced
from qrecipe.evaluate.samples import Sample, Task, batches, generated, lengths, recorded, spoken_rows
from qrecipe.evaluate.values import Value
from qrecipe.model import forward, prompt
from qrecipe.model.batcher import CPU_CHUNK_FRAMES, AdaptiveBatcher, recording_too_large
from qrecipe.model.forward import Tables
from qrecipe.model.listening import MOST_AT_ONCE
from qrecipe.model.load import LoadedBase, pick_device
from qrecipe.model.threads import each_on_one
from qrecipe.phases import phase
from qrecipe.qwen3 import Layout, PromptKind
from qrecipe.recipe.metrics import LIKELIHOOD, MetricSpec, find
from qrecipe.recipe.recipe import Evaluation

GPU_CHUNK_FRAMES = 4000
"""Frames of teacher-forced rows in one batch on a GPU."""
READ = {"talker_nll": ("talker_nll",), "predictor_nll": ("predictor_nll",), "text_gain": ("talker_nll", "other_text_nll")}
"""Likelihoods that the built-in metrics read; a package's own metric may read both."""
LISTENED = 8
"""Samples that each rank listens to before the ranks tell one another what they measured."""
TOGETHER = {"cpu": 16, "cuda": MOST_AT_ONCE}
"""Samples that are transcribed and compared before the first of them is measured, by the device that listens."""
MEASURING = 1
"""Raised whenever a metric would give another number for the same sample."""


def function_of(spec: MetricSpec) -> Callable[[Any], Measurement]:
    """The function that measures a metric, imported when it is needed."""
    module, name = spec.function.split(":")
    function: Callable[[Any], Measurement] = getattr(import_module(module), name)
    return function


def number_of(spec: MetricSpec, item: Any) -> tuple[float, float] | None:
    """(value, weight) of an item; None where it has none: a ratio without a denominator, a pitch of no voiced frame."""
    measured = function_of(spec)(item)
    if isinstance(measured, Ratio):
        return (measured.numerator / measured.denominator, float(measured.denominator)) if measured.denominator else None
    return None if measured is None or not math.isfinite(measured) else (float(measured), 1.0)


@phase("likelihood")
def teacher_forced(
    opened: LoadedBase,
    tables: Tables,
    data: SpeechData,
    layout: Layout,
    kind: PromptKind | None,
    metrics: Collection[str] = LIKELIHOOD,
) -> list[tuple[SpeechRow, TeacherForced]]:
    """Negative log-likelihoods of every row, in the dataset's order; those that none of `metrics` reads are NaN.

    Rows are computed several at once, which changes no result beyond rounding.
    """
    read = {name for metric in metrics for name in READ.get(metric, LIKELIHOOD)}
    ask = {"with_talker": "talker_nll" in read, "with_predictor": "predictor_nll" in read}
    row_of_language = opened.language_row(data.language)
    ids = prompt.ControlIds.of(opened.config)

    def compute(part: Sequence[SpeechRow]) -> list[TeacherForced]:
        examples = [data.example(r, row_of_language, layout, kind, opened.tokenizer) for r in part]
        laid = prompt.collate(examples, ids).to(opened.device)
        with torch.no_grad(), opened.autocast():
            logits = forward.speech_logits(tables, laid, opened.compute_dtype, **ask)
            talker = forward.talker_nll(logits, laid).double().cpu() if ask["with_talker"] else laid.labels.double() * math.nan
            predictor = (
                forward.predictor_nll(logits, laid).double().cpu() if ask["with_predictor"] else laid.frame_codes.double() * math.nan
            )
        # labels and frames of all rows lie end to end
        likelihoods, labels, frames = [], 0, 0
        for example in examples:
            n = example.codes.shape[0]
            likelihoods.append(
                TeacherForced(float(talker[labels : labels + example.labels].mean()), float(predictor[frames : frames + n].mean()))
            )
            labels += example.labels
            frames += n
        return likelihoods

    limit = CPU_CHUNK_FRAMES if opened.device.type == "cpu" else GPU_CHUNK_FRAMES
    batcher: AdaptiveBatcher[SpeechRow] = AdaptiveBatcher(
        limit, lambda batch: sum(r.frames for r in batch), lambda r: recording_too_large(f"{data.name}:{r.line}")
    )
    by_length = sorted(data.rows, key=lambda r: (r.frames, r.line))
    results = _shared(opened, batcher, by_length, compute)
    # once more under other texts, which only the talker's loss reads
    if "other_text_nll" in read:
        ask["with_predictor"] = False
        exchanged = [r for r in map(_OtherTexts(data.rows).under, by_length) if r is not None]
        for line, item in _shared(opened, batcher, exchanged, compute).items():
            results[line] = replace(results[line], other_text_nll=item.talker_nll)
    return [(r, results[r.line]) for r in data.rows]


def _shared(
    opened: LoadedBase,
    batcher: AdaptiveBatcher[SpeechRow],
    rows: Sequence[SpeechRow],
    compute: Callable[[Sequence[SpeechRow]], list[TeacherForced]],
) -> dict[int, TeacherForced]:
    """Likelihoods by line. Ranks share out whole batches, and so do the threads of a CPU: their number changes no batch and no result."""
    batches = opened.world.share(batcher.split(rows))

    def measured(batch: Sequence[SpeechRow]) -> list[tuple[int, float, float]]:
        parts = batcher.run(batch, compute)
        return [(r.line, item.talker_nll, item.predictor_nll) for part, items in parts for r, item in zip(part, items, strict=True)]

    mine = list(chain.from_iterable(each_on_one(measured, batches) if opened.device.type == "cpu" else map(measured, batches)))
    computed = opened.world.exchange(mine, "measuring held-out recordings")
    return {line: TeacherForced(talker, predictor) for theirs in computed for line, talker, predictor in theirs}


class _OtherTexts:
    """Rows by the length of their text, so that none is compared with all others."""

    def __init__(self, rows: Sequence[SpeechRow]) -> None:
        self._rows: dict[int, list[SpeechRow]] = {}
        for row in rows:
            self._rows.setdefault(len(row.body), []).append(row)

    def under(self, row: SpeechRow) -> SpeechRow | None:
        """A row under the text of another one, the nearest in length, that says something else; None where all say the same."""
        length = len(row.body)
        for apart in range(max(abs(length - other) for other in self._rows) + 1):
            others = [r for at in {length - apart, length + apart} for r in self._rows.get(at, ()) if r.text != row.text]
            if others:
                other = min(others, key=lambda r: (abs(r.frames - row.frames), r.line))
                return replace(row, text=other.text, role=other.role, body=other.body)
        return None


def measure_samples(
    samples: Iterable[Sample], specs: Sequence[MetricSpec], evaluators: EvaluatorSet, rows: list[SpeechRow]
) -> dict[str, list[Value]]:
    """Values of metrics of generated speech over samples, each measured once. `rows` are all that are spoken."""
    values: dict[str, list[Value]] = {s.name: [] for s in specs}
    thirds = lengths(rows)
    for sample in _listened(samples, specs, evaluators):
        row = sample.row
        for spec in specs:
            number = _number(sample, spec, evaluators)
            if number is not None:
                value, weight = number
                place = (row.speaker, thirds[row.line])
                values[spec.name].append(Value(row.line, sample.layout, sample.seed, value, weight, sample.prompt, *place))
    return values


def _number(sample: Sample, spec: MetricSpec, evaluators: EvaluatorSet) -> tuple[float, float] | None:
    """(value, weight) of a sample by a metric, measured once for the same sound."""
    row = sample.row
    about = [spec.name, spec.function, MEASURING, evaluators.describe(spec, sample.language), sample.tag]
    compared = [row.text, row.frames, str(row.reference), str(row.audio), sample.cap, sample.frames]
    with phase("listening"):
        number: tuple[float, float] | None = evaluators.journal.get_or_make(
            ["value", about, sample.key, compared], partial(number_of, spec, sample)
        )
    return number


def _listened(samples: Iterable[Sample], specs: Sequence[MetricSpec], evaluators: EvaluatorSet) -> Iterator[Sample]:
    """Passes samples on. With several ranks each listens to its share of some, and they tell one another the answers."""
    world, journal = evaluators.world, evaluators.journal
    if world.alone:
        yield from samples
        return
    remaining = iter(samples)
    while block := list(islice(remaining, LISTENED * world.size)):
        for sample in heard_together(world.share(block), specs, evaluators):
            for spec in specs:
                _number(sample, spec, evaluators)
        for theirs in world.exchange(journal.take_new(), "listening"):
            journal.add(theirs)
        journal.take_new()
        yield from block


def heard_at_once() -> int:
    """Samples that evaluators are best given at once on this machine."""
    return TOGETHER[pick_device().type]


def heard_together(samples: Iterable[Sample], specs: Sequence[MetricSpec], evaluators: EvaluatorSet) -> Iterator[Sample]:
    """Passes samples on, several at once transcribed or compared before if a metric reads what was heard or whose voice it is."""
    needs = {s.needs for s in specs}
    remaining = iter(samples)
    while block := list(islice(remaining, heard_at_once() if needs & {"asr", "speaker"} else 1)):
        with phase("listening"):
            if "asr" in needs:
                evaluators.transcribe_all(block)
            if "speaker" in needs:
                evaluators.compare_all(block)
        yield from block


def measure_recordings(
    data: SpeechData, metrics: Sequence[str], settings: Evaluation, evaluators: EvaluatorSet, progress: OnProgress | None = None
) -> dict[str, list[Value]]:
    """Values of metrics of generated speech over the recordings themselves."""
    specs = [s for s in (find(m) for m in metrics) if s is not None]
    samples = recorded(data, settings, evaluators)
    heard = heard_together(samples, specs, evaluators) if evaluators.world.alone else samples
    reported = _reported(heard, f"listening to the recordings of {data.name}", len(samples), progress)
    return measure_samples(reported, specs, evaluators, spoken_rows(data, settings))


def measure(
    opened: LoadedBase,
    task: Task,
    metrics: Sequence[str],
    progress: OnProgress | None = None,
    on_sample: Callable[[Sample], None] | None = None,
) -> dict[str, list[Value]]:
    """Values of metrics over a dataset under every condition of the settings. The modules must hold the weights as exported.

    `on_sample` gets every sample after it was measured.
    """
    data, settings, evaluators = task.data, task.settings, task.evaluators
    specs = [s for s in (find(m) for m in metrics) if s is not None]
    values: dict[str, list[Value]] = {s.name: [] for s in specs}
    forced = [s for s in specs if s.source == "teacher_forced"]
    if forced:
        values.update(_forced(opened, data, forced, settings))
    spoken = [s for s in specs if s.source == "generated"]
    if spoken:
        made = list(generated(opened, task, progress))
        heard = heard_together(made, spoken, evaluators) if evaluators.world.alone else made
        total = sum(len(b.rows) for b in batches(data, settings))
        listens = progress if any(s.needs for s in spoken) else None
        samples = _reported(heard, f"listening to {task.label}", total, listens, on_sample)
        values.update(measure_samples(samples, spoken, evaluators, spoken_rows(data, settings)))
    return values


def _forced(opened: LoadedBase, data: SpeechData, specs: Sequence[MetricSpec], settings: Evaluation) -> dict[str, list[Value]]:
    tables = Tables(opened.talker)
    thirds = lengths(data.rows)
    values: dict[str, list[Value]] = {s.name: [] for s in specs}
    for layout in settings.layouts:
        for kind in settings.kinds:
            for row, item in teacher_forced(opened, tables, data, layout, kind, metrics=[s.name for s in specs]):
                actual: PromptKind = "in_context" if kind != "x_vector" and row.reference_text is not None else "x_vector"
                if kind is not None and actual != kind:
                    continue
                for spec in specs:
                    number = number_of(spec, item)
                    if number is not None:
                        values[spec.name].append(Value(row.line, layout, None, *number, actual, row.speaker, thirds[row.line]))
    return values


def _reported(
    samples: Iterable[Sample], what: str, of: int, progress: OnProgress | None, on_sample: Callable[[Sample], None] | None = None
) -> Iterable[Sample]:
    """Passes samples on and says how far the listening is."""
    for done, sample in enumerate(samples, start=1):
        yield sample
        if progress is not None:
            progress(what, done, of)
        if on_sample is not None:
            on_sample(sample)
