"""What the host does for a step, where arithmetic is nothing: the published number of layers, codebooks and rows, tiny widths.

On a GPU a step is as long as the longer of two things, the device's own work and what the host does to hand it over: laying
out, dispatch, graphs, optimizer. The second is the same for any width, so a processor measures it without a GPU.
"""

from __future__ import annotations

import copy
import tempfile
import time
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from benchmarks import synthetic, training
from qrecipe.data.batches import Sampler
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.data.states import States
from qrecipe.errors import Place
from qrecipe.inputs.bases import catalogue
from qrecipe.model import attention, prompt
from qrecipe.model.kernels import fused
from qrecipe.model.load import LoadedBase
from qrecipe.model.stock import silence, stock
from qrecipe.model.weights import Delta, Learner
from qrecipe.plan import trainable
from qrecipe.plan.compute import Volume, compute
from qrecipe.recipe.stage import SpeechStage
from qrecipe.source.reader import Node
from qrecipe.train import accumulate
from qrecipe.train.loop import Hooks, train_stage
from qrecipe.train.objectives.speech import SpeechObjective

FRAMES = 256
"""Of a step: what is launched for it does not depend on them."""
SHRINK = 16
"""Clips are this many times shorter, so that a step has as many rows as one of 4,096 frames."""
WARM = 3


def model() -> LoadedBase:
    """The 1.7B talker with every layer and codebook, and widths of 16."""
    shipped = catalogue(synthetic.MODELS["1.7b"])
    assert shipped is not None
    config = {k: v for k, v in copy.deepcopy(shipped["config"]).items() if k != "architectures"}
    talker = config["talker_config"]
    talker["codec_language_id"]["malay"] = synthetic.LANGUAGE_ROW
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    talker |= {**small, "text_hidden_size": 16}
    talker["code_predictor_config"] |= {**small, "hidden_size": 8, "vocab_size": 64}
    talker["rope_scaling"]["mrope_section"] = [2, 1, 1]
    config["speaker_encoder_config"] |= {"enc_dim": 16}
    torch.manual_seed(0)
    with silence():
        settings = stock().Config(**config)
        settings._attn_implementation = "sdpa"
        net: Any = stock().Net(settings)
    net.eval().requires_grad_(False)
    tokenizer: Any = SimpleNamespace(reference=lambda text: [1, 2, 3])
    return LoadedBase(Path("nowhere"), SimpleNamespace(model=net), tokenizer, torch.device("cpu"), torch.float32)


def run(name: str, steps: int) -> dict[str, Any]:
    """Milliseconds of one thread for a step of a case of `training`, the least of `steps`, compiled as on a GPU; and, beside
    it, for laying one of its batches out at full length, which on a GPU another thread does."""
    case = training.CASES[name]
    opened = model()
    full = synthetic.clips(opened, 400)
    data = replace(full, rows=[_shrunk(r) for r in full.rows])
    fields = {"id": "s", "objective": "speech", "data": ["speech"], "train": case.train, "steps": steps + WARM, "layout": "streaming"}
    stage = SpeechStage.model_validate({**fields, "batch": {"frames": case.frames // SHRINK}, **case.settings})
    shapes = {k: tuple(v.shape) for k, v in opened.net.state_dict().items()}
    seen = sorted({t for r in data.rows for t in r.body})
    resolved, problems = trainable.resolve(stage, Node({}, Place("benchmark")), shapes, {"malay": synthetic.LANGUAGE_ROW}, seen)
    assert not problems, problems
    found = compute(stage, resolved, shapes, Volume(len(data.rows), sum(r.frames for r in data.rows), 1.0))
    assert found is not None
    learner = Learner(opened.net, resolved, Delta())
    objective = SpeechObjective(stage, opened, learner.tables, {"speech": data}, 0, found.terms)
    sampler = Sampler(objective.lengths(), {}, stage.batch, 0)
    kernel = mock.patch.object(attention, "kernel_for", _as_on_a_gpu)
    with (
        tempfile.TemporaryDirectory() as cache,
        fused.compiled(case.compile),
        mock.patch.object(accumulate, "CPU_CHUNK_FRAMES", 10**9),
        kernel,
    ):
        if case.remember and found.cached is not None:
            states = States(Path(cache), opened, learner.tables, found.first_layer, "benchmark")
            objective.cache_states(states, [*islice(sampler.batches(), steps + WARM), *sampler.epoch(0), *sampler.epoch(1)])
        marks = [time.thread_time()]
        train_stage(stage, opened, learner, objective, sampler, Hooks(observer=training.Watch(lambda r: marks.append(time.thread_time()))))
    spent = [1e3 * (b - a) for a, b in pairwise(marks)]
    learner.close()
    laid = round(_laying_out(opened, full, case.frames), 1)
    return {
        "what": f"host, {case.what}",
        "host ms a step": round(min(spent[WARM:]), 1),
        "laying out ms": laid,
        "first step s": round(spent[0] / 1e3, 1),
    }


def _shrunk(row: SpeechRow) -> SpeechRow:
    return replace(row, codes=row.codes[::SHRINK].clamp(max=63), body=row.body[: max(1, len(row.body) // SHRINK)])


def _as_on_a_gpu(x: torch.Tensor, rows: attention.PackedRows) -> Any:
    """The ways that a GPU takes, with an operation that costs nothing in place of the kernel for rows of different lengths."""
    return attention.short if rows.fixed else _nothing


@torch.library.custom_op("qrecipe_benchmark::nothing", mutates_args=())
def _op(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, longest: int, scale: float) -> torch.Tensor:
    return torch.empty_like(q).copy_((v + v.mean(0)).repeat_interleave(q.shape[1] // v.shape[1], 1))


@torch.library.custom_op("qrecipe_benchmark::nothing_backward", mutates_args=())
def _op_backward(g: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pulled = g.unflatten(1, (v.shape[1], -1)).sum(2)
    return torch.zeros_like(q), torch.zeros_like(k), pulled + pulled.mean(0)


@_op.register_fake
def _like(q: torch.Tensor, *rest: Any) -> torch.Tensor:
    return torch.empty_like(q)


@_op_backward.register_fake
def _like_all(g: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])


def _back(ctx: Any, g: torch.Tensor) -> Any:
    return (*_op_backward(g, *ctx.saved_tensors), None, None, None)


_op.register_autograd(_back, setup_context=_setup)


def _nothing(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, longest: int, scale: float) -> torch.Tensor:
    return _op(q, k, v, bounds, longest, scale)


def _laying_out(opened: LoadedBase, data: SpeechData, frames: int) -> float:
    ids = prompt.ControlIds.of(opened.config)
    rows = sorted(data.rows, key=lambda r: r.frames)
    middle = rows[len(rows) // 2 :][: frames // rows[len(rows) // 2].frames]
    spent = []
    for _ in range(7):
        began = time.thread_time()
        prompt.collate([data.example(r, synthetic.LANGUAGE_ROW, "streaming", "x_vector", opened.tokenizer) for r in middle], ids)
        spent.append(time.thread_time() - began)
    return 1e3 * min(spent)
