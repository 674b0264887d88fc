"""Ears and weights for the objective `reward`: samples are decoded, heard by the evaluators and scored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from qrecipe import phases
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.evaluate.evaluators import EvaluatorSet
from qrecipe.evaluate.measure import heard_together, measure_recordings, number_of
from qrecipe.evaluate.samples import Sample, cap_of, sounds
from qrecipe.model.speak import Utterance
from qrecipe.model.weights import Delta, Learner
from qrecipe.plan.synthetic import cap_of_text
from qrecipe.qwen3 import PromptKind
from qrecipe.recipe.metrics import MetricSpec, spec_of
from qrecipe.recipe.rewards import TRANSFORMS, Spread, reward_of
from qrecipe.recipe.stage import RewardStage
from qrecipe.run.datasets import unrecorded
from qrecipe.run.session import RunSession, recipe_evaluators
from qrecipe.train.objectives.reward import Rollout, Score


@dataclass(frozen=True)
class RunRewarder:
    """The rewarder of one stage of a run."""

    session: RunSession
    stage: RewardStage
    learner: Learner
    before: Delta
    """The weights before the stage."""

    @contextmanager
    def policy(self) -> Iterator[None]:
        """The modules hold the weights as they are, in the number format that they compute in."""
        with self.learner.exported(self.session.opened.compute_dtype):
            yield

    @contextmanager
    def reference(self) -> Iterator[None]:
        """The modules hold the weights before the stage, or those of the base with the new rows at their init."""
        with self.learner.started():
            if self.stage.kl_to == "previous":
                yield
                return
            self.session.working.set(self.session.start)
            try:
                yield
            finally:
                self.session.working.set(self.before)

    def cap(self, row: SpeechRow, language: str) -> int:
        """As gates cut a recording's text; a text without a recording by its length, as where the base speaks it, after its lead."""
        if row.audio is None:
            recipe = self.session.recipe
            return recipe.lead(language) + cap_of_text(row.text, recipe.teacher.slowest)
        return cap_of(row, self.session.evaluation)

    def prepare(self) -> None:
        """Measures the recordings that samples are compared with, which the ranks do together."""
        self._spreads  # noqa: B018  # computed once, and kept

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Decodes samples, has them heard, and scores each."""
        opened = self.session.opened
        samples, scores = [], []
        audios = sounds(opened, [r.codes for r in rollouts], [_utterance(r) for r in rollouts])
        for rollout, audio in zip(rollouts, audios, strict=True):
            kind: PromptKind = "in_context" if rollout.in_context else "x_vector"
            about = (rollout.row, audio, rollout.codes, rollout.cap, rollout.dataset.language, self._evaluators)
            samples.append(Sample(*about, layout=rollout.layout, prompt=kind))
        specs = [spec for spec, _ in self._parts]
        for done, sample in enumerate(heard_together(samples, specs, self._evaluators), start=1):
            with phases.phase("listening"):
                scores.append(self._scored(sample))
            self.session.events.tell("listening", what=f"listening for {self.stage.id}", done=done, of=len(rollouts))
        return scores

    def report(self, step: int, fields: dict[str, Any]) -> None:
        """An event with rounded numbers."""
        parts = {name: round(value, 5) for name, value in fields["parts"].items()}
        rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in fields.items()}
        self.session.events.emit("reward", stage=self.stage.id, step=step, **{**rounded, "parts": parts})

    def _scored(self, sample: Sample) -> Score:
        values = {}
        for spec, _ in self._parts:
            assert spec.reward is not None, "checked with the recipe"
            number = number_of(spec, sample)
            spread = self._spreads.get((spec.name, sample.language), (0.0, 0.0))
            values[spec.name] = reward_of(spec.reward, None if number is None else number[0], spread)
        total = sum(weight for _, weight in self._parts)
        return Score(sum(values[spec.name] * weight for spec, weight in self._parts) / total, values)

    @cached_property
    def _parts(self) -> list[tuple[MetricSpec, float]]:
        return [(spec_of(r.metric), r.weight) for r in self.stage.reward]

    @cached_property
    def _evaluators(self) -> EvaluatorSet:
        if self.stage.evaluators is None:
            return self.session.evaluators
        journal = self.session.store.folder / f"heard-{self.stage.id}.jsonl"
        return recipe_evaluators(self.session, self.session.plan, journal, self.stage.evaluators)

    @cached_property
    def _spreads(self) -> dict[tuple[str, str], Spread]:
        """Between which 95 % of the recordings of a language lie, whatever dataset they are of, by metric and language."""
        settings = self.session.evaluation.model_copy(update={"prompts": None})
        spreads = {}
        for spec, _ in self._parts:
            assert spec.reward is not None, "checked with the recipe"
            for language in self.session.recipe.languages if TRANSFORMS[spec.reward].spread else ():
                recorded = [d for d in self.session.data.speech.values() if d.language == language]
                values = [v.value for d in recorded for v in measure_recordings(d, [spec.name], settings, self._evaluators)[spec.name]]
                low, high = np.quantile(values, [0.025, 0.975]) if values else (-math.inf, math.inf)
                spreads[spec.name, language] = (float(low), float(high))
        return spreads


def _utterance(rollout: Rollout) -> Utterance:
    row, data = rollout.row, rollout.dataset
    assert row.reference is not None
    codes = data.reference_codes[row.reference] if rollout.in_context else None
    return Utterance(row.text, data.language, data.x_vectors[row.reference], row.reference_text if rollout.in_context else None, codes)


def rewarded_texts(session: RunSession, stage: RewardStage) -> dict[str, SpeechData]:
    """Sentences without recordings that a stage rewards."""
    recipe, rewarded = session.recipe, {}
    for use in stage.uses:
        dataset = recipe.datasets[use.dataset]
        if dataset.kind == "text" and dataset.language in recipe.languages:
            rewarded[use.name] = replace(unrecorded(session.plan, session, use.dataset), name=use.name)
    return rewarded
