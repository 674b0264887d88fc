"""A model in memory with what the verbs need beside it. Sessions are opened once and never changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from qrecipe.data.codes import Encoder
from qrecipe.evaluate.evaluators import EvaluatorChoice, EvaluatorSet
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import LocalBase
from qrecipe.inputs.documents.ballots import Ballot
from qrecipe.model.load import LoadedBase, open_model
from qrecipe.model.weights import Delta
from qrecipe.model.working import WorkingWeights
from qrecipe.phases import phase
from qrecipe.plan.complete import RunPlan
from qrecipe.recipe import Recipe
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.judges import is_taught
from qrecipe.recipe.recipe import Evaluation
from qrecipe.run.events import Events
from qrecipe.run.store import RunStore
from qrecipe.store import Journal
from qrecipe.world import World

if TYPE_CHECKING:
    from qrecipe.run.datasets import Prepared


@dataclass(frozen=True)
class Session:
    """A model that `evaluate`, `say` or `prepare` works with."""

    base: LocalBase
    opened: LoadedBase
    encoder: Encoder
    events: Events

    @property
    def hashes(self) -> FileHashes:
        """Hashes of the files that are read."""
        return self.encoder.hashes

    @property
    def world(self) -> World:
        """The processes that share the work."""
        return self.opened.world

    @property
    def device(self) -> str:
        """The device for people."""
        times = "" if self.world.alone else f"{self.world.size} processes, each "
        if self.opened.device.type == "cuda":
            return times + torch.cuda.get_device_name()
        return f"{times}CPU, {torch.get_num_threads()} threads"


@phase("loading the base")
def open_session(base: LocalBase, hashes: FileHashes, events: Events, world: World | None = None) -> Session:
    """Opens a base, whose work `world` shares. Raises `BaseModelError`."""
    opened = open_model(base, world=world)
    return Session(base, opened, Encoder(opened, base, hashes), events)


@dataclass(frozen=True)
class RunSession(Session):
    """A run's own session. Only the weights in memory change; `working` moves them."""

    plan: RunPlan
    store: RunStore
    working: WorkingWeights
    start: Delta
    """The new rows at their init."""
    data: Prepared
    evaluators: EvaluatorSet

    @property
    def recipe(self) -> Recipe:
        """The recipe that is run."""
        return self.plan.loaded.recipe

    @property
    def evaluation(self) -> Evaluation:
        """How its gates are measured."""
        return self.recipe.evaluation

    @property
    def start_state(self) -> str:
        """Fingerprint of the base with the new rows at their init."""
        return self.plan.start

    def content(self, dataset: str) -> str | None:
        """Hash of a dataset, its recordings included."""
        return self.plan.plan.datasets[dataset].sha256

    def ballots(self, gate: Gate) -> list[Ballot]:
        """The ballots that a gate counts."""
        return self.plan.ballots.get(gate.ballots or "", [])

    def rewarded(self, metric: str, where: str) -> bool:
        """Whether a stage up to `where` was rewarded by a metric."""
        return is_taught(self.recipe, metric, where)


def recipe_evaluators(session: Session, plan: RunPlan, journal: Path, settings: Evaluators | None = None) -> EvaluatorSet:
    """The evaluators that a recipe names, or others of it. `journal` is the file of what they answered so far."""
    loaded, recipe = plan.loaded, plan.loaded.recipe
    places = {need: loaded.node.at("evaluators", need).place for need in ("asr", "speaker", "mos")}
    identity = session.base.identity
    choice = EvaluatorChoice(settings or recipe.evaluators, loaded.root, recipe.tags(), places)
    return EvaluatorSet(session.opened, identity, choice, session.hashes, Journal(journal, writes=session.world.first))
