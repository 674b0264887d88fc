"""The base as a teacher: it speaks a recipe's lessons, what went wrong is dropped and counted, the rest becomes data."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

from qrecipe.data.audio import AudioProblem, rate_problem, resample
from qrecipe.data.codes import Encoder
from qrecipe.data.pieces import shared_out
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.data.taught import Taught, folder_of, speak_lesson
from qrecipe.errors import DataError
from qrecipe.evaluate.listeners import Listeners
from qrecipe.evaluate.measure import MEASURING, number_of
from qrecipe.evaluate.samples import Sample
from qrecipe.files import digest, read_sealed, sealed, write_json
from qrecipe.model.opened import Opened
from qrecipe.model.speak import sound
from qrecipe.model.weights import Delta
from qrecipe.model.working import WorkingWeights
from qrecipe.plan.bases import BaseInfo
from qrecipe.plan.plan import Planned
from qrecipe.plan.teaching import Lesson
from qrecipe.qwen3 import FRAMES_PER_SECOND
from qrecipe.recipe import metrics
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.stage import SpokenStage
from qrecipe.run.events import Events

FACTOR = 2.0
"""A sentence that is this many times slower or faster than the lesson's median did not come out right."""
AT_ONCE = 16
"""Sentences that are decoded at once for the recogniser, and kept together."""


@dataclass(frozen=True)
class Dropped:
    """Why a sentence is not learned."""

    sentence: int
    why: str
    """`runaway`, `rate`, `outruns` or `misheard`."""


def lessons_of(planned: Planned, stages: Iterable[str]) -> list[str]:
    """Datasets that the base speaks for these stages."""
    wanted = set(stages)
    names = {t.dataset for s in planned.plan.stages if s.id in wanted and OBJECTIVES[s.objective].speaks for t in s.taught}
    return [n for n in planned.teaching.lessons if n in names]


@dataclass
class Lessons:
    """What the base says in a run, made before the first stage that needs it."""

    planned: Planned
    base: BaseInfo
    opened: Opened
    encoder: Encoder
    working: WorkingWeights
    start: Delta
    """What the modules hold while the base speaks: its own weights, with new rows at their init."""
    events: Events
    said: dict[str, SpeechData] = field(default_factory=dict)
    """By dataset."""

    def prepare(self, stages: Iterable[str], now: Delta) -> None:
        """Has the base say what these stages learn from, as far as it has not yet. The modules hold `now` before and afterwards."""
        missing = [n for n in lessons_of(self.planned, stages) if n not in self.said]
        if missing:
            self.working.set(self.start)
            self.said |= teach(self.planned, self.base, self.opened, self.encoder, self.events, missing)
            self.working.set(now)


def teach(
    planned: Planned, base: BaseInfo, opened: Opened, encoder: Encoder, events: Events, names: Iterable[str]
) -> dict[str, SpeechData]:
    """Has the base speak lessons. Its modules must hold its own weights. Raises `DataError` if nothing of one can be used."""
    recipe = planned.loaded.recipe
    assert base.identity is not None, "the base is known"
    found = {}
    for name in names:
        lesson = planned.teaching.lessons[name]
        what = f"the base speaks {name}" + (f" as {lesson.spoken_as}" if lesson.spoken_as != lesson.language else "")

        def tell(done: int, what: str = what, of: int = len(lesson.sentences)) -> None:
            events.tell("speaking", what=what, done=done, of=of)

        try:
            said = speak_lesson(opened, encoder, base.identity, lesson, recipe.teacher, tell)
        except AudioProblem as e:
            n = planned.loaded.node.at("teacher", "voices")
            raise DataError(n.problem("QR043", f"a voice of the base: {e}")) from None
        dropped = _ill(lesson, said)
        if any(isinstance(s, SpokenStage) and s.layout == "streaming" and name in {u.dataset for u in s.uses} for s in recipe.stages):
            dropped += _outrun(lesson, said, opened)
        if recipe.teacher.max_cer is not None:
            dropped += _misheard(planned, base, lesson, said, opened, events, {d.sentence for d in dropped})
        found[name] = _data(planned, lesson, said, encoder, dropped)
        _report(lesson, said, found[name], dropped, events)
    encoder.hashes.save()
    return found


def _ill(lesson: Lesson, said: list[Taught]) -> list[Dropped]:
    """Sentences that did not end, and those far slower or faster than the others."""
    seconds = [_seconds(t) for t in said]
    rates = [len(s.spoken) / max(n, 1e-6) for s, n in zip(lesson.sentences, seconds, strict=True)]
    ended = [r for r, t in zip(rates, said, strict=True) if not t.runaway]
    usual = median(ended) if ended else 0.0
    found = []
    for i, (s, t) in enumerate(zip(lesson.sentences, said, strict=True)):
        if t.runaway:
            found.append(Dropped(i, "runaway"))
        elif not usual / FACTOR <= rates[i] <= usual * FACTOR or rate_problem(s.spoken, seconds[i]) is not None:
            found.append(Dropped(i, "rate"))
    return found


def _seconds(taught: Taught) -> float:
    return int(taught.codes.shape[0]) / FRAMES_PER_SECOND


