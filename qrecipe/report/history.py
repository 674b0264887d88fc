"""A run as its events tell it: stages, losses, held-out values, verdicts, speed, and how it ended. Reads what is new of a file that grows."""

from __future__ import annotations

import json
import os
import statistics
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qrecipe.inputs.documents.verdicts import Verdict
from qrecipe.report.console import BARS, LINES, STAGE_LINES, Fields
from qrecipe.report.rewards import RewardRows

Points = list[tuple[int, float]]
"""(step, value), by step."""

RECENT = 32
"""Steps whose median duration is the speed."""
STATES = {
    "accepted": "Accepted: every gate of `accept` passed, and the bundle is written.",
    "rejected": "Not accepted: a gate of `accept` did not pass, so there is no bundle.",
    "stopped": "Stopped by a gate of a stage: there is no bundle.",
    "until": "Ended after the stage that --until names. The same command without it goes on from there.",
    "interrupted": "Interrupted. The same command goes on from there.",
    "failed": "Failed.",
    "killed": "The process of this run is gone, and it did not end by itself. The same command goes on from there.",
}
"""How a run ended, in words."""
WAITING = "There is no run here yet. This page shows it when it begins."
NOTED = ("data_warning", "filtered", "recomputing", "resumed", "checkpoint_damaged", "step_skipped", "loss_spike", "memory_split")
"""Events that are lines of the page."""
NOTES = 20
"""Lines that are shown, the latest."""


@dataclass
class StageHistory:
    """A stage as it was trained last, resumed or not."""

    fingerprint: str = ""
    state: str = "waiting"
    """`waiting`, `training`, or how it ended: `kept`, `reverted`, `failed`, `skipped`."""
    compared: str = "new"
    """Differences to the last run of the recipe, in words."""
    step: int = 0
    of: int = 0
    losses: dict[str, Points] = field(default_factory=dict)
    """By term: mean over the labels, nats."""
    held_out: Points = field(default_factory=list)
    best: int | None = None
    """Step of the best held-out value."""
    rewards: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Of the objective `reward`: numbers of a step."""


@dataclass
class RunHistory:
    """The last run of a folder as its events tell it, with the verdicts of the run before."""

    recipe: str = ""
    version: str = ""
    plan: str = ""
    device: str = ""
    start: str = ""
    """Fingerprint of the base with the new rows at their init."""
    ended: str | None = None
    """One of `STATES`; None while it runs, and where it was killed, which no event tells."""
    error: str = ""
    """Why it failed."""
    memory: int = 0
    """Most bytes that the process has held so far: of the GPU, else of the machine."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Where the time went, by phase."""
    stages: dict[str, StageHistory] = field(default_factory=dict)
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    """By the stage after which they were judged; `accept` last."""
    before: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    """Verdicts of the run before, by stage and gate."""
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=NOTES))
    activity: str = ""
    """Work beside training, such as `speaking dev: 8 of 24`."""
    _durations: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    _last_step: float | None = None
    _latest: float = 0.0

    @property
    def title(self) -> str:
        """The recipe and the version of its bundle."""
        return f"{self.recipe} {self.version}".strip()

    @property
    def state(self) -> str:
        """Where the run is, in a sentence that changes seldom."""
        if self.ended is not None:
            return STATES.get(self.ended, self.ended) + (f" {self.error}" if self.ended == "failed" else "")
        if not self.recipe:
            return WAITING
        return f"Running: stage {self.training}." if self.training else "Running."

    @property
    def training(self) -> str | None:
        """The stage that is being trained."""
        return next((name for name, s in self.stages.items() if s.state == "training"), None) if self.ended is None else None

    @property
    def step_seconds(self) -> float | None:
        """Duration of a step, the median of the last ones; what is spoken or measured between steps does not count."""
        return statistics.median(self._durations) if self._durations else None

    @property
    def rewards(self) -> RewardRows:
        """Numbers of the stages that learn from rewards."""
        return {name: s.rewards for name, s in self.stages.items() if s.rewards}

    def feed(self, event: Any) -> None:
        """Takes an event in. One that is none, or of another version, says nothing."""
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            kind = event["event"]
            self._latest = max(self._latest, event.get("time", 0.0))
            if kind in NOTED:
                words = LINES.get(kind) or STAGE_LINES[kind]
                self.notes.append((f"{event['stage']}: " if "stage" in event else "") + words(event))
            if (handler := _HANDLERS.get(kind)) is not None:
                handler(self, event)

    def progress(self, event: Any) -> None:
        """Takes in progress that passes."""
        self.activity = ""
        with suppress(KeyError, TypeError, ValueError, AttributeError):
            if event["event"] in BARS and event["time"] >= self._latest:  # what came after it is on record
                title, done, of, _ = BARS[event["event"]](event)
                self.activity = f"{title}: {done:,} of {of:,}"

    def _started(self, e: Fields) -> None:
        self.before |= {(where, v.gate): v for where, verdicts in self.verdicts.items() for v in verdicts}
        self.verdicts, self.ended, self.error, self.seconds, self.memory = {}, None, "", {}, 0
        self.recipe, self.version, self.plan = e["recipe"], e.get("version", ""), e["plan"]
        self.device, self.start = e["device"], e.get("start", "")
        self.notes.clear()
        stages = {name: self.stages.get(name, StageHistory()) for name in e["stages"]}
        for name, stage in stages.items():
            stage.state, stage.compared = "waiting", e["stages"][name]
        self.stages = stages

    def _stage_started(self, e: Fields) -> None:
        old = self.stages.get(e["stage"], StageHistory())
        stage = old if old.fingerprint == e["fingerprint"] else StageHistory(e["fingerprint"], compared=old.compared)
        stage.state = "judged" if e["event"] == "stage_reused" else "training"
        self.stages[e["stage"]] = stage
        self._durations.clear()
        self._last_step = None

    def _step(self, e: Fields) -> None:
        stage, step = self.stages[e["stage"]], int(e["step"])
        stage.step, stage.of = step, int(e["of"])
        for term, loss in e["losses"].items():
            _put(stage.losses.setdefault(term, []), step, float(loss))
        if step in stage.rewards:
            stage.rewards[step]["divergence"] = e["losses"].get("divergence")
        self.memory = max(self.memory, int(e.get("memory", 0)))
        if self._last_step is not None:
            self._durations.append(e["time"] - self._last_step)
        self._last_step = e["time"]

    def _select(self, e: Fields) -> None:
        stage = self.stages[e["stage"]]
        _put(stage.held_out, int(e["step"]), float(e["value"]))
        stage.best = int(e["step"]) if e["best"] else stage.best
        self._last_step = None  # measuring is not training

    def _reward(self, e: Fields) -> None:
        rewards = self.stages[e["stage"]].rewards
        for step in [s for s in rewards if s >= e["step"]]:
            del rewards[step]
        rewards[e["step"]] = {k: v for k, v in e.items() if k not in ("event", "time", "stage")}

    def _verdict(self, e: Fields) -> None:
        fields = {k: v for k, v in e.items() if k in Verdict.model_fields}
        self.verdicts.setdefault(e["where"], []).append(Verdict.model_validate(fields, strict=False))

    def _stage_over(self, e: Fields) -> None:
        self.stages[e["stage"]].state = e.get("status", "skipped")

    def _finished(self, e: Fields) -> None:
        self.ended, self.seconds = e["status"], dict(e.get("seconds") or {})

    def _failed(self, e: Fields) -> None:
        self.ended = "interrupted" if e["error"] in ("Interrupted", "KeyboardInterrupt") else "failed"
        self.error = e["message"]


