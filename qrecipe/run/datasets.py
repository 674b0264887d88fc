"""Preparing a recipe's datasets: what `prepare` does alone and every run does first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from qrecipe.data.codes import Encoder
from qrecipe.data.lead import with_lead
from qrecipe.data.likeness import EXACT, Fingerprint, alike
from qrecipe.data.prepare import Requirements, prepare
from qrecipe.data.report import Report, speaker_cosine, speech_report, text_report
from qrecipe.data.speech import SpeechData, SpeechRow, distinct
from qrecipe.data.text import TextData
from qrecipe.errors import DataError, Place, Problem, Problems
from qrecipe.hashes import FileHashes
from qrecipe.phases import phase
from qrecipe.plan.complete import RunPlan
from qrecipe.plan.planned import Planned
from qrecipe.plan.synthetic import frames_of_text
from qrecipe.recipe.dataset import SpeechDataset, TextDataset
from qrecipe.recipe.stage import SpokenStage
from qrecipe.run.listening import Listening
from qrecipe.run.session import Session

CLIPS_FOR_SPREAD = 40
"""Clips of a dataset whose x-vectors are compared."""


@dataclass
class Prepared:
    """Every dataset of a recipe that was asked for."""

    speech: dict[str, SpeechData] = field(default_factory=dict)
    text: dict[str, TextData] = field(default_factory=dict)


def needed(planned: Planned) -> list[str]:
    """Datasets that a run reads, in the recipe's order."""
    recipe = planned.loaded.recipe
    used = recipe.trained_datasets() | recipe.judging_datasets()
    return [d for d in recipe.datasets if d in used]


@phase("encoding")
def prepare_all(planned: Planned, session: Session, names: Iterable[str], filtered: bool = True) -> Prepared:
    """Encodes and checks datasets, and leaves out what their filters drop unless they are not to be `filtered`.

    Raises `DataError` with the problems of all of them.
    """
    prepared, problems, listening = Prepared(), Problems(), Listening(planned, session)
    for name in names:
        try:
            dataset = planned.loaded.recipe.datasets[name]
            if isinstance(dataset, SpeechDataset):
                skipped = _prepare_speech(planned, session, name, dataset, prepared)
                if filtered:
                    prepared.speech[name] = listening.filtered(name, dataset, prepared.speech[name])
            else:
                skipped = _prepare_text(planned, session, name, dataset, prepared)
            for problem in skipped:
                session.events.emit("row_skipped", dataset=name, **problem.as_json())
        except DataError as e:
            problems.extend(e.problems)
    session.hashes.save()
    for problem in shared_sounds(planned, prepared, session.hashes):
        if problem.severity == "error":
            problems.append(problem)
        else:
            session.events.emit("data_warning", **problem.as_json())
    problems.raise_any(DataError)
    judging = planned.loaded.recipe.judging_datasets() - planned.loaded.recipe.trained_datasets()
    for name in judging & prepared.speech.keys():
        prepared.speech[name] = distinct(prepared.speech[name])
    return prepared


def unrecorded(plan: RunPlan, session: Session, name: str) -> SpeechData:
    """Sentences that nobody has read: rows that have only a length and no voice, and every voice that they may be spoken in."""
    opened, rows = session.opened, []
    language = plan.loaded.recipe.datasets[name].language
    lead = plan.loaded.recipe.lead(language)
    for r in plan.manifests[name].rows:
        role, body = opened.tokenizer.assistant(r.text)
        frames = lead + math.ceil(frames_of_text(r.text))
        rows.append(SpeechRow.of_text(r.line, r.text, role, body, frames, opened.groups))
    x_vectors = {path: session.encoder.voice(path).x_vector for path in plan.voices}
    return SpeechData(name, language, rows, x_vectors=x_vectors)


def with_leads(plan: RunPlan, session: Session, speech: dict[str, SpeechData]) -> dict[str, SpeechData]:
    """Speech as a run learns and judges it: where a language begins with silence, every row does."""
    recipe = plan.loaded.recipe
    return {name: with_lead(session.opened, data, recipe.lead(data.language)) for name, data in speech.items()}


def read_judges(plan: RunPlan, session: Session) -> dict[str, SpeechData]:
    """Sentences that judge and that nobody has read, each in one of the voices, by turns."""
    judges = {}
    for name in plan.loaded.recipe.read_judges():
        data = unrecorded(plan, session, name)
        judges[name] = replace(data, rows=[replace(r, reference=plan.voices[i % len(plan.voices)]) for i, r in enumerate(data.rows)])
    return judges


def shared_sounds(planned: Planned, prepared: Prepared, hashes: FileHashes) -> Iterator[Problem]:
    """Recordings that judge and train, or that stand in one dataset several times, in another format than the plan can see."""
    recipe = planned.loaded.recipe
    trained = recipe.trained_datasets() & prepared.speech.keys()
    judging = (recipe.judging_datasets() - trained) & prepared.speech.keys()
    for judge in sorted(judging):
        for name in sorted(trained):
            yield from _leaks(planned, prepared.speech[name], prepared.speech[judge])
    for name in sorted(trained | judging):
        yield from _twice(planned, prepared.speech[name], hashes)


