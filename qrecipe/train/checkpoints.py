"""Checkpoints of a stage: everything that the next step depends on, so that a stopped stage goes on as if nothing had been.

A checkpoint is a folder `step-N` with the tensors that learn, the optimiser's moments, the best weights so far, the
random generators, and a manifest with the SHA-256 of every file, written last; the folder is written under a temporary
name, synced and renamed. The newest two are kept. One that does not verify is passed over for the one before. Holds
nothing of what does not train. Never pickles.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from qrecipe.errors import EngineError
from qrecipe.files import new_folder, read_json, read_sealed, sealed, sha256, write_json
from qrecipe.interrupts import whole
from qrecipe.model.weights import Delta, Learner
from qrecipe.train.objective import Objective

FORMAT = 1
MANIFEST = "manifest.json"
KEPT = 2
"""Checkpoints of a stage that stay; the older one is there for the day on which the newer does not verify."""
_NAME = re.compile(r"step-(\d{8})\Z")


@dataclass(frozen=True)
class Every:
    """How often a checkpoint is written. Says nothing about the result, so it is no part of a recipe."""

    minutes: float = 10.0
    steps: int | None = None
    """Also after so many steps."""


@dataclass
class Selection:
    """The best step so far by held-out data."""

    best_step: int = 0
    best_value: float = math.inf
    best: Delta | None = None
    history: list[tuple[int, float]] = field(default_factory=list)
    misses: int = 0


@dataclass
class Progress:
    """How far a stage has come, beside the tensors."""

    step: int = 0
    """Steps that are over, and so global batches that the sampler has given."""
    silent: list[int] = field(default_factory=list)
    """Groups of parameters that have had no gradient yet."""
    bad_row: int = 0
    """Steps in a row, up to now, that were skipped because a number was not finite."""
    bad: int = 0
    """Such steps in all."""
    taken: int = 0
    """Steps that changed weights."""
    recent: deque[dict[str, float]] = field(default_factory=deque)
    """Losses of the last tenth of the steps."""
    totals: deque[float] = field(default_factory=deque)
    """What a spike is compared with."""
    fits: int | None = None
    """Length of a micro-batch that fits into this machine's memory; None while none has been too large."""
    selection: Selection = field(default_factory=Selection)

    def as_json(self) -> dict[str, Any]:
        """Without tensors."""
        s = self.selection
        return {
            "step": self.step,
            "silent": self.silent,
            "bad_row": self.bad_row,
            "bad": self.bad,
            "taken": self.taken,
            "recent": list(self.recent),
            "totals": list(self.totals),
            "fits": self.fits,
            "selection": {
                "best_step": s.best_step,
                "best_value": s.best_value if s.best is not None else None,
                "history": s.history,
                "misses": s.misses,
            },
        }

    def load(self, value: dict[str, Any], best: Delta | None) -> None:
        """Takes over what `as_json` gave; the lengths of the windows stay as they are."""
        s = value["selection"]
        self.step, self.silent, self.fits = value["step"], list(value["silent"]), value["fits"]
        self.bad_row, self.bad, self.taken = value["bad_row"], value["bad"], value["taken"]
        self.recent = deque(value["recent"], self.recent.maxlen)
        self.totals = deque(value["totals"], self.totals.maxlen)
        best_value = s["best_value"] if s["best_value"] is not None else math.inf
        self.selection = Selection(s["best_step"], best_value, best, [(a, b) for a, b in s["history"]], s["misses"])


Randomness = dict[str, torch.Tensor]


def randomness(device: torch.device) -> Randomness:
    """States of every generator that a step may draw from, as tensors."""
    state = np.random.get_state(legacy=True)
    assert isinstance(state, tuple)
    version, internal, gauss = random.getstate()
    found = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(state[1].astype(np.int64)),
        "numpy_rest": torch.tensor([float(state[2]), float(state[3]), float(state[4])], dtype=torch.float64),
        "python": torch.tensor(internal, dtype=torch.int64),
        "python_rest": torch.tensor([float(version), math.nan if gauss is None else gauss], dtype=torch.float64),
    }
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def set_randomness(found: Randomness, device: torch.device) -> None:
    """Puts the generators back."""
    torch.set_rng_state(found["torch"])
    position, has_gauss, gauss = found["numpy_rest"].tolist()
    np.random.set_state(("MT19937", found["numpy"].numpy().astype(np.uint32), int(position), int(has_gauss), gauss))
    version, next_gauss = found["python_rest"].tolist()
    random.setstate((int(version), tuple(found["python"].tolist()), None if math.isnan(next_gauss) else next_gauss))
    if device.type == "cuda" and "cuda" in found:
        torch.cuda.set_rng_state(found["cuda"], device)


