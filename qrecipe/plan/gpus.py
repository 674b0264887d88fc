"""How long a run takes on a GPU, and which stages fit into its memory. Shown beside a plan, never part of it.

Rates on an H100 and an H200 are those of docs/benchmarks.md. Other GPUs are scaled by what their makers say: training and
encoding by the peak of matrix products in bfloat16, speaking by the bandwidth of the memory.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from dataclasses import dataclass, replace
from typing import Literal

from qrecipe.hashes import FileHashes
from qrecipe.inputs.durations import lengths
from qrecipe.plan.compute import Compute
from qrecipe.plan.planned import Planned
from qrecipe.plan.synthetic import frames_of_text
from qrecipe.plan.trainable import Trainable
from qrecipe.qwen3 import FRAMES_PER_SECOND, TALKER_LAYERS, within
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.metrics import spec_of
from qrecipe.recipe.recipe import Recipe
from qrecipe.recipe.stage import Masters, Moments, RewardStage, Stage

Kind = Literal["rows", "predictor", "layers", "lora", "everything"]


@dataclass(frozen=True)
class Gpu:
    """A GPU by its datasheet."""

    name: str
    flops: float
    """Dense bfloat16 operations in a second; float16 where there is no bfloat16."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes of its memory in a second."""
    link: float
    """Bytes to another GPU of the host in a second, as an all-reduce reaches them."""
    measured: bool = False
    """Whether docs/benchmarks.md has its rates."""


GPUS = {
    "h200": Gpu("H200", 9.89e14, 141e9, 4.8e12, 3.0e11, True),
    "h100": Gpu("H100", 9.89e14, 80e9, 3.35e12, 3.0e11, True),
    "a100": Gpu("A100", 3.12e14, 80e9, 2.04e12, 2.0e11),
    "4090": Gpu("RTX 4090", 1.65e14, 24e9, 1.01e12, 1.5e10),
    "t4": Gpu("T4", 6.5e13, 16e9, 3.2e11, 8.0e9),
}
TRAINING: dict[Kind, float] = {"rows": 4.3e14, "predictor": 4.2e14, "layers": 3.4e14, "lora": 1.4e14, "everything": 2.6e14}
"""Operations in a second that a stage reached on one H100: its operations a frame, times its measured frames a second."""
ENCODING = 510.0
"""Seconds of audio in a second on one H100."""
SPEAKING = {1: 221.0, 8: 1_632.0, 64: 11_320.0, 256: 30_390.0}
"""Frames in a second on one H200, by prompts at a time."""
COMPILING = 45.0
"""Seconds of a stage's first step, about the middle of what was measured."""
START = 60.0
"""Seconds in which the base is loaded and stages are hashed and stored, about."""
BACKWARD = 0.6
"""Share of a step in which gradients travel while others are computed."""
USABLE = 0.9
"""Share of a GPU's memory that a stage may fill by its estimate."""


@dataclass(frozen=True)
class Durations:
    """Seconds of a run by part; None for what depends on data that is not on this machine."""

    gpu: Gpu
    gpus: int
    parts: dict[str, float | None]

    @property
    def total(self) -> float | None:
        """Of all parts; None while one is not known."""
        known = [s for s in self.parts.values() if s is not None]
        return sum(known) if len(known) == len(self.parts) else None


def durations(planned: Planned, computes: dict[str, Compute], hashes: FileHashes, gpu: Gpu, gpus: int) -> Durations:
    """Seconds of every stage, and of what a run does beside them. Recognisers are not counted: nobody measured them."""
    recipe = planned.loaded.recipe
    parts: dict[str, float | None] = {"starting": START, "encoding": _encoding(planned, hashes, gpu, gpus)}
    for stage in recipe.stages:
        if stage.id in computes:
            parts[stage.id] = _training(stage, planned.trainables[stage.id], computes[stage.id], gpu, gpus)
    parts["speaking"] = _speaking(planned, computes, hashes, gpu, gpus)
    return Durations(gpu, gpus, parts)


def kind_of(trainable: Trainable, cost: Compute) -> Kind:
    """The kind of stage, of those that were measured, that a trainable set is most like."""
    if any(g.train.lora is not None for g in trainable.groups):
        return "lora"
    if cost.first_layer is None:
        return "predictor"
    whole = [n for g in trainable.groups if g.whole for n in g.tensors]
    if not any(within(n, TALKER_LAYERS) for n in whole):
        return "rows"
    return "layers" if all(within(n, TALKER_LAYERS) for n in whole) else "everything"


def _training(stage: Stage, trainable: Trainable, cost: Compute, gpu: Gpu, gpus: int) -> float | None:
    if cost.operations is None:
        return None
    rate = TRAINING[kind_of(trainable, cost)] * gpu.flops / GPUS["h100"].flops
    computing = cost.operations / rate / gpus
    steps = _steps(stage, cost)
    # a ring sends every gradient twice, but for a GPU's own part
    sending = steps * 2 * (gpus - 1) / gpus * cost.gradients / gpu.link
    return COMPILING + computing + max(0.0, sending - BACKWARD * computing)