def _leaks(planned: Planned, trained: SpeechData, judge: SpeechData) -> Iterator[Problem]:
    """One problem for recordings that only changed their container, one for those that went through a lossy format."""
    mine, others = _with_sound(trained), _with_sound(judge)
    pairs = list(alike([h for _, h in mine], [h for _, h in others]))
    for exact in (True, False):
        shared = sorted((mine[a][0].line, others[b][0].line) for a, b, cosine in pairs if (cosine >= EXACT) == exact)
        if shared:
            same = "this recording" if exact else "what sounds like this recording"
            more = f", and {len(shared) - 1:,} more" if len(shared) > 1 else ""
            message = f"{same} also judges, in `{judge.name}` (line {shared[0][1]}){more}"
            place = Place(planned.manifests[trained.name].shown, shared[0][0], 1)
            yield Problem("QR046", message, place, "take it out of one of the two", "error" if exact else "warning")


def _twice(planned: Planned, data: SpeechData, hashes: FileHashes) -> Iterator[Problem]:
    """Recordings of a dataset that are one sound in different files; copies of a file were reported by the plan."""
    rows = _with_sound(data)
    heard = [h for _, h in rows]
    pairs = [(rows[a][0], rows[b][0]) for a, b, _ in alike(heard, heard) if rows[a][0].line < rows[b][0].line]
    files = {r.line: hashes.sha256(r.audio) for pair in pairs for r in pair if r.audio is not None}
    shared = sorted((b.line, a.line) for a, b in pairs if files[a.line] != files[b.line])
    if shared:
        count = "1 recording" if len(shared) == 1 else f"{len(shared):,} recordings"
        message = f"{count} of `{data.name}` repeated from other files (line {shared[0][1]} has the first)"
        yield Problem("QR091", message, Place(planned.manifests[data.name].shown, shared[0][0], 1), "take the copies out")


def _with_sound(data: SpeechData) -> list[tuple[SpeechRow, Fingerprint]]:
    return [(r, r.heard) for r in data.rows if r.heard is not None]


def _prepare_speech(planned: Planned, session: Session, name: str, dataset: SpeechDataset, prepared: Prepared) -> Sequence[Problem]:
    """Adds a dataset of recordings; returns the problems of the rows that are left out."""
    recipe = planned.loaded.recipe
    trained = [s for s in recipe.stages if isinstance(s, SpokenStage) and any(u.dataset == name for u in s.uses)]
    judged = name in recipe.judging_datasets() and recipe.evaluation.prompt != "x_vector"
    data = prepare(
        name,
        dataset,
        planned.manifests[name],
        session.encoder,
        Requirements(
            reference=planned.loaded.path(dataset.reference) if dataset.reference else None,
            streaming_only=any(s.layout == "streaming" for s in trained),
            lead=recipe.lead(dataset.language),
            in_context=judged or any(s.prompt != "x_vector" for s in trained),
        ),
        progress=lambda what, done, of: session.events.tell("encoding", dataset=what, done=done, of=of),
    )
    prepared.speech[name] = data
    minutes = round(data.seconds / 60, 2)
    session.events.emit("dataset", dataset=name, rows=len(data.rows), skipped=data.rows_skipped, minutes=minutes)
    return data.skipped


def _prepare_text(planned: Planned, session: Session, name: str, dataset: TextDataset, prepared: Prepared) -> Sequence[Problem]:
    """Adds a dataset of sentences; returns the problems of the rows that are left out."""
    manifest = planned.manifests[name]
    if dataset.on_bad_row == "stop" or not manifest.rows:
        manifest.problems.raise_any(DataError)
    bodies = [session.opened.tokenizer.assistant(r.text)[1] for r in manifest.rows]
    prepared.text[name] = TextData(name, dataset.language, bodies, [r.line for r in manifest.rows])
    session.events.emit("dataset", dataset=name, rows=len(bodies), skipped=manifest.bad_rows, minutes=None)
    return manifest.problems


def reports(planned: Planned, prepared: Prepared, encoder: Encoder) -> list[Report]:
    """Descriptions of the prepared datasets."""
    recipe = planned.loaded.recipe
    trained = recipe.trained_datasets()
    descriptions = []
    for name in planned.manifests:
        if name not in prepared.speech and name not in prepared.text:
            continue
        dataset = recipe.datasets[name]
        own = name in trained and dataset.language in recipe.languages
        elsewhere: set[str] | None = None
        if name not in trained:
            same = [n for n in trained & planned.manifests.keys() if recipe.datasets[n].language == dataset.language]
            elsewhere = {c for n in same for r in planned.manifests[n].rows for c in r.text.lower()}
        if name in prepared.text:
            descriptions.append(text_report(prepared.text[name], planned.manifests[name], elsewhere, own))
            continue
        data = prepared.speech[name]
        clips = [r for r in data.rows if r.audio is not None][:CLIPS_FOR_SPREAD]
        vectors = [(r.speaker, encoder.voice(r.audio, math.inf).x_vector) for r in clips if r.audio is not None]
        cosine = speaker_cosine(data, vectors) if len(vectors) > 1 else None
        descriptions.append(speech_report(data, cosine, elsewhere, own))
    return descriptions
