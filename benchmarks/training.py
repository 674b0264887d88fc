"""One row of the table: a stage trained by the loop that `qrecipe run` uses, on random weights and codes."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks import synthetic
from qrecipe.data.batches import Sampler
from qrecipe.data.states import States
from qrecipe.errors import Place
from qrecipe.model.kernels import fused
from qrecipe.model.weights import Delta, Learner
from qrecipe.plan import trainable
from qrecipe.plan.compute import Volume, compute
from qrecipe.recipe.stage import SpeechStage
from qrecipe.source.reader import Node
from qrecipe.train.loop import Hooks, train_stage
from qrecipe.train.objectives.speech import SpeechObjective
from qrecipe.train.observer import Observer, StepReport

REPEATS = 3
PROFILED = 2
EPOCHS = 3
"""Over which the caching pass is spread."""
HOURS = 10
FRAMES = HOURS * 45_000
"""Speech for which that is worked out from the rates, beside that of the clips themselves."""
PREDICTOR = {"match": "talker.code_predictor", "except": ["talker.code_predictor.model.codec_embedding"], "lr": 1e-5}
ROWS = [
    {"match": "talker.model.text_embedding", "rows": "seen", "lr": 1e-4},
    {"match": "talker.model.codec_embedding", "rows": "languages", "lr": 1e-3},
]
LAYERS = {"match": "talker.model.layers", "lr": 1e-6}


@dataclass(frozen=True)
class Case:
    """A stage to be measured."""

    what: str
    train: list[dict[str, Any]]
    frames: int
    """Frames of a step."""
    settings: dict[str, Any] = field(default_factory=dict)
    remember: bool = True
    """Whether states of frozen layers are kept, where they may be."""
    compile: bool = True


CASES = {
    "predictor": Case("predictor on kept states", [PREDICTOR], 2400),
    "predictor-4096": Case("the same, 4,096 frames a step", [PREDICTOR], 4096),
    "predictor-plain": Case("the same, not compiled", [PREDICTOR], 2400, compile=False),
    "predictor-again": Case("predictor, the talker computed in every step", [PREDICTOR], 2048, remember=False),
    "rows": Case("text rows and language row, the talker's loss", ROWS, 6144, {"predictor_weight": 0.0}),
    "rows-plain": Case("the same, not compiled", ROWS, 6144, {"predictor_weight": 0.0}, compile=False),
    "rows-both": Case("text rows and language row, both losses", ROWS, 2048),
    "layers": Case("all layers of the talker, both losses", [LAYERS], 4096),
    "layers-plain": Case("the same, not compiled", [LAYERS], 4096, compile=False),
    "upper": Case("layers 20 to 27 on kept states", [{"match": "talker.model.layers.20-27", "lr": 1e-6}], 2048),
    "lora": Case("LoRA of rank 16 on all layers, both losses", [{**LAYERS, "lora": {"rank": 16, "alpha": 32}}], 2048),
    "everything": Case("everything", [{"match": "talker", "lr": 1e-6}], 2048),
}


class Enough(Exception):
    """All steps are measured: what was learned is nobody's."""


class Watch(Observer):
    """Passes reports on to functions."""

    def __init__(self, on_step: Callable[[StepReport], None], on_event: Callable[[str, dict[str, Any]], None] | None = None) -> None:
        self._on_step, self._on_event = on_step, on_event

    def step(self, report: StepReport) -> None:
        """Passed on."""
        self._on_step(report)

    def event(self, kind: str, **fields: object) -> None:
        """Passed on, if there is a function for it."""
        if self._on_event is not None:
            self._on_event(kind, fields)