_HANDLERS: dict[str, Callable[[RunHistory, Fields], None]] = {
    "run_started": RunHistory._started,
    "stage_started": RunHistory._stage_started,
    "stage_reused": RunHistory._stage_started,
    "step": RunHistory._step,
    "select": RunHistory._select,
    "reward": RunHistory._reward,
    "verdict": RunHistory._verdict,
    "stage_finished": RunHistory._stage_over,
    "stage_skipped": RunHistory._stage_over,
    "run_finished": RunHistory._finished,
    "run_failed": RunHistory._failed,
}


def _put(points: Points, step: int, value: float) -> None:
    """Adds a point; a stage that was resumed computes steps after its checkpoint again."""
    while points and points[-1][0] >= step:
        points.pop()
    points.append((step, value))


class EventReader:
    """Follows a file of events. What is half written waits for its end; a file that was put aside begins anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.history = RunHistory()
        self._at = 0
        self._inode = 0

    def read(self) -> RunHistory:
        """The history with everything that the file holds by now."""
        try:
            with open(self.path, "rb") as f:
                status = os.fstat(f.fileno())
                if status.st_ino != self._inode or status.st_size < self._at:
                    self.history, self._at, self._inode = RunHistory(), 0, status.st_ino
                f.seek(self._at)
                content = f.read()
        except OSError:
            return self.history
        whole, end, _ = content.rpartition(b"\n")
        self._at += len(whole) + len(end)
        for line in whole.split(b"\n"):
            with suppress(ValueError, RecursionError):  # half a line of a run that was killed
                self.history.feed(json.loads(line))
        return self.history
