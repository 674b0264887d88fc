"""Listening to datasets before anything trains: what each recording is like, what a filter drops, what looks wrong."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qrecipe.data.audio import AudioProblem, load
from qrecipe.data.codes import Encoder
from qrecipe.data.quality import UNUSUAL, Quality, QualityMeter, deviations, doubled, foreign, two_voices
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.evaluate.evaluators import EvaluatorChoice, EvaluatorSet
from qrecipe.evaluate.measure import heard_together, number_of
from qrecipe.evaluate.samples import Sample
from qrecipe.files import cache_dir
from qrecipe.inputs.texts import near_key
from qrecipe.plan.planned import Planned
from qrecipe.recipe import metrics
from qrecipe.recipe.dataset import Filter, SpeechDataset
from qrecipe.report.data_page import UNITS, WORST, DatasetPage, PageRow
from qrecipe.run.session import Session
from qrecipe.store import Journal

SUSPECT = Filter(max_cer=0.6, min_snr=15.0, min_bandwidth=5500.0, max_silence=1.5)
"""Beyond these a recording is worth a look, whatever the recipe's filter says."""
UNUSUAL_RATE = 6.0
"""Robust deviations of characters a second from the dataset's median, up or down."""
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
CLIPS, LEAST_CLIPS = 40, 6
"""Clips of a speaker that are compared at most, and at least."""
ONE_VOICE = 0.5
"""Cosine of the centres of a speaker's two groups of clips below which they are two people."""


@dataclass
class Listened:
    """A dataset that was listened to. Lists are by row."""

    data: SpeechData
    qualities: list[Quality | None]
    cer: list[float | None]
    """By the recipe's recogniser; empty where nobody listens."""
    rate: list[float]
    """Characters a second, as deviations from the median."""
    spelling: list[float]
    """How unlike the others each text is spelled, as deviations from the median."""
    repeats: dict[int, int]
    """Rows that are the same sound as an earlier row."""
    two_people: dict[str, float] = field(default_factory=dict)
    """Speakers whose clips fall into two voices."""

    def values(self, measure: str) -> list[float | None]:
        """One measure of every row: `cer`, `snr`, `bandwidth`, `silence`, `rate` or `spelling`."""
        if measure in ("snr", "bandwidth", "silence"):
            return [None if q is None else float(getattr(q, measure)) for q in self.qualities]
        return list(getattr(self, measure))

    def dropped(self, limits: Filter) -> dict[int, list[str]]:
        """Rows that a filter drops -> the settings that drop them."""
        reasons: dict[int, list[str]] = defaultdict(list)
        for name, limit in limits.model_dump(exclude_none=True).items():
            upper, measure = name.startswith("max"), name.partition("_")[2]
            for i, value in enumerate(self.values(measure)):
                if value is not None and (value > limit if upper else value < limit):
                    reasons[i].append(name)
        return dict(reasons)

    def suspects(self) -> dict[int, list[str]]:
        """Rows that are worth a look -> why, in a few words each."""
        words = {
            "max_cer": "the recogniser hears another text",
            "min_snr": "noisy",
            "min_bandwidth": "narrow band",
            "max_silence": "long silence inside",
        }
        reasons: dict[int, list[str]] = defaultdict(list)
        for i, names in self.dropped(SUSPECT).items():
            quality = self.qualities[i]
            narrow_file = quality is not None and quality.rate < 2 * (SUSPECT.min_bandwidth or 0.0)
            reasons[i] += [words[n] for n in names if not (n == "min_bandwidth" and narrow_file)]
        for i, first in self.repeats.items():
            reasons[i].append(f"the same sound as line {self.data.rows[first].line}")
        for i, (rate, spelling) in enumerate(zip(self.rate, self.spelling)):
            reasons[i] += ["spelled like another language"] if spelling > UNUSUAL else []
            reasons[i] += [f"read unusually {'fast' if rate > 0 else 'slowly'}"] if abs(rate) > UNUSUAL_RATE else []
        return {i: why for i, why in sorted(reasons.items()) if why}

    def near_duplicates(self) -> dict[str, list[int]]:
        """Sentences that several rows say, case and signs aside -> the rows."""
        groups: dict[str, list[int]] = defaultdict(list)
        for i, row in enumerate(self.data.rows):
            groups[near_key(row.text)].append(i)
        return {key: rows for key, rows in groups.items() if len(rows) > 1}

    def as_json(self, limits: Filter) -> dict[str, Any]:
        """For programs: distributions, and lines of rows."""
        lines = [r.line for r in self.data.rows]
        return {
            "distributions": {m: _quantiles(self.values(m)) for m in ("snr", "bandwidth", "silence", "cer") if self.values(m)},
            "dropped": {lines[i]: why for i, why in self.dropped(limits).items()},
            "suspects": {lines[i]: why for i, why in self.suspects().items()},
            "same_sentence": [[lines[i] for i in rows] for rows in self.near_duplicates().values()],
            "two_people": self.two_people,
        }

    def page(self, limits: Filter) -> DatasetPage:
        """The dataset on a page for people."""
        dropped = self.dropped(limits)
        worst = {}
        for measure in ("snr", "bandwidth", "silence", "cer"):
            known = [(v, i) for i, v in enumerate(self.values(measure)) if v is not None]
            order = sorted(known, reverse=measure in ("silence", "cer"))[:WORST]
            if order:
                worst[measure] = [self._recording(i, f"{v:g} {UNITS[measure]}".strip()) for v, i in order]
        stated = limits.model_dump(exclude_none=True)
        return DatasetPage(
            self.data.name,
            len(self.data.rows),
            self.as_json(limits)["distributions"],
            {name: (limit, sum(name in why for why in dropped.values())) for name, limit in stated.items()},
            worst,
            [self._recording(i, "; ".join(why)) for i, why in self.suspects().items()],
            [[self.data.rows[i].line for i in rows] for rows in self.near_duplicates().values()],
            self.two_people,
        )

    def _recording(self, i: int, note: str) -> PageRow:
        row = self.data.rows[i]
        return PageRow(row.line, row.text, row.audio, note)