def run(
    name: str,
    shape: str,
    device: torch.device,
    steps: int,
    clips: int,
    profile: Path | None = None,
    frames_a_step: int | None = None,
    share: float = math.inf,
    until: float = math.inf,
) -> dict[str, Any]:
    """Measures a case: frames a second as the median of `REPEATS` stretches of `steps`, peak memory, compile time, and what
    a step takes the processor in all its threads.

    `profile` is a file for what device and host spent their time on in `PROFILED` steps before the stretches; with it the row
    also says how long the device itself worked for a step. `share` seconds after the first step, and at `until` in seconds
    of `time.perf_counter`, it ends with the stretches that it has, one at least.
    """
    case = CASES[name]
    opened = synthetic.model(shape, device)
    data = synthetic.clips(opened, clips)
    warm = 2 + (PROFILED + 1 if profile else 0)
    total = warm + REPEATS * steps
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * (device.type == "cuda")
    profiler = torch.profiler.profile(activities=activities)
    train = [{**t, "match": t["match"].replace("20-27", "4-5")} if shape == "mini" else t for t in case.train]
    fields = {"id": "s", "objective": "speech", "data": ["speech"], "train": train, "steps": total, "layout": "streaming"}
    stage = SpeechStage.model_validate({**fields, "batch": {"frames": frames_a_step or case.frames}, **case.settings})
    shapes = synthetic.shapes_of(shape)
    seen = sorted({t for r in data.rows for t in r.body})
    resolved, problems = trainable.resolve(stage, Node({}, Place("benchmark")), shapes, {"malay": synthetic.LANGUAGE_ROW}, seen)
    assert not problems, problems
    own = sum(r.frames for r in data.rows)
    found = compute(stage, resolved, shapes, Volume(len(data.rows), own, sum(len(r.body) for r in data.rows)))
    assert found is not None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    learner = Learner(opened.net, resolved, Delta())
    objective = SpeechObjective(stage, opened, learner.tables, {"speech": data}, 0, found.terms)
    sampler = Sampler(objective.lengths(), {}, stage.batch, 0)
    batches = list(islice(sampler.batches(), total))
    result: dict[str, Any] = {
        "what": case.what,
        "frames a step": stage.batch.frames,
        "trained": resolved.parameters,
        "losses": list(found.terms),
    }
    with tempfile.TemporaryDirectory() as cache, fused.compiled(case.compile and device.type == "cuda"):
        if case.remember and found.cached is not None:
            every = [*batches, *sampler.epoch(0), *sampler.epoch(1)]
            began = time.perf_counter()
            result["kept bytes"] = objective.cache_states(States(Path(cache), opened, learner.tables, found.first_layer, "all"), every)
            result["caching frames/s"] = round(own / (time.perf_counter() - began))
        marks = [time.perf_counter()]
        seconds: list[float] = []
        processor = [time.process_time()]
        losses: dict[str, float] = {}
        notes: list[str] = []

        def note(report: StepReport) -> None:
            nonlocal until
            stretch, more = divmod(report.step - warm, steps)
            if device.type == "cuda" and (more == 0 or report.step <= warm):
                torch.cuda.synchronize()
            marks.append(time.perf_counter())
            seconds.append(marks[-1] - marks[-2])
            processor.append(time.process_time())
            losses.update(report.losses)
            if report.step == 1:
                until = min(until, marks[-1] + share)
            if report.step == total or (more == 0 and 0 < stretch < REPEATS and marks[-1] > until):
                raise Enough
            if profile and report.step == 2:
                profiler.start()
            elif profile and report.step == 2 + PROFILED:
                profiler.stop()
                result.update(_profiled(profiler, profile, device))
            if report.step <= warm:
                marks[-1], processor[-1] = time.perf_counter(), time.process_time()

        def say(kind: str, fields: dict[str, Any]) -> None:
            notes.append(f"not compiled: {fields['trouble']}" if kind == "compiling" else kind)

        with suppress(Enough):
            train_stage(stage, opened, learner, objective, sampler, Hooks(observer=Watch(note, say)))
        complete = (len(seconds) - warm) // steps
    if complete < REPEATS:
        notes.append(f"{complete} of {REPEATS} stretches, no time for more")
    if notes:
        result["note"] = "; ".join(notes)
    frames = [sum(i.length for m in step for i in m) for step in batches]
    stretches = [range(warm + r * steps, warm + (r + 1) * steps) for r in range(complete)]
    rates = [sum(frames[i] for i in s) / sum(seconds[i] for i in s) for s in stretches]
    result |= {
        "frames/s": round(statistics.median(rates)),
        "stretches": [round(r) for r in rates],
        "first step s": round(seconds[0], 2),
        "loss": losses,
        "ms a step": round(1e3 * statistics.median(seconds[warm : warm + complete * steps]), 1),
        "processor ms a step": round(1e3 * statistics.median(b - a for a, b in pairwise(processor[warm : warm + 1 + complete * steps])), 1),
    }
    if "caching frames/s" in result:
        for frames_of, name_of in ((own, "these clips"), (FRAMES, f"{HOURS} h")):
            result[f"frames/s, {EPOCHS} epochs of {name_of} with compiling and caching"] = round(over_epochs(frames_of, result))
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
        result |= {
            "peak GB": round(peak / 1e9, 2),
            "reserved GB": round(torch.cuda.max_memory_reserved() / 1e9, 2),
            "estimated GB": round(found.peak / 1e9, 2),
            "estimate / peak": round(found.peak / peak, 3),
        }
    learner.close()
    return result


