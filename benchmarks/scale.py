"""One GPU beside several of one host, in one call; and stages in the memory of a small card. Run it under torchrun:

    torchrun --nproc-per-node 2 -m benchmarks.scale --out measured
    torchrun --nproc-per-node 2 -m benchmarks.scale --out measured --rows layers,lora      some of the rows

Every rank first trains each stage alone on its own GPU, then all train it together with the same batch a GPU; so both rates
come from the same processes, compiled once. A line is printed for every row, and `OUT/scale.json` and `OUT/scale.md` are
written after each: what comes before the time is over is kept. Bases are random weights of the published shape.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import synthetic
from benchmarks.training import CASES, Case, Enough, Watch
from qrecipe import interrupts
from qrecipe.data.batches import Sampler
from qrecipe.data.speech import SpeechData
from qrecipe.errors import Place, QRecipeError
from qrecipe.model.batcher import memory_of
from qrecipe.model.kernels import fused
from qrecipe.model.load import LoadedBase, pick_device
from qrecipe.model.weights import Delta, Learner
from qrecipe.plan import trainable
from qrecipe.plan.compute import Volume, compute
from qrecipe.recipe.stage import SpeechStage
from qrecipe.source.reader import Node
from qrecipe.train.loop import Hooks, train_stage
from qrecipe.train.objectives.speech import SpeechObjective
from qrecipe.train.observer import StepReport
from qrecipe.world import World, join, reported

STAGES = ("predictor-again", "rows", "layers", "lora", "everything")
"""Each kind of stage; the predictor computes the talker in every step, since kept states are read from a disk."""
SHARED = ("encoding", "speaking")
SMALL = {
    "projection in 12 GB": 12,
    "rows in 12 GB": 12,
    "lora in 12 GB": 12,
    "lora in 24 GB": 24,
    "8bit layers in 24 GB": 24,
    "8bit bfloat16 layers in 24 GB": 24,
    "8bit bfloat16 layers in 16 GB": 16,
}
"""Rows in the memory of a card of so many GB; first the stage's `moments` and `masters`, where they are not float32."""
WARM = 3
STRETCHES, STEPS = 3, 6
SMALL_STEPS = 20
PROJECTION = Case("text projection, both losses", [{"match": "talker.text_projection", "lr": 3e-5}], 2048)
SPOKEN_FRAMES, SPOKEN_PROMPTS = 60, 128
CLIPS_ENCODED, CLIP_SECONDS = 1600, 6.0


