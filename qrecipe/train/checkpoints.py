"""Checkpoints of a stage: everything that the next step depends on, so that a stopped stage resumes as if undisturbed.

A checkpoint is a folder `step-N` with the tensors that learn, the optimiser's moments, the best weights so far, and a
manifest with the SHA-256 of every file, written last. The folder is written under a temporary name, synced and renamed.
The newest two are kept. One that does not verify is passed over for the one before. Holds nothing that does not train, and
no random generators: no step draws from them. Never pickles.

Disks are small beside optimisers. The older checkpoint goes before the next is written, the best weights are a link to the
checkpoint of their step, and a GPU's moments are stored in bfloat16: AdamW forgets them within twenty steps.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from qrecipe.errors import EngineError
from qrecipe.files import new_folder, read_json, read_sealed, sealed, write_json
from qrecipe.hashes import sha256
from qrecipe.interrupts import whole
from qrecipe.model.weights import Learner
from qrecipe.phases import phase
from qrecipe.train.objectives.objective import Objective
from qrecipe.train.observer import Observer
from qrecipe.train.progress import Progress

FORMAT = 3
MANIFEST = "manifest.json"
LEARNED, BEST = "learned.safetensors", "best.safetensors"
_NAME = re.compile(r"step-(\d{8})\Z")


@dataclass(frozen=True)
class Every:
    """How often a checkpoint is written. Changes no result, so it is no part of a recipe."""

    minutes: float = 10.0
    steps: int | None = None
    """Also after so many steps."""
    keep: int = 2
    """Checkpoints of a stage that are kept; the older one is for the case that the newer does not verify."""


class StageCheckpoints:
    """The checkpoints of one stage of one run."""

    def __init__(
        self,
        folder: Path,
        trainable: dict[str, Any],
        every: Every | None = None,
        observer: Observer | None = None,
        rank: int = 0,
    ) -> None:
        """
        Args:
            folder: of this stage's checkpoints; made when the first is written.
            trainable: the exact trainable set as the lock has it, asserted at every resume.
            every: how often one is due.
            observer: told of every checkpoint that is written, resumed, or does not verify.
            rank: of this process; the first alone writes, all of them read.
        """
        self.folder = folder
        self._trainable = trainable
        self._every = every or Every()
        self._observer = observer or Observer()
        self._rank = rank
        self._last_time = time.monotonic()
        self._last_step = 0

    def due(self, step: int) -> bool:
        """Whether it is time for the next one."""
        steps = self._every.steps
        if steps is not None and step - self._last_step >= steps:
            return True
        return time.monotonic() - self._last_time >= self._every.minutes * 60

    @phase("checkpoints")
    def save(self, progress: Progress, learner: Learner, optimizer: torch.optim.Optimizer, objective: Objective) -> None:
        """Writes a checkpoint, whole or not at all, and drops those that are too old."""
        with whole():
            target = self.folder / f"step-{progress.step:08d}"
            self._last_time, self._last_step = time.monotonic(), progress.step
            if self._rank or (target / MANIFEST).is_file():
                return
            self._drop(max(1, self._every.keep - 1))
            with new_folder(target) as folder:
                save_file(learner.state(), str(folder / LEARNED))
                save_file(_moments(learner, optimizer), str(folder / "optimizer.safetensors"))
                save_file(_prefixed("objective", objective.state()), str(folder / "rest.safetensors"))
                self._save_best(folder, progress)
                write_json(folder / "progress.json", progress.as_json())
                files = _hashes(folder, sorted(f.name for f in folder.iterdir()))
                manifest = {"checkpoint": FORMAT, "step": progress.step, "trainable": self._trainable, "files": files}
                write_json(folder / MANIFEST, sealed(manifest))
            self._observer.event("checkpoint", step=progress.step)
            self._drop(self._every.keep)

    def _save_best(self, folder: Path, progress: Progress) -> None:
        """The best weights so far, as a link to a file that holds them already wherever there is one."""
        selection = progress.selection
        if selection.best is None:
            return
        target = folder / BEST
        if selection.best_step == progress.step:
            _link(folder / LEARNED, target)
            return
        for other in newest_first(self.folder):
            if other.name == f"step-{selection.best_step:08d}":
                return _link(other / LEARNED, target)
            if read_json(other / "progress.json")["selection"]["best_step"] == selection.best_step and (other / BEST).is_file():
                return _link(other / BEST, target)
        save_file(selection.best, str(target))

    def keep_newest(self) -> None:
        """Deletes all but the newest checkpoint, before the stage's result needs its place on the disk."""
        if not self._rank:
            self._drop(1)

    def _drop(self, keep: int) -> None:
        for old in newest_first(self.folder)[keep:]:
            shutil.rmtree(old, ignore_errors=True)

    def resume(self, progress: Progress, learner: Learner, optimizer: torch.optim.Optimizer, objective: Objective) -> bool:
        """Takes over the newest checkpoint that verifies. False if there is none; then nothing has changed.

        Raises `EngineError` if a checkpoint is whole and of another trainable set.
        """
        for folder in newest_first(self.folder):
            damage = self._damage(folder)
            if damage is not None and self._rank:
                return False
            if damage is not None:
                self._observer.event("checkpoint_damaged", path=str(folder), reason=damage)
                shutil.rmtree(folder, ignore_errors=True)
                continue
            learned = load_file(str(folder / LEARNED))
            moments = load_file(str(folder / "optimizer.safetensors"))
            rest = load_file(str(folder / "rest.safetensors"))
            best = load_file(str(folder / BEST)) if (folder / BEST).is_file() else None
            learner.set_state(learned)
            _set_moments(learner, optimizer, moments)
            objective.set_state({k.removeprefix("objective."): v for k, v in rest.items() if k.startswith("objective.")})
            progress.load(read_json(folder / "progress.json"), best)
            self._last_time, self._last_step = time.monotonic(), progress.step
            self._observer.event("resumed", step=progress.step)
            return True
        return False

    def clear(self) -> None:
        """Deletes all checkpoints, once the stage's result is stored."""
        if self._rank:
            return
        shutil.rmtree(self.folder, ignore_errors=True)

    def _damage(self, folder: Path) -> str | None:
        """The reason why a checkpoint cannot be used, or None."""
        try:
            manifest = read_sealed(folder / MANIFEST)
            files = dict(manifest["files"])
            if manifest["checkpoint"] != FORMAT:
                return f"format {manifest['checkpoint']}"
            now = _hashes(folder, files)
            changed = next((name for name, expected in files.items() if now[name] != expected), None)
            if changed is not None:
                return f"{changed} was changed"
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


