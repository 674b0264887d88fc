"""Synthetic datasets of a run: the base speaks them, sentences that went wrong are dropped and counted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from statistics import fmean, median

import torch

from qrecipe.data.audio import AudioProblem, rate_problem, resample
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.data.synthetic import folder_of, synthesize
from qrecipe.errors import DataError
from qrecipe.evaluate.evaluators import EvaluatorChoice, EvaluatorSet
from qrecipe.evaluate.measure import MEASURING, heard_at_once, heard_together, number_of
from qrecipe.evaluate.samples import Sample
from qrecipe.model.speak import sound
from qrecipe.model.weights import Delta
from qrecipe.plan.complete import RunPlan
from qrecipe.plan.synthetic import SyntheticDataset
from qrecipe.recipe import metrics
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.stage import SpokenStage
from qrecipe.run.datasets import with_leads
from qrecipe.run.events import Events
from qrecipe.run.session import RunSession, Session
from qrecipe.store import JsonStore, key_of

FACTOR = 2.0
"""A sentence that is this many times slower or faster than the dataset's median did not come out right."""
Rejected = dict[str, list[int]]
"""Reason -> indices of the sentences that are not learned: `runaway`, `rate`, `outruns` or `misheard`."""
Rates = dict[int, float]
"""Character error rates by index of the sentence."""


def spoken_for(plan: RunPlan, stages: Iterable[str]) -> list[str]:
    """Datasets that the base speaks for these stages."""
    wanted = set(stages)
    names = {t.dataset for s in plan.plan.stages if s.id in wanted and OBJECTIVES[s.objective].speaks for t in s.taught}
    return [n for n in plan.synthetic if n in names]


def spoken_judges(plan: RunPlan) -> list[str]:
    """Text datasets that judge: the base speaks them before anything trains."""
    return [n for n in plan.loaded.recipe.spoken_judges() if n in plan.synthetic]


@dataclass
class SyntheticSpeech:
    """The synthetic datasets of a run, each spoken before the first stage that needs it."""

    session: RunSession
    data: dict[str, SpeechData] = field(default_factory=dict)
    """By dataset."""

    def prepare(self, stages: Iterable[str], now: Delta) -> None:
        """Has the base speak what these stages need and no earlier one did. The modules hold `now` before and after."""
        missing = [n for n in spoken_for(self.session.plan, stages) if n not in self.data]
        if missing:
            self.session.working.set(self.session.start)
            plan, session = self.session.plan, self.session
            self.data |= with_leads(plan, session, prepare_synthetic(plan, session, missing))
            self.session.working.set(now)


def prepare_synthetic(plan: RunPlan, session: Session, names: Iterable[str]) -> dict[str, SpeechData]:
    """Has the base speak datasets and drops what went wrong. The modules of the session must hold the base's own weights.

    Raises `DataError` if a voice cannot be read, or no sentence of a dataset came out right.
    """
    ready = {}
    for name in names:
        dataset = plan.synthetic[name]
        data, rejected, rates = _best_takes(plan, session, dataset)
        ready[name] = _without(plan, dataset, data, rejected)
        _report(dataset, ready[name], rejected, rates, session.events)
    session.hashes.save()
    return ready


def _best_takes(plan: RunPlan, session: Session, dataset: SyntheticDataset) -> tuple[SpeechData, Rejected, Rates]:
    """Every sentence as the take that is understood best has it; those of which no take came out right; and how each is misunderstood."""
    teacher = plan.loaded.recipe.teacher
    first: SpeechData | None = None
    rejected: Rejected = {}
    best: Rates = {}
    for take in range(teacher.takes):
        data = _spoken(plan, session, dataset, take)
        refused = _refused(plan, dataset, data.rows)
        if first is None:  # what no take said well has the first one's reason
            first, rejected = data, refused
        good = sorted(set(range(len(data.rows))) - {i for indices in refused.values() for i in indices})
        rates = _heard(plan, session, dataset, {i: data.rows[i] for i in good}) if teacher.heard else dict.fromkeys(good, 0.0)
        better = {i: rate for i, rate in rates.items() if rate < best.get(i, math.inf)}
        best |= better
        for i in better:
            first.rows[i] = data.rows[i]
    assert first is not None
    rejected = {reason: [i for i in indices if i not in best] for reason, indices in rejected.items()}
    limit = math.inf if teacher.max_cer is None else teacher.max_cer
    rejected["misheard"] = sorted(i for i, rate in best.items() if rate > limit)
    return first, rejected, best if teacher.heard else {}


def _spoken(plan: RunPlan, session: Session, dataset: SyntheticDataset, take: int) -> SpeechData:
    what = f"the base speaks {dataset.name}"
    if dataset.spoken_as != dataset.language:
        what += f" as {dataset.spoken_as}"
    teacher = plan.loaded.recipe.teacher
    if teacher.takes > 1:
        what += f", take {take + 1} of {teacher.takes}"
    settings = teacher.model_copy(update={"seed": teacher.seed + take})

    def progress(done: int) -> None:
        session.events.tell("speaking", what=what, done=done, of=len(dataset.sentences))

    try:
        return synthesize(session.opened, session.encoder, plan.base.identity, dataset, settings, progress)
    except AudioProblem as e:
        n = plan.loaded.node.at("teacher", "voices")
        raise DataError(n.problem("QR043", f"a voice of the base: {e}")) from None