def _outrun(lesson: Lesson, said: list[Taught], opened: Opened) -> list[Dropped]:
    """Sentences whose speech is over before their text, where a stage reads one token a frame alone."""
    tokens = [len(opened.tokenizer.assistant(s.text)[1]) for s in lesson.sentences]
    return [Dropped(i, "outruns") for i, (n, t) in enumerate(zip(tokens, said, strict=True)) if not t.runaway and n > t.codes.shape[0]]


def _misheard(
    planned: Planned, base: BaseInfo, lesson: Lesson, said: list[Taught], opened: Opened, events: Events, gone: set[int]
) -> list[Dropped]:
    """Sentences that the recipe's recogniser, told the language of the text, does not understand: respelling must sound like it."""
    loaded, limit = planned.loaded, planned.loaded.recipe.teacher.max_cer
    assert limit is not None
    identity = base.identity
    assert identity is not None, "the base is known"
    places = {"asr": loaded.node.at("evaluators", "asr").place}
    tags = {k: v.bcp47 for k, v in loaded.recipe.languages.items()}
    listeners = Listeners(opened, identity, loaded.recipe.evaluators, loaded.root, tags, places)
    spec = metrics.find("cer")
    assert spec is not None
    left = [i for i in range(len(said)) if i not in gone]
    batches = [left[start : start + AT_ONCE] for start in range(0, len(left), AT_ONCE)]

    def file(batch: list[int]) -> Path:
        content = [[lesson.sentences[i].text, said[i].codes.tolist()] for i in batch]
        key = digest(["heard", MEASURING, spec.function, listeners.describe(spec, lesson.language), content])
        return folder_of(identity) / f"{key[:40]}.json"

    files = [file(b) for b in batches]

    def make(n: int) -> list[float | None]:
        rates: list[float | None] = []
        for i, (audio, rate) in zip(batches[n], sound(opened, [said[i].codes for i in batches[n]]), strict=True):
            row = _row(lesson, i, said[i], opened)
            measured = number_of(spec, Sample(row, resample(audio, rate), said[i].codes, said[i].cap, lesson.language, listeners))
            rates.append(None if measured is None else measured[0])
        write_json(files[n], sealed({"rates": rates}))
        return rates

    heard: dict[int, float | None] = {}
    for n, rates in shared_out(files, lambda n: _recall_rates(files[n], len(batches[n])), make):
        heard.update(zip(batches[n], rates, strict=True))
        events.tell("listening", what=f"listening to {lesson.dataset}", done=len(heard), of=len(left))
    return [Dropped(i, "misheard") for i in left if (rate := heard[i]) is not None and rate > limit]


def _recall_rates(file: Path, count: int) -> list[float | None] | None:
    """Error rates of a batch that was listened to before, or None."""
    try:
        rates: list[float | None] = read_sealed(file)["rates"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    with suppress(OSError):
        os.utime(file)  # an entry that is used is not garbage
    return rates if len(rates) == count else None


def _row(lesson: Lesson, i: int, taught: Taught, opened: Opened) -> SpeechRow:
    """A sentence as the student reads it, with what the base said."""
    sentence, voice = lesson.sentences[i], lesson.voices[i % len(lesson.voices)]
    role, body = opened.tokenizer.assistant(sentence.text)
    return SpeechRow(
        line=sentence.line,
        text=sentence.text,
        role=role,
        body=body,
        codes=taught.codes,
        seconds=_seconds(taught),
        trimmed=0.0,
        speaker=voice.name,
        reference=voice,
        reference_text=None,
        cut=False,
        guide=taught.guide,
    )


def _data(planned: Planned, lesson: Lesson, said: list[Taught], encoder: Encoder, dropped: list[Dropped]) -> SpeechData:
    gone = {d.sentence for d in dropped}
    rows = [_row(lesson, i, t, encoder.opened) for i, t in enumerate(said) if i not in gone]
    if not rows:
        n = planned.loaded.node.at("datasets", lesson.dataset)
        reasons = ", ".join(f"{why} {count}" for why, count in _counts(dropped).items() if count)
        message = f"the base said none of the {len(said)} sentences of `{lesson.dataset}` well enough ({reasons})"
        raise DataError(n.key_problem("QR047", message, "listen to the base: `qrecipe say`"))
    return SpeechData(lesson.dataset, lesson.language, rows, x_vectors={v: encoder.x_vector(v) for v in lesson.voices})


def _counts(dropped: list[Dropped]) -> dict[str, int]:
    return {why: sum(d.why == why for d in dropped) for why in ("runaway", "rate", "outruns", "misheard")}


def _report(lesson: Lesson, said: list[Taught], data: SpeechData, dropped: list[Dropped], events: Events) -> None:
    rest = torch.cat([r.guide.left_over for r in data.rows if r.guide is not None])
    events.emit(
        "taught",
        dataset=lesson.dataset,
        spoken_as=lesson.spoken_as,
        sentences=len(said),
        kept=len(data.rows),
        dropped=_counts(dropped),
        lines={why: [lesson.sentences[d.sentence].line for d in dropped if d.why == why] for why in _counts(dropped)},
        minutes=round(data.seconds / 60, 2),
        left_over=round(float(rest.mean()), 6),
    )
