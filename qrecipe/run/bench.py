"""All that judging reads of a session: a run's own, or that of packs which are put together."""

from __future__ import annotations

from typing import Protocol

from qrecipe.evaluate.evaluators import EvaluatorSet
from qrecipe.inputs.bases import LocalBase
from qrecipe.inputs.documents.ballots import Ballot
from qrecipe.model.load import LoadedBase
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.recipe import Evaluation
from qrecipe.run.datasets import Prepared
from qrecipe.run.events import Events
from qrecipe.run.store import RunStore


class Bench(Protocol):
    """A model in memory with the data and the evaluators that judge it."""

    @property
    def base(self) -> LocalBase:
        """The base that the model was made from."""

    @property
    def opened(self) -> LoadedBase:
        """The model that speaks."""

    @property
    def events(self) -> Events:
        """Where progress and verdicts go."""

    @property
    def store(self) -> RunStore:
        """Where samples and values are stored."""

    @property
    def data(self) -> Prepared:
        """The datasets that judge."""

    @property
    def evaluators(self) -> EvaluatorSet:
        """Models that listen."""

    @property
    def evaluation(self) -> Evaluation:
        """How gates are measured."""

    @property
    def start_state(self) -> str:
        """Fingerprint of the base with the new rows at their init."""

    def content(self, dataset: str) -> str | None:
        """Hash of a dataset."""

    def ballots(self, gate: Gate) -> list[Ballot]:
        """The ballots that a gate counts."""

    def rewarded(self, metric: str, where: str) -> bool:
        """Whether a stage up to `where` was rewarded by a metric."""