def main() -> None:
    """Measures the rows, one after the other, until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("measured"))
    parser.add_argument("--rows", default=",".join([*STAGES, *SMALL, *SHARED]))
    parser.add_argument("--shape", choices=("1.7b", "0.6b", "mini"), default="1.7b")
    parser.add_argument("--clips", type=int, default=4000, help="enough that no epoch ends in a batch for half of the ranks")
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "qrecipe-benchmarks", help="folder of the base")
    options = parser.parse_args()
    began, world = time.monotonic(), join()
    device = pick_device()
    opened = synthetic.model(options.shape, device)
    data = synthetic.clips(opened, options.clips)
    results: list[dict[str, Any]] = []
    for name in options.rows.split(","):
        # the first rank's clock counts, so that all ranks leave together
        if world.from_first(lambda: time.monotonic() - began > options.minutes * 60, "looking at the clock"):
            break
        started = time.monotonic()
        # what is shared out needs a speech tokenizer, so a base on the disk; of random weights, too
        measured = _base(options, world) if name in SHARED else opened
        row = {"row": name, **_row(name, measured, data, world, options.shape)}
        del measured
        results.append({**row, "seconds": round(time.monotonic() - started, 1)})
        if world.first:
            print("; ".join(f"{k} {v}" for k, v in results[-1].items()), flush=True)
            _write(options.out, results, world, device)
    world.wait("writing the table")


def _base(options: argparse.Namespace, world: World) -> LoadedBase:
    """A base on the disk, which the first rank writes; the embedded one for the shape `mini`."""
    from benchmarks import speech
    from tests.gpu.random_base import write

    if options.shape == "mini":
        return speech.opened("builtin:mini")
    folder = options.work / f"base-{options.shape}"
    if world.first and not (folder / "model.safetensors").is_file():
        write(options.shape, folder)
    world.wait("writing a base")
    return speech.opened(str(folder.resolve()))


def _row(name: str, opened: LoadedBase, data: SpeechData, world: World, shape: str) -> dict[str, Any]:
    if name in SMALL:
        return _small(name, opened, data, shape)
    if name in SHARED:
        work = _encode if name == "encoding" else _speak
        rate, together = work(opened, World()), work(opened, world)
    else:
        rate = train(CASES[name], opened, data, World(), shape)["frames/s"]
        world.wait("measuring alone")
        together = train(CASES[name], opened, data, world, shape)["frames/s"]
    rates = [round(r) for r in world.exchange(rate, "measuring")]
    # the slowest rank is what the others wait for: GPUs and processors of one host are not equal
    row = {"alone": " ".join(map(str, rates)), f"{world.size}": round(together), "times": round(together * world.size / sum(rates), 2)}
    gc.collect()
    held = {"held GB": round(torch.cuda.memory_allocated(opened.device) / 1e9, 2)} if opened.device.type == "cuda" else {}
    return {**row, **held}


def train(
    case: Case, opened: LoadedBase, data: SpeechData, world: World, shape: str, steps: int = WARM + STRETCHES * STEPS
) -> dict[str, Any]:
    """Frames a second of all ranks of a world, each with the same batch; the median of stretches."""
    opened = replace(opened, world=world)
    fields = {"id": "s", "objective": "speech", "data": ["speech"], "train": case.train, "steps": steps, "layout": "streaming"}
    batch = {"frames": case.frames, "accumulate": world.size}
    stage = SpeechStage.model_validate({**fields, "batch": batch, **case.settings})
    seen = sorted({t for r in data.rows for t in r.body})
    shapes = synthetic.shapes_of(shape)
    resolved, problems = trainable.resolve(stage, Node({}, Place("benchmark")), shapes, {"malay": synthetic.LANGUAGE_ROW}, seen)
    assert not problems, problems
    volume = Volume(len(data.rows), sum(r.frames for r in data.rows), sum(len(r.body) for r in data.rows))
    cost = compute(stage, resolved, shapes, volume)
    assert cost is not None
    # a step is over when its numbers are read, which is when the GPU has computed it
    marks: list[float] = []
    losses: list[float] = []
    at_once = [case.frames]

    def note(report: StepReport) -> None:
        marks.append(time.perf_counter())
        losses.append(sum(report.losses.values()))
        if report.step == steps:
            raise Enough

    def note_split(kind: str, fields: dict[str, Any]) -> None:
        if kind == "memory_split":
            at_once.append(fields["fits"])

    cuda = opened.device.type == "cuda"
    learner = Learner(opened.net, resolved, Delta(), stage.masters)
    learner.tables.recompute = cuda and cost.peak > 0.9 * memory_of(opened.device)
    objective = SpeechObjective(stage, opened, learner.tables, {"speech": data}, 0, cost.terms)
    sampler = Sampler(objective.lengths(), {}, stage.batch, 0)
    frames = [sum(i.length for m in b for i in m) for b, _ in zip(sampler.batches(), range(steps), strict=False)]
    try:
        with fused.compiled(cuda), suppress(Enough):
            train_stage(stage, opened, learner, objective, sampler, Hooks(observer=Watch(note, note_split)))
    finally:
        learner.close()
    stretch = max(1, (steps - WARM) // STRETCHES)
    starts = range(WARM, steps - stretch + 1, stretch)
    rates = [sum(frames[s : s + stretch]) / (marks[s + stretch - 1] - marks[s - 1]) for s in starts]
    recompute = learner.tables.recompute
    estimated = cost.peak_recomputing if recompute else cost.peak
    rate = statistics.median(rates)
    return {"frames/s": rate, "estimated": estimated, "recompute": recompute, "at once": at_once[-1], "losses": losses}


def _small(name: str, opened: LoadedBase, data: SpeechData, shape: str) -> dict[str, Any]:
    """Twenty steps within so much memory, each rank alone: peak beside the estimate, rate and losses beside those of the whole GPU.

    There the same steps are taken on the same data, with float32 moments and masters.
    """
    *choices, kind = name.partition(" in ")[0].split()
    case = PROJECTION if kind == "projection" else CASES[kind]
    narrow = {("moments" if choice == "8bit" else "masters"): choice for choice in choices}
    chosen = replace(case, settings={**case.settings, **narrow})
    whole = train(case, opened, data, World(), shape, SMALL_STEPS)
    if opened.device.type != "cuda":
        return {"whole": round(whole["frames/s"]), **_apart(train(chosen, opened, data, World(), shape, SMALL_STEPS), whole)}
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(opened.device).total_memory
    torch.cuda.set_per_process_memory_fraction(SMALL[name] * 2**30 / total, opened.device)
    torch.cuda.reset_peak_memory_stats()
    try:
        small = train(chosen, opened, data, World(), shape, SMALL_STEPS)
        peak = torch.cuda.max_memory_allocated()
        rates = {"frames/s": round(small["frames/s"]), "of the whole GPU's": round(small["frames/s"] / whole["frames/s"], 2)}
        memory = {"peak GB": round(peak / 1e9, 2), "estimated GB": round(small["estimated"] / 1e9, 2), "recompute": small["recompute"]}
        return {**rates, **memory, "frames at once": small["at once"], **_apart(small, whole)}
    except (torch.OutOfMemoryError, QRecipeError) as e:
        return {"failed": str(e).splitlines()[0][:160]}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, opened.device)


def _apart(small: dict[str, Any], whole: dict[str, Any]) -> dict[str, float]:
    """Losses in nats: of the first step, of the last five in the mean, and how far apart they are in a step at most."""
    apart = max(abs(a - b) for a, b in zip(small["losses"], whole["losses"], strict=True))
    ends = [statistics.fmean(row["losses"][-5:]) for row in (small, whole)]
    return dict(zip(("first loss", "loss", "whole GPU's", "apart"), (round(x, 4) for x in (whole["losses"][0], *ends, apart)), strict=True))


def _timed(opened: LoadedBase, work: Callable[[], None]) -> float:
    """Seconds, after one call that is not counted; the median of `STRETCHES`."""
    seconds = []
    for _ in range(1 + STRETCHES):
        began = time.perf_counter()
        work()
        if opened.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def _encode(opened: LoadedBase, world: World) -> float:
    """Seconds of audio a second; noise of whole frames, of one length, shared out as recordings are."""
    generator = torch.Generator().manual_seed(0)
    length = int(CLIP_SECONDS * 12.5) * opened.samples_per_frame
    clip = (0.1 * torch.randn(length, generator=generator)).numpy()
    mine = list(world.share(range(CLIPS_ENCODED)))

    def work() -> None:
        for start in range(0, len(mine), 10):
            opened.encode([clip] * len(mine[start : start + 10]))
        world.wait("encoding")

    return CLIPS_ENCODED * CLIP_SECONDS / _timed(opened, work)


def _speak(opened: LoadedBase, world: World) -> float:
    """Frames a second of generated speech, prompts shared out as those of an evaluation are."""
    from benchmarks.speech import prompts_of
    from qrecipe.model import generate

    voice = torch.randn(int(opened.config.talker_config.hidden_size), generator=torch.Generator().manual_seed(0)) * 0.02
    sampling = replace(generate.Sampling.of(opened.wrapper), min_frames=10 * SPOKEN_FRAMES)
    prompts = generate.numbered(prompts_of(opened, voice, SPOKEN_PROMPTS * world.size, SPOKEN_FRAMES))
    mine = list(world.share(prompts))

    def work() -> None:
        generate.generate(opened, mine, sampling, task=SPOKEN_PROMPTS)
        world.wait("speaking")

    return sum(p.max_frames or 0 for p in prompts) / _timed(opened, work)


def _write(out: Path, results: list[dict[str, Any]], world: World, device: torch.device) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "scale.json").write_text(json.dumps(results, indent=1) + "\n")
    keys = list(dict.fromkeys(k for r in results for k in r))
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    lines += ["| " + " | ".join(str(r.get(k, "")) for k in keys) + " |" for r in results]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    lines += ["", f"{world.size} x {name}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"]
    (out / "scale.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    interrupts.install()
    with reported():
        main()
