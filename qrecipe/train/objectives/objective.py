"""The interface of a training objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from qrecipe.data.batches import Item, Micro
from qrecipe.data.speech import SpeechData
from qrecipe.data.states import OnRows, States
from qrecipe.data.text import TextData
from qrecipe.model.forward import Tables
from qrecipe.model.load import LoadedBase
from qrecipe.plan.synthetic import Sentence
from qrecipe.recipe.respelling import RespellingTable
from qrecipe.train.observer import Observer

if TYPE_CHECKING:
    from qrecipe.train.objectives.reward import Rewarder


@dataclass(frozen=True)
class ObjectiveInputs:
    """Model and data of a stage. Each objective reads the mapping of its kind of data, by the names of the stage's uses."""

    opened: LoadedBase
    tables: Tables
    seed: int
    languages: Collection[str]
    """Languages that the recipe adds; the others are of the base."""
    terms: Collection[str] = ()
    """Loss terms that can move anything that trains; no others are computed."""
    speech: Mapping[str, SpeechData] = field(default_factory=dict)
    """Frames, recorded or spoken by the base."""
    text: Mapping[str, TextData] = field(default_factory=dict)
    sentences: Mapping[str, tuple[Sequence[Sentence], RespellingTable]] = field(default_factory=dict)
    """Native sentences with the table that respells them."""
    rewarder: Rewarder | None = None
    """Weights to speak and to compare with, and ears, for an objective that listens."""


class Objective(ABC):
    """A loss as sums over labels, with the weight of each term.

    Sums and counts are kept apart, so that a global batch is normalised as a whole however it is split.
    """

    weights: dict[str, float]
    """Loss term -> weight in the total."""
    updates: int = 1
    """Optimiser steps in a row that read the same batch."""

    @classmethod
    @abstractmethod
    def build(cls, stage: Any, inputs: ObjectiveInputs) -> Objective:
        """The objective of a stage of its own kind."""

    @abstractmethod
    def lengths(self) -> dict[str, list[int]]:
        """Lengths of the rows by dataset, in the sampler's unit."""

    @abstractmethod
    def count_labels(self, batch: Sequence[Micro]) -> dict[str, int]:
        """Labels of a global batch by loss term, counted without computing it."""

    @abstractmethod
    def loss_sums(self, micro: Micro, step: int) -> dict[str, torch.Tensor]:
        """Loss term -> sum over the labels of a micro-batch, [] with gradient, nats. Runs under the base's autocast."""

    @abstractmethod
    def name(self, item: Item) -> str:
        """A row as people find it: `DATASET:LINE` of its manifest."""

    def begin_step(self, micros: Sequence[Micro], step: int) -> None:
        """Called before a step with all that this process will compute of it: an objective may have the model speak it first."""
        return None

    def prefetch(self, micro: Micro, step: int) -> None:
        """Called ahead of `loss_sums` with what the next step will compute, so that it can be made ready meanwhile."""
        return None

    def since(self, step: int) -> dict[str, float]:
        """The objective's own report of the steps since one, for a stage that stops because held-out data gets no better."""
        return {}

    def anchor(self) -> torch.Tensor | None:
        """A pull towards the base's weights, [] with gradient, once a step and weighted already; None without one."""
        return None

    def fit(self, batches: Iterator[list[Micro]], observer: Observer) -> None:
        """Called once before the first step, not when a stage resumes: its result is part of `state`."""
        return None

    def cache_states(self, states: States, batches: Iterable[list[Micro]], progress: OnRows | None = None) -> int | None:
        """Computes once what nothing that trains can change, for the global batches of all steps.

        Returns the bytes that are cached; None, and nothing changes, where it does not pay.
        """
        return None

    def state(self) -> dict[str, torch.Tensor]:
        """Tensors that the objective itself has learned and a checkpoint must hold."""
        return {}

    def set_state(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over the tensors of `state`."""
        return None