def _refused(plan: RunPlan, dataset: SyntheticDataset, rows: list[SpeechRow]) -> Rejected:
    """Speech that went wrong, before anybody listens to it."""
    stages = [s for s in plan.loaded.recipe.stages if dataset.name in {u.dataset for u in s.uses}]
    streaming = any(isinstance(s, SpokenStage) and s.layout == "streaming" for s in stages)
    lead = plan.loaded.recipe.lead(dataset.language)
    return {**_unusual(dataset, rows), "outruns": _outrunning(rows, lead) if streaming else []}


def _unusual(dataset: SyntheticDataset, rows: list[SpeechRow]) -> Rejected:
    """Sentences that did not end, and those far slower or faster than the others."""
    rates = [len(s.spoken) / max(r.seconds, 1e-6) for s, r in zip(dataset.sentences, rows, strict=True)]
    ended = [rate for rate, r in zip(rates, rows, strict=True) if not r.cut]
    usual = median(ended) if ended else 0.0
    rejected: Rejected = {"runaway": [], "rate": []}
    for i, (sentence, row) in enumerate(zip(dataset.sentences, rows, strict=True)):
        if row.cut:
            rejected["runaway"].append(i)
        elif not usual / FACTOR <= rates[i] <= usual * FACTOR or rate_problem(sentence.spoken, row.seconds) is not None:
            rejected["rate"].append(i)
    return rejected


def _outrunning(rows: list[SpeechRow], lead: int) -> list[int]:
    """Sentences whose speech, after so many frames of silence, is over before their text, where a stage reads one token a frame alone."""
    return [i for i, r in enumerate(rows) if not r.cut and len(r.body) > lead + r.frames]


def _heard(plan: RunPlan, session: Session, dataset: SyntheticDataset, rows: dict[int, SpeechRow]) -> Rates:
    """Error rates, by index, of the recipe's recogniser when it is told the language of the text."""
    loaded, identity = plan.loaded, plan.base.identity
    recipe, spec = loaded.recipe, metrics.spec_of("cer")
    places = {"asr": loaded.node.at("evaluators", "asr").place}
    opened = session.opened
    evaluators = EvaluatorSet(opened, identity, EvaluatorChoice(recipe.evaluators, loaded.root, recipe.tags(), places))
    order = list(rows)
    size = heard_at_once()
    batches = [order[start : start + size] for start in range(0, len(order), size)]

    def key(batch: list[int]) -> str:
        content = [[rows[i].text, rows[i].codes.tolist()] for i in batch]
        return key_of(["heard", MEASURING, spec.function, evaluators.describe(spec, dataset.language), content], 40)

    def make(n: int) -> dict[str, list[float | None]]:
        samples = []
        for i, (audio, rate) in zip(batches[n], sound(opened, [rows[i].codes for i in batches[n]]), strict=True):
            cap = dataset.cap(i, recipe.teacher.slowest)
            samples.append(Sample(rows[i], resample(audio, rate), rows[i].codes, cap, dataset.language, evaluators))
        measured = [number_of(spec, s) for s in heard_together(samples, [spec], evaluators)]
        return {"rates": [None if m is None else m[0] for m in measured]}

    rates: Rates = {}
    for n, entry in JsonStore(folder_of(identity)).get_or_make([key(b) for b in batches], make):
        rates |= {i: rate or 0.0 for i, rate in zip(batches[n], entry["rates"], strict=True)}  # none of a text without letters
        session.events.tell("listening", what=f"listening to {dataset.name}", done=len(rates), of=len(order))
    return rates


def _without(plan: RunPlan, dataset: SyntheticDataset, data: SpeechData, rejected: Rejected) -> SpeechData:
    indices = {i for some in rejected.values() for i in some}
    rows = [r for i, r in enumerate(data.rows) if i not in indices]
    if not rows:
        n = plan.loaded.node.at("datasets", dataset.name)
        reasons = ", ".join(f"{reason} {len(some)}" for reason, some in rejected.items() if some)
        message = f"the base said none of the {len(data.rows)} sentences of `{dataset.name}` well enough ({reasons})"
        raise DataError(n.key_problem("QR047", message, "listen to the base: `qrecipe say`"))
    return replace(data, rows=rows)


def _report(dataset: SyntheticDataset, data: SpeechData, rejected: Rejected, rates: Rates, events: Events) -> None:
    rest = torch.cat([r.soft_targets.left_over for r in data.rows if r.soft_targets is not None])
    events.emit(
        "taught",
        dataset=dataset.name,
        spoken_as=dataset.spoken_as,
        sentences=len(dataset.sentences),
        kept=len(data.rows),
        dropped={reason: len(some) for reason, some in rejected.items()},
        lines={reason: [dataset.sentences[i].line for i in some] for reason, some in rejected.items()},
        minutes=round(data.seconds / 60, 2),
        left_over=round(float(rest.mean()), 6),
        **({"cer": round(fmean(rates.values()), 4)} if rates else {}),
    )