def over_epochs(frames: int, row: dict[str, Any]) -> float:
    """Frames a second of `EPOCHS` epochs over `frames`, from the caching, the compiling and the training that a row measured apart."""
    compiling = max(0.0, row["first step s"] - row["ms a step"] / 1e3)
    return EPOCHS * frames / (compiling + frames / row["caching frames/s"] + EPOCHS * frames / row["frames/s"])


def _profiled(profiler: torch.profiler.profile, file: Path, device: torch.device) -> dict[str, float]:
    """Writes what took most of the device's and of the host's time; gives what kernels and copies took of a step."""
    found = profiler.key_averages()
    ways = ["self_cuda_time_total", "self_cpu_time_total"] if device.type == "cuda" else ["self_cpu_time_total"]
    file.write_text("\n\n".join(f"by {by}\n{found.table(sort_by=by, row_limit=40, max_name_column_width=70)}" for by in ways))
    on_device = [e for e in found if e.device_type == torch.autograd.DeviceType.CUDA and not getattr(e, "is_user_annotation", False)]
    return {"GPU's own ms a step": round(sum(e.self_device_time_total for e in on_device) / 1e3 / PROFILED, 1)} if on_device else {}


def agreement(shape: str, device: torch.device, steps: int = 50) -> dict[str, Any]:
    """Losses of the fast path in bfloat16 beside those of the plain loop in float32: same weights, data, batches and rates."""
    from tests.support import reference

    entry = [
        {"match": "talker.model.layers.4-5" if shape == "mini" else "talker.model.layers.24-27", "lr": 1e-5},
        {**PREDICTOR, "lr": 1e-5},
    ]
    fields = {"id": "s", "objective": "speech", "data": ["speech"], "train": entry, "steps": steps, "layout": "streaming", "warmup": 0.0}
    stage = SpeechStage.model_validate({**fields, "schedule": "constant", "batch": {"frames": 512}})
    curves: list[list[dict[str, float]]] = []
    for plain in (False, True):
        opened = synthetic.model(shape, device, None)
        if plain:
            opened.net.float()
        data = synthetic.clips(opened, 24)
        resolved, _ = trainable.resolve(stage, Node({}, Place("benchmark")), synthetic.shapes_of(shape), {}, [])
        learner = Learner(opened.net, resolved, Delta())
        objective = SpeechObjective(stage, opened, learner.tables, {"speech": data}, 0)
        sampler = Sampler(objective.lengths(), {}, stage.batch, 0)
        curve: list[dict[str, float]] = []
        if not plain:
            with fused.compiled(device.type == "cuda"):
                train_stage(stage, opened, learner, objective, sampler, Hooks(observer=Watch(lambda r: curve.append(r.losses))))  # noqa: B023
        else:
            groups = [{"params": g.parameters, "lr": g.lr} for g in learner.groups]
            optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
            for step in islice(sampler.batches(), steps):
                rows = [data.rows[i.index] for m in step for i in m]
                examples = [data.example(r, synthetic.LANGUAGE_ROW, "streaming", "x_vector", opened.tokenizer) for r in rows]
                made = reference.losses(opened.talker, opened.config, examples)
                frames = sum(r.frames for r in rows)
                means = {"talker": made.talker / (frames + len(rows)), "predictor": made.predictor / (frames * (opened.groups - 1))}
                optimizer.zero_grad()
                (means["talker"] + stage.predictor_weight * means["predictor"]).backward()
                torch.nn.utils.clip_grad_norm_(list(learner.parameters()), stage.clip)
                optimizer.step()
                curve.append({k: float(v.detach()) for k, v in means.items()})
        learner.close()
        curves.append(curve)
        del opened, learner, objective
    apart = {term: max(abs(a[term] - b[term]) for a, b in zip(*curves, strict=True)) for term in ("talker", "predictor")}
    ends = {term: [curves[1][0][term], curves[0][-1][term], curves[1][-1][term]] for term in apart}
    return {"what": f"{steps} steps beside a plain float32 loop", "largest difference": apart, "first, last, last in float32": ends}
