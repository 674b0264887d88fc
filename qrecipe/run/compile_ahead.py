"""Compiles what stages need in a process beside the run, while the base is measured and speaks: torch keeps the result on the machine.

The process opens the base a second time, takes one step of every stage on made-up frames, throws it away, and tells after each
stage. The run then finds everything compiled. Whatever goes wrong there changes nothing: the run compiles for itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from qrecipe.data.batches import Item
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.inputs.bases import LocalBase
from qrecipe.model.kernels import fused
from qrecipe.model.load import LoadedBase, open_model
from qrecipe.model.weights import Delta, Learner
from qrecipe.model.working import WorkingWeights, with_languages
from qrecipe.phases import phase
from qrecipe.plan.complete import RunPlan
from qrecipe.plan.compute import compute
from qrecipe.plan.trainable import Trainable
from qrecipe.recipe.language import Language
from qrecipe.recipe.stage import SpokenStage
from qrecipe.train.objectives.speech import SpeechObjective

ROOM = 2
"""Times the most that a stage takes by the plan's estimate which a GPU must have free."""
FRAMES = (40, 53, 61, 74)
"""Of the made-up rows: several lengths, so that none is taken for the only one."""
TEXT = "One two three four five six seven."


@dataclass(frozen=True)
class Work:
    """One stage to compile."""

    stage: SpokenStage
    trainable: Trainable
    terms: tuple[str, ...]
    """Losses that can move anything that trains."""
    language: str
    """Of the made-up frames: one of the recipe's, where it adds any, so that a gradient reaches its row."""


class CompileAhead:
    """The process, or none."""

    def __init__(self, process: BaseProcess | None = None, answers: Connection | None = None) -> None:
        self._process, self._answers = process, answers
        self._compiled: set[str] = set()

    @classmethod
    def start(cls, plan: RunPlan, device: torch.device, stages: Sequence[str]) -> CompileAhead:
        """Begins with the stages among `stages` that speak frames and are compiled, in the recipe's order. Only on a GPU with room for both."""
        if device.type == "cpu":
            return cls()
        free = torch.cuda.mem_get_info(device)[0]
        language = next(iter([*plan.rows, *plan.base.languages]))
        work: list[Work] = []
        for stage in plan.loaded.recipe.stages:
            if not isinstance(stage, SpokenStage) or stage.compile == "off" or stage.id not in stages:
                continue
            cost = compute(stage, plan.trainables[stage.id], plan.base.tensors, None)
            if cost is not None and ROOM * cost.peak < free:
                work.append(Work(stage, plan.trainables[stage.id], cost.terms, language))
        if not work:
            return cls()
        answers, answering = multiprocessing.Pipe(duplex=False)
        about = (plan.base, plan.loaded.recipe.languages, plan.rows, work, answering)
        process = multiprocessing.get_context("spawn").Process(target=_work, args=about, daemon=True)
        process.start()
        answering.close()
        return cls(process, answers)

    @phase("compiling")
    def wait(self, stage: str) -> None:
        """Returns once a stage is compiled, or will not be."""
        while self._answers is not None and stage not in self._compiled:
            try:
                self._compiled.add(self._answers.recv())
            except EOFError:  # it has ended, well or not
                self.close()

    def __enter__(self) -> CompileAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None and self._answers is not None:
            self._process.kill()
            self._process.join()
            self._answers.close()
        self._process = self._answers = None


def _work(base: LocalBase, languages: Mapping[str, Language], rows: Mapping[str, int], work: Sequence[Work], answering: Connection) -> None:
    """The process: silent, and deaf to Ctrl-C, which the run itself hears."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    opened = open_model(base)
    start = with_languages(WorkingWeights(opened), base.languages, {key: (row, languages[key]) for key, row in rows.items()})
    for item in work:
        with fused.compiled(True):
            take_a_step(opened, start, item)
        answering.send(item.stage.id)


def take_a_step(opened: LoadedBase, start: Delta, work: Work) -> None:
    """Losses of made-up frames and their gradients, as a stage computes them; no weight changes."""
    stage = work.stage
    learner = Learner(opened.net, work.trainable, start, stage.masters)
    try:
        data = {"made-up": _made_up(opened, work.language)}
        objective = SpeechObjective(stage, opened, learner.tables, data, 0, work.terms)
        items = [Item("made-up", i, length) for i, length in enumerate(FRAMES)]
        with opened.autocast():
            sums = objective.loss_sums(items, 1)
        torch.stack([s for s in sums.values() if s.requires_grad]).sum().backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
    finally:
        learner.close()
        opened.reset()


def _made_up(opened: LoadedBase, language: str) -> SpeechData:
    """Rows of random codes in one voice."""
    drawn = torch.Generator().manual_seed(0)
    voice = Path("voice")
    role, body = opened.tokenizer.assistant(TEXT)
    rows = []
    for line, frames in enumerate(FRAMES, start=1):
        codes = torch.randint(0, opened.codebook_size, (frames, opened.groups), generator=drawn)
        rows.append(SpeechRow(line, TEXT, role, body, codes, 0.0, 0.0, "", voice, TEXT, False))
    x_vector = torch.randn(opened.talker.config.hidden_size, generator=drawn)
    return SpeechData("made-up", language, rows, x_vectors={voice: x_vector}, reference_codes={voice: rows[0].codes})