def _hashes(folder: Path, names: Collection[str]) -> dict[str, str]:
    """SHA-256 of files by name, each on a core of its own; a file that has two names is read once."""
    inodes = {name: (folder / name).stat().st_ino for name in names}
    names_of = {inode: name for name, inode in inodes.items()}
    with ThreadPoolExecutor(len(names_of) or 1) as pool:
        hashes = dict(zip(names_of, pool.map(lambda name: sha256(folder / name), names_of.values()), strict=True))
    return {name: hashes[inode] for name, inode in inodes.items()}


def _prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{k}": v.detach().to("cpu").contiguous() for k, v in tensors.items()}


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _moments(learner: Learner, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state of every parameter that has had a step; a GPU's moments in bfloat16."""
    moments = {}
    for i, parameter in enumerate(learner.parameters()):
        for name, value in optimizer.state.get(parameter, {}).items():
            tensor = torch.as_tensor(value).detach()
            narrow = tensor.device.type == "cuda" and tensor.ndim and tensor.dtype == torch.float32 and not name.endswith("-scales")
            moments[f"{i}.{name}"] = (tensor.bfloat16() if narrow else tensor).to("cpu").contiguous()
    return moments


def _set_moments(learner: Learner, optimizer: torch.optim.Optimizer, moments: dict[str, torch.Tensor]) -> None:
    for i, parameter in enumerate(learner.parameters()):
        mine = {k.partition(".")[2]: v for k, v in moments.items() if k.partition(".")[0] == str(i)}
        if mine:  # AdamW keeps its count of steps on the CPU, unless it is fused
            on_cpu = () if optimizer.defaults["fused"] else ("step",)
            wide = {k: v.float() if v.dtype == torch.bfloat16 else v for k, v in mine.items()}
            optimizer.state[parameter] = {k: v if k in on_cpu else v.to(parameter.device) for k, v in wide.items()}