class Checkpoints:
    """The checkpoints of one stage of one run."""

    def __init__(
        self,
        folder: Path,
        trainable: dict[str, Any],
        every: Every | None = None,
        tell: Callable[..., None] | None = None,
        rank: int = 0,
    ) -> None:
        """
        Args:
            folder: where they lie; made when the first is written.
            trainable: the exact trainable set as the lock has it, asserted at every resume.
            every: how often one is due.
            tell: told `(event, **fields)` of what is written and of what does not verify.
            rank: of this process; the first alone writes, all of them read.
        """
        self.folder = folder
        self._trainable = trainable
        self._every = every or Every()
        self._tell = tell or (lambda event, **fields: None)
        self._rank = rank
        self._last_time = time.monotonic()
        self._last_step = 0

    def due(self, step: int) -> bool:
        """Whether it is time for the next one."""
        steps = self._every.steps
        if steps is not None and step - self._last_step >= steps:
            return True
        return time.monotonic() - self._last_time >= self._every.minutes * 60

    def save(self, progress: Progress, learner: Learner, optimizer: torch.optim.Optimizer, objective: Objective, drawn: Randomness) -> None:
        """Writes one, whole or not at all, and drops those that are too old. `drawn` are the generators after `progress.step`."""
        with whole():
            target = self.folder / f"step-{progress.step:08d}"
            self._last_time, self._last_step = time.monotonic(), progress.step
            if self._rank or (target / MANIFEST).is_file():
                return
            with new_folder(target) as folder:
                save_file(_learned(learner), str(folder / "learned.safetensors"))
                save_file(_moments(learner, optimizer), str(folder / "optimizer.safetensors"))
                save_file({**_prefixed("random", drawn), **_prefixed("objective", objective.state())}, str(folder / "rest.safetensors"))
                if progress.selection.best is not None:
                    progress.selection.best.save(folder / "best.safetensors")
                write_json(folder / "progress.json", progress.as_json())
                files = {f.name: sha256(f) for f in sorted(folder.iterdir())}
                manifest = {"checkpoint": FORMAT, "step": progress.step, "trainable": self._trainable, "files": files}
                write_json(folder / MANIFEST, sealed(manifest))
            self._tell("checkpoint", step=progress.step)
            for old in self._found()[KEPT:]:
                shutil.rmtree(old, ignore_errors=True)

    def resume(
        self, progress: Progress, learner: Learner, optimizer: torch.optim.Optimizer, objective: Objective, device: torch.device
    ) -> bool:
        """Goes on from the newest checkpoint that verifies. False if there is none; then nothing has changed.

        Raises `EngineError` if a checkpoint is whole and of another trainable set.
        """
        for folder in self._found():
            why = self._wrong(folder)
            if why is not None:
                self._tell("checkpoint_damaged", path=str(folder), reason=why)
                shutil.rmtree(folder, ignore_errors=True)
                continue
            learned = load_file(str(folder / "learned.safetensors"))
            moments = load_file(str(folder / "optimizer.safetensors"))
            rest = load_file(str(folder / "rest.safetensors"))
            best = Delta.load(folder / "best.safetensors") if (folder / "best.safetensors").is_file() else None
            _set_learned(learner, learned)
            _set_moments(learner, optimizer, moments)
            objective.set_state({k.removeprefix("objective."): v for k, v in rest.items() if k.startswith("objective.")})
            progress.load(read_json(folder / "progress.json"), best)
            set_randomness({k.removeprefix("random."): v for k, v in rest.items() if k.startswith("random.")}, device)
            self._last_time, self._last_step = time.monotonic(), progress.step
            self._tell("resumed", step=progress.step)
            return True
        return False

    def clear(self) -> None:
        """The stage is finished and kept: its checkpoints have no use any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _found(self) -> list[Path]:
        """Newest first."""
        return newest_first(self.folder)

    def _wrong(self, folder: Path) -> str | None:
        """Why a checkpoint cannot be used, or None."""
        try:
            manifest = read_sealed(folder / MANIFEST)
            files = dict(manifest["files"])
            if manifest["checkpoint"] != FORMAT:
                return f"format {manifest['checkpoint']}"
            for name, expected in files.items():
                if sha256(folder / name) != expected:
                    return f"{name} was changed"
            trainable = manifest["trainable"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            return str(e)
        if trainable != json.loads(json.dumps(self._trainable)):
            raise EngineError(f"the checkpoint {folder} is of another trainable set than the plan's; nothing was trained from it")
        return None


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a stage's folder, by step."""
    if not folder.is_dir():
        return []
    return sorted((f for f in folder.iterdir() if _NAME.match(f.name)), key=lambda f: f.name, reverse=True)


def _prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{k}": v.detach().to("cpu").contiguous() for k, v in tensors.items()}


def _learned(learner: Learner) -> dict[str, torch.Tensor]:
    return {f"{i}": p.detach().to("cpu").contiguous() for i, p in enumerate(learner.parameters())}


@torch.no_grad()
def _set_learned(learner: Learner, learned: dict[str, torch.Tensor]) -> None:
    parameters = list(learner.parameters())
    if {str(i): tuple(p.shape) for i, p in enumerate(parameters)} != {k: tuple(v.shape) for k, v in learned.items()}:
        raise EngineError("the checkpoint holds other tensors than the plan trains; nothing was trained from it")
    for i, parameter in enumerate(parameters):
        parameter.copy_(learned[str(i)].to(parameter.device))


def _moments(learner: Learner, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state of every parameter that has had a step."""
    found = {}
    for i, parameter in enumerate(learner.parameters()):
        for name, value in optimizer.state.get(parameter, {}).items():
            found[f"{i}.{name}"] = torch.as_tensor(value).detach().to("cpu").contiguous()
    return found


def _set_moments(learner: Learner, optimizer: torch.optim.Optimizer, moments: dict[str, torch.Tensor]) -> None:
    for i, parameter in enumerate(learner.parameters()):
        mine = {k.partition(".")[2]: v for k, v in moments.items() if k.partition(".")[0] == str(i)}
        if mine:  # the count of steps stays on the CPU unless AdamW is fused, as it keeps it
            stays = () if optimizer.defaults.get("fused") else ("step",)
            optimizer.state[parameter] = {k: v if k in stays else v.to(parameter.device) for k, v in mine.items()}
