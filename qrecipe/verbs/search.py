"""`search`: variants of a recipe by successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943), each judged by ear.

All variants get a small share of the recipe's training; the better third goes on with three times as much, until one has all of
it or the time is over. Every result is stored, so a search goes on where it was stopped.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch

from qrecipe.errors import RecipeError, UserError
from qrecipe.evaluate.intervals import bootstrap
from qrecipe.evaluate.statistics import shortfall
from qrecipe.files import digest, read_json, write_json, write_text
from qrecipe.plan import make_plan
from qrecipe.plan.candidates import AS_IT_IS, Candidate, candidates, content
from qrecipe.recipe import LoadedRecipe, load
from qrecipe.recipe.metrics import spec_of
from qrecipe.recipe.search import Search
from qrecipe.report.search import Ranked, page
from qrecipe.run.locking import lock_path
from qrecipe.source.writer import write_yaml
from qrecipe.verbs.trial import RESULT

ETA = 3
"""One variant in so many goes on, with so many times the training."""
POLL = 0.5
"""Seconds between two looks at the time."""
GRACE = 60.0
"""Seconds that a variant has to store its state when the time is over."""


@dataclass(frozen=True)
class Trial:
    """A variant with its share of the recipe's training."""

    candidate: Candidate
    share: float

    @property
    def name(self) -> str:
        """Of its folders."""
        return f"{self.candidate.name}-{round(1 / self.share)}"


@dataclass(frozen=True)
class TrialScores:
    """Measurements of a trial."""

    values: dict[str, float]
    """The metric by line of the dataset."""
    centre: tuple[float, float, float] | None
    """Value and interval; None where no sentence has a value."""
    seconds: float
    error: str | None = None
    """Why there is nothing."""


TryOut = Callable[[Trial, str | None, float], TrialScores | None]
"""Carries out a trial on a device before a moment (`time.monotonic`); None if the time was over."""


@dataclass(frozen=True)
class SearchOutcome:
    """How a search ended."""

    ranked: list[Ranked]
    """The best first."""
    page: Path
    winner: Path | None
    """The recipe file of the best variant; None where that is the recipe as it is, or nothing was heard."""
    finished: bool
    """Whether the best variant had all of its training."""