def _steps(stage: Stage, cost: Compute) -> int:
    return stage.steps or math.ceil(cost.frames / (stage.batch.frames * stage.batch.accumulate))


def _encoding(planned: Planned, hashes: FileHashes, gpu: Gpu, gpus: int) -> float | None:
    audio = 0.0
    for name, dataset in planned.loaded.recipe.datasets.items():
        if dataset.kind != "speech":
            continue
        if name not in planned.manifests:
            return None
        rows = planned.manifests[name].rows
        frames = rows.codes.frames(0, len(rows))
        audio += sum(length for length, count in zip(lengths(rows, hashes), frames) if length is not None and count is None)
    return audio / (ENCODING * gpu.flops / GPUS["h100"].flops) / gpus


def _speaking(planned: Planned, computes: dict[str, Compute], hashes: FileHashes, gpu: Gpu, gpus: int) -> float | None:
    """Speech that is learned from, rewarded, or listened to by gates and `select`, in every seed, layout and kind of prompt."""
    recipe, total = planned.loaded.recipe, 0.0
    evaluation, speed = recipe.evaluation, gpu.bandwidth / GPUS["h200"].bandwidth * gpus
    heard = [(g.data, evaluation.prompts, 1) for g in _listening_gates(recipe)]
    for stage in recipe.stages:
        select, cost = planned.selects.get(stage.id), computes.get(stage.id)
        if select is not None and cost is not None and any(spec_of(m).source == "generated" for m in select.metrics):
            heard.append((select.data, select.prompts, 1 + _steps(stage, cost) // select.every))
        if isinstance(stage, RewardStage) and cost is not None:
            total += _steps(stage, cost) * stage.batch.frames * stage.batch.accumulate / (SPEAKING[256] * speed)
    for data, prompts, times in heard:
        if data not in planned.manifests:
            return None
        rows = planned.manifests[data].rows
        spoken = list(zip(rows[:prompts], lengths(rows, hashes)))
        ways = len(evaluation.seeds) * len(evaluation.layouts) * len(evaluation.kinds)
        frames = ways * FRAMES_PER_SECOND * sum(seconds or frames_of_text(r.text) / FRAMES_PER_SECOND for r, seconds in spoken)
        at_once = max((n for n in SPEAKING if n <= max(1, len(spoken) * ways / gpus)), default=1)
        total += times * frames / (SPEAKING[at_once] * speed)
    for synthetic in {t.dataset: t for s in planned.plan.stages for t in s.taught}.values():
        if synthetic.seconds is None and synthetic.frames:
            return None
        total += (synthetic.seconds or 0.0) / speed
    return total


def _listening_gates(recipe: Recipe) -> list[Gate]:
    """Gates on generated speech, one for each dataset and place in the recipe: of the base, of a stage, of the result."""
    places = (recipe.gates(), *(s.gates for s in recipe.stages), recipe.accept)
    return [g for gates in places for g in {g.data: g for g in gates if spec_of(g.metric).source == "generated"}.values()]


def fit(cost: Compute, memory: float) -> str:
    """Needs of a stage for so many bytes of a GPU, in a sentence."""
    usable = USABLE * memory
    if (unchanged := _unchanged(cost, usable)) is not None:
        return unchanged
    parts = f"the base and {cost.parameters:,} trained numbers with their gradients and moments take {cost.least / 1e9:.1f} GB"
    for change in ("`moments: 8bit`",), ("`masters: bfloat16`",), ("`moments: 8bit`", "`masters: bfloat16`"):
        moments: Moments = "8bit" if "`moments: 8bit`" in change else cost.moments
        masters: Masters = "bfloat16" if "`masters: bfloat16`" in change else cost.masters
        fits = _unchanged(replace(cost, moments=moments, masters=masters), usable)
        if fits is not None:
            return f"does not fit: {parts}; with {' and '.join(change)}, which changes losses a little, it {fits}"
    return f"does not fit: {parts}; train fewer layers (`talker.model.layers.20-27`), or low-rank deltas of them (`lora`)"


def _unchanged(cost: Compute, usable: float) -> str | None:
    """How a stage fits into so many bytes with the same result; None if it does not."""
    if cost.peak <= usable:
        return f"fits as it is ({cost.peak / 1e9:.1f} GB)"
    if cost.peak_recomputing <= usable:
        return f"fits with layers computed again ({cost.peak_recomputing / 1e9:.1f} GB), which `run` does by itself"
    if cost.least <= usable:
        return f"fits with layers computed again and micro-batches split ({cost.least / 1e9:.1f} GB or more), which `run` does by itself"
    return None


def here() -> Gpu | None:
    """The GPU of this machine, if it is one that is known; torch is not asked."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.lower()
    except (OSError, subprocess.SubprocessError):
        return None
    return next((gpu for key, gpu in GPUS.items() if key in names.partition("\n")[0]), None)
