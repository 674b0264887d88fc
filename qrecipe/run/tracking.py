"""Trackers of experiments (TensorBoard, Trackio, Weights & Biases) through accelerate's: a listener of a run's events, nothing more.

A tracker that fails is left out from then on and said once; it never ends a run.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import soundfile

from qrecipe.errors import Place, Problem, UserError, suggest
from qrecipe.evaluate.samples import stored_samples
from qrecipe.qwen3 import SAMPLE_RATE
from qrecipe.run.events import Event, Listener

TRACKERS = {"tensorboard": "TensorBoardTracker", "trackio": "TrackioTracker", "wandb": "WandBTracker"}
"""By the name of `--track`, which is that of the package: accelerate's class."""
SENTENCES = 4
"""Sounds of a stage that are sent."""
Say = Callable[[str], None]


def _sound(name: str, tracker: Any, tag: str, samples: Any) -> None:
    """Sends [samples] at 24 kHz in the tracker's own way: accelerate has none."""
    if name == "tensorboard":
        tracker.tracker.add_audio(tag, samples[None], sample_rate=SAMPLE_RATE)
    else:
        package = importlib.import_module(name)
        tracker.log({tag: package.Audio(samples, sample_rate=SAMPLE_RATE)})


def open_trackers(names: Sequence[str], folder: Path, run: str) -> dict[str, Any]:
    """Accelerate's trackers by name. Raises `UserError` for one that is unknown or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise UserError(Problem("QR070", f"no tracker is called `{name}`", Place("--track"), suggest(name, TRACKERS)))
        if importlib.util.find_spec(name) is None:
            raise UserError(Problem("QR080", f"`{name}` is not installed here", Place("--track"), f"pip install {name}", "error"))
    from accelerate import PartialState, tracking

    PartialState()  # trackers ask it which process they are in
    trackers = {}
    for name in dict.fromkeys(names):
        where = {"logging_dir": str(folder)} if name == "tensorboard" else {}
        tracker = getattr(tracking, TRACKERS[name])(run, **where)
        tracker.start()
        trackers[name] = tracker
    return trackers


class Tracking:
    """Sends losses, held-out values, verdicts, sounds and the plan's hash. Passes every event on to another listener."""

    def __init__(self, trackers: dict[str, Any], stages: Path, listener: Listener, say: Say) -> None:
        self._trackers = trackers
        self._stages = stages
        self._listener = listener
        self._say = say

    def __call__(self, event: Event) -> None:
        """Shows an event, then sends it."""
        self._listener(event)
        kind = event["event"]
        if kind == "run_started":
            self._all(lambda name, t: t.store_init_configuration({"recipe": event["recipe"], "plan": event["plan"]}))
        elif kind == "step":
            values = {f"{event['stage']}/loss/{k}": v for k, v in event["losses"].items()}
            self._log(values | {f"{event['stage']}/rate": event["rate"]}, event["step"])
        elif kind == "select":
            self._log({f"{event['stage']}/held out": event["value"]}, event["step"])
        elif kind == "verdict" and event["value"] is not None:
            gate = f"{event['where']}/{event['gate']}"
            ends = {f"{gate}/{end}": event[end] for end in ("low", "high") if event[end] is not None}
            self._log({gate: event["value"], f"{gate}/passed": float(event["outcome"] == "pass"), **ends}, None)
        elif kind == "run_finished":
            self._sounds()

    def close(self) -> None:
        """Ends every tracker."""
        self._all(lambda name, tracker: tracker.finish())

    def _log(self, values: dict[str, Any], step: int | None) -> None:
        self._all(lambda name, tracker: tracker.log(values, step=step))

    def _sounds(self) -> None:
        for folder in sorted(self._stages.iterdir()) if self._stages.is_dir() else ():
            for where, file in islice(stored_samples(folder / "samples"), SENTENCES):
                with suppress(soundfile.SoundFileError):  # one that is damaged is spoken again by the next run
                    samples, _ = soundfile.read(str(file), dtype="float32")
                    self._all(partial(_sound, tag=f"{folder.name}/{where[0]}/{where[2]}", samples=samples))

    def _all(self, do: Callable[[str, Any], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                do(name, tracker)
            except Exception as e:  # a server that is away is no reason to stop a run
                del self._trackers[name]
                reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:200]
                self._say(f"{name} gets nothing more: {reason}")