def devices() -> list[str | None]:
    """Values of CUDA_VISIBLE_DEVICES for processes side by side: a GPU each, or one process without."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None and named.strip():
        return list(named.split(","))
    return [str(i) for i in range(torch.cuda.device_count())] or [None]


def search(loaded: LoadedRecipe, runs: Path, minutes: float, tell: Callable[[str], None]) -> SearchOutcome:
    """Searches for so many minutes. Raises `UserError`."""
    settings = loaded.recipe.search
    if settings is None:
        help_ = "`search: {data: NAME}`, a dataset that no stage trains on and no gate reads"
        raise RecipeError(loaded.node.key_problem("QR011", "`search` is missing: which sentences choose?", help_))
    folder = runs / f"{loaded.recipe.name}.search"
    tries = _Tries(loaded, settings, folder)
    chosen = tries.usable(tell)
    try:
        halving = Halving(chosen, tries.cached, devices(), time.monotonic() + 60 * minutes, settings, tell, tries.halt)
        halving.run()
    finally:
        tries.clear()
    ranked = halving.ranked()
    best = next((r for r in ranked if r.value is not None), None)
    winner = None
    if best is not None and best.name != AS_IT_IS:
        candidate = next(c for c in chosen if c.name == best.name)
        winner = loaded.file.with_name(f"{loaded.file.stem}.found.yaml")
        write_text(winner, write_yaml(content(loaded, candidate, f"{loaded.recipe.name[:50]}-found")))
    place = folder / "search.html"
    write_text(place, page(loaded.recipe.name, settings.metric, ranked, folder))
    return SearchOutcome(ranked, place, winner, best is not None and best.share == 1.0)


@dataclass
class Halving:
    """Successive halving over variants."""

    candidates: Sequence[Candidate]
    try_out: TryOut
    devices: Sequence[str | None]
    deadline: float
    settings: Search
    tell: Callable[[str], None]
    halt: Callable[[], None] = lambda: None
    """Ends what is being tried."""
    heard: dict[tuple[str, float], TrialScores] = field(default_factory=dict)
    """By variant and share."""

    def run(self) -> None:
        """Rounds until one variant has had all of its training, or the time is over."""
        rounds = math.ceil(math.log(max(2, len(self.candidates)), ETA))
        going = list(self.candidates)
        for k in range(rounds + 1):
            share = float(ETA) ** (k - rounds)
            going = self._affordable(going, share)
            if not going:
                return
            left = max(0.0, self.deadline - time.monotonic()) / 60
            self.tell(
                f"round {k + 1} of {rounds + 1}: {len(going)} variants at 1/{round(1 / share)} of their training, {left:.0f} min left"
            )
            if not self._round([Trial(c, share) for c in going]):
                return
            order = [r.name for r in self.ranked() if r.share == share and r.value is not None]
            if not order:
                return
            best = order[: math.ceil(len(going) / ETA)]
            # the recipe as it is stays, whatever became of it: differences are to it, at the same share
            going = [c for c in self.candidates if c.name in {*best, AS_IT_IS}]

    def _affordable(self, going: list[Candidate], share: float) -> list[Candidate]:
        """As many of the variants as the time that is left is enough for, the better ones, by what they took before."""
        spent = [h.seconds for (_, s), h in self.heard.items() if s < share and h.error is None]
        before = [h.seconds for (_, s), h in self.heard.items() if s == share / ETA and h.error is None]
        if not spent or not before:
            return going
        left = self.deadline - time.monotonic()
        many = int(left * len(self.devices) / (sum(before) / len(before) * ETA))
        order = [r.name for r in self.ranked()]
        return sorted(going, key=lambda c: order.index(c.name))[:many]

    def _round(self, trials: list[Trial]) -> bool:
        """Carries out trials, one a device at a time; False if the time was over before all were."""
        waiting: SimpleQueue[Trial] = SimpleQueue()
        for trial in trials:
            waiting.put(trial)
        stop = threading.Event()

        def work(device: str | None) -> None:
            while not stop.is_set() and time.monotonic() < self.deadline and not waiting.empty():
                trial = waiting.get()
                heard = self.try_out(trial, device, self.deadline)
                if heard is not None:
                    self.heard[trial.candidate.name, trial.share] = heard
                    number = "nothing" if heard.centre is None else f"{self.settings.metric} {heard.centre[0]:.3g}"
                    self.tell(f"  {trial.candidate.name}: {heard.error or number} ({heard.seconds:.0f} s)")

        with ThreadPoolExecutor(len(self.devices)) as pool:
            try:
                for done in [pool.submit(work, d) for d in self.devices]:
                    done.result()
            except BaseException:
                stop.set()
                self.halt()  # the pool is left when its threads are done
                raise
        return all((t.candidate.name, t.share) in self.heard for t in trials)

    def ranked(self) -> list[Ranked]:
        """Variants by how much training they had, then by the metric; those without a value last."""
        spec, rows = spec_of(self.settings.metric), []
        tried = len({name for name, _ in self.heard} - {AS_IT_IS})
        for candidate in self.candidates:
            shares = [s for name, s in self.heard if name == candidate.name]
            if not shares:
                rows.append(Ranked(candidate.name, 0.0))
                continue
            share = max(shares)
            heard = self.heard[candidate.name, share]
            value, *interval = heard.centre or (None,)
            versus = self._difference(heard, self.heard.get((AS_IT_IS, share)), candidate.name, max(1, tried))
            rows.append(Ranked(candidate.name, share, value, tuple(interval), versus, heard.seconds, heard.error))  # type: ignore[arg-type]
        return sorted(rows, key=lambda r: (r.value is None, -r.share, math.inf if r.value is None else shortfall(spec, r.value), r.name))

    def _difference(self, heard: TrialScores, plain: TrialScores | None, name: str, tried: int) -> tuple[float, float, float] | None:
        """The difference to the recipe as it is, over the same sentences, with an interval for so many variants."""
        if plain is None or name == AS_IT_IS:
            return None
        lines = sorted(heard.values.keys() & plain.values.keys())
        if not lines:
            return None
        numbers = np.array([heard.values[line] - plain.values[line] for line in lines])
        low, high = bootstrap(numbers, 1 - (1 - self.settings.confidence) / tried, f"search {name}")
        return float(numbers.mean()), low, high


class _Tries:
    """Trials as processes, whose results are stored by all that they depend on."""

    def __init__(self, loaded: LoadedRecipe, settings: Search, folder: Path) -> None:
        self._loaded, self._settings, self._folder = loaded, settings, folder
        self._files: dict[str, Path] = {}
        self._halted = threading.Event()

    def halt(self) -> None:
        """Interrupts the processes, which store their state."""
        self._halted.set()

    def usable(self, tell: Callable[[str], None]) -> list[Candidate]:
        """Writes the variants beside the recipe. Raises `UserError` for one that the recipe states and that is wrong; a shipped one
        that does not fit the recipe is left out."""
        own, usable = self._settings.candidates, []
        for candidate in candidates(self._loaded):
            file = self._loaded.file.with_name(f".{self._loaded.file.stem}.{candidate.name}.yaml")
            write_text(file, write_yaml(content(self._loaded, candidate, f"{self._loaded.recipe.name[:30]}-{candidate.name}"[:60])))
            self._files[candidate.name] = file
            try:
                make_plan(load(file)).problems.strict().errors.raise_any(RecipeError)
            except UserError as e:
                if candidate.name in own or candidate.name == AS_IT_IS:
                    self.clear()
                    raise
                tell(f"{candidate.name} is left out: {next(iter(e.problems)).message}")
                continue
            usable.append(candidate)
        return usable

    def clear(self) -> None:
        """Takes the variants away; their results stay."""
        for file in self._files.values():
            file.unlink(missing_ok=True)
            lock_path(file).unlink(missing_ok=True)

    def cached(self, trial: Trial, device: str | None, deadline: float) -> TrialScores | None:
        """A trial's result, from the store or from a process."""
        file, sets = self._files[trial.candidate.name], self._sets(trial)
        plan = make_plan(load(file, sets)).plan
        key = digest([plan.hash, self._settings.model_dump(mode="json", exclude={"candidates", "defaults"}), self._content()])
        stored = self._folder / "results" / f"{key[:32]}.json"
        if stored.is_file():
            value = read_json(stored)
            return TrialScores(
                value["values"], None if value["centre"] is None else tuple(value["centre"]), value["seconds"], value["error"]
            )
        heard = self._process(trial, file, sets, device, deadline)
        if heard is not None:
            write_json(stored, {"values": heard.values, "centre": heard.centre, "seconds": heard.seconds, "error": heard.error})
        return heard

    def _content(self) -> str | None:
        """Content of the sentences that choose, of which a plan says nothing: it reads neither their recordings nor their text."""
        dataset = self._loaded.recipe.datasets[self._settings.data]
        return digest(self._loaded.path(dataset.path).read_text("utf-8"))

    def _sets(self, trial: Trial) -> list[str]:
        """A share of each stage's training, without gates: the sentences that choose judge alone."""
        sets = ["accept=[]", "evaluation.probe_gates=false", f"name={self._loaded.recipe.name[:20]}-{trial.name}"[:65]]
        for stage in load(self._files[trial.candidate.name]).recipe.stages:
            sets += [f"stages.{stage.id}.gates=[]", f"stages.{stage.id}.on_pass=continue"]
            if stage.epochs is not None:
                sets.append(f"stages.{stage.id}.epochs={stage.epochs * trial.share:.6g}")
            else:
                sets.append(f"stages.{stage.id}.steps={max(1, round((stage.steps or 1) * trial.share))}")
        return sets

    def _wait(self, process: subprocess.Popen[bytes], deadline: float) -> int | None:
        """A process's exit code; None where it was interrupted, by the deadline or by a person, and has stored its state."""
        code = None
        while code is None:
            try:
                code = process.wait(POLL)
            except subprocess.TimeoutExpired:
                if self._halted.is_set() or time.monotonic() >= deadline:
                    code = _interrupt(process)
        return None if code in (130, -signal.SIGINT, -signal.SIGKILL) else code

    def _process(self, trial: Trial, file: Path, sets: list[str], device: str | None, deadline: float) -> TrialScores | None:
        out = self._folder / "heard" / trial.name
        out.mkdir(parents=True, exist_ok=True)
        search = self._settings.model_dump(mode="json", include={"data", "metric", "prompts", "confidence"})
        task = {"file": str(file), "sets": sets, "runs": str(self._folder / "runs"), "out": str(out), "search": search}
        write_json(out / "task.json", task)
        environment = {**os.environ, **({} if device is None else {"CUDA_VISIBLE_DEVICES": device})}
        began = time.monotonic()
        with open(out / "log.txt", "w", encoding="utf-8") as log:
            command = [sys.executable, "-m", "qrecipe.verbs.trial", str(out / "task.json")]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            code = self._wait(process, deadline)
        if code is None:
            return None
        seconds = time.monotonic() - began
        if code:
            lines = (out / "log.txt").read_text("utf-8").strip().splitlines()
            return TrialScores({}, None, seconds, (lines or [f"ended with {code}"])[-1][:300])
        value: dict[str, Any] = read_json(out / RESULT)
        return TrialScores(value["values"], None if value["centre"] is None else tuple(value["centre"]), seconds)


def _interrupt(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