def _quantiles(values: Sequence[float | None]) -> dict[str, float]:
    known = [v for v in values if v is not None]
    return {f"{q:.0%}": round(float(np.quantile(known, q)), 3) for q in QUANTILES} if known else {}


class Listening:
    """Listens to the datasets of a recipe; what was heard is remembered by content."""

    def __init__(self, planned: Planned, session: Session) -> None:
        self._planned = planned
        self._session = session
        self._listener = QualityMeter(session.hashes)
        self._evaluators: EvaluatorSet | None = None

    def filtered(self, name: str, dataset: SpeechDataset, data: SpeechData) -> SpeechData:
        """A dataset without the rows that its filter drops, which are counted in an event."""
        if dataset.filter == Filter():
            return data
        dropped = self.listen(name, dataset, data, voices=False).dropped(dataset.filter)
        reasons = {n: sum(n in why for why in dropped.values()) for n in dataset.filter.model_dump(exclude_none=True)}
        lines = [data.rows[i].line for i in sorted(dropped)]
        self._session.events.emit("filtered", dataset=name, rows=len(data.rows), dropped=len(dropped), reasons=reasons, lines=lines)
        return replace(data, rows=[r for i, r in enumerate(data.rows) if i not in dropped])

    def listen(self, name: str, dataset: SpeechDataset, data: SpeechData, voices: bool = True) -> Listened:
        """Measures every row. A recogniser listens if a filter of the recipe asks for it."""
        rows = data.rows
        qualities = [None if r.audio is None else self._listener.quality(r.audio) for r in self._telling(rows, f"listening to {name}")]
        spoken = [len(near_key(r.text)) / max(r.seconds - r.trimmed, 0.1) for r in rows]
        listened = Listened(
            data,
            qualities,
            self._cer(name, dataset, data) if dataset.filter.max_cer is not None else [],
            deviations(spoken),
            foreign([r.text for r in rows]),
            doubled({i: q for i, q in enumerate(qualities) if q is not None}),
        )
        if voices:
            listened.two_people = _two_people(rows, self._session.encoder)
        return listened

    def _telling(self, rows: Sequence[SpeechRow], what: str) -> Iterator[SpeechRow]:
        for done, row in enumerate(rows, start=1):
            yield row
            self._session.events.tell("listening", what=what, done=done, of=len(rows))

    def _cer(self, name: str, dataset: SpeechDataset, data: SpeechData) -> list[float | None]:
        """Character error rate of every recording by the recipe's recogniser."""
        spec, evaluators = metrics.spec_of("cer"), self._recogniser()

        def samples() -> Iterator[Sample]:
            for row in self._telling(data.rows, f"recognising {name}"):
                if row.audio is not None:
                    with suppress(AudioProblem):
                        audio = load(row.audio, math.inf).samples
                        yield Sample(row, audio, row.codes, row.frames + 1, dataset.language, evaluators)

        measured = {s.row.line: number_of(spec, s) for s in heard_together(samples(), [spec], evaluators)}
        numbers = [measured.get(r.line) for r in data.rows]
        return [None if n is None else n[0] for n in numbers]

    def _recogniser(self) -> EvaluatorSet:
        if self._evaluators is None:
            loaded, base = self._planned.loaded, self._session.base
            places = {"asr": loaded.node.at("evaluators", "asr").place}
            choice = EvaluatorChoice(loaded.recipe.evaluators, loaded.root, loaded.recipe.tags(), places)
            journal = Journal(cache_dir() / "quality" / "transcripts.jsonl")
            self._evaluators = EvaluatorSet(self._session.opened, base.identity, choice, self._session.hashes, journal)
        return self._evaluators


def _two_people(rows: Sequence[SpeechRow], encoder: Encoder) -> dict[str, float]:
    """Speakers whose clips fall into two voices, with the cosine between them."""
    by_speaker: dict[str, list[SpeechRow]] = defaultdict(list)
    for row in rows:
        if row.audio is not None and len(by_speaker[row.speaker]) < CLIPS:
            by_speaker[row.speaker].append(row)
    apart = {}
    for speaker, own in by_speaker.items():
        if len(own) >= LEAST_CLIPS:
            vectors = np.stack([encoder.voice(r.audio, math.inf).x_vector.double().numpy() for r in own if r.audio is not None])
            cosine = two_voices(vectors)
            if cosine < ONE_VOICE:
                apart[speaker] = round(cosine, 3)
    return apart
