"""Generation at the speed of the device: what every part of qrecipe speaks with.

Stock `generate` is the oracle: the same distribution, and with the same uniform numbers the same codes. A prompt's random
numbers are its own, and its arithmetic has one shape, so what it says does not depend on what is said beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any

import torch

from qrecipe.model.batcher import out_of_memory
from qrecipe.model.generate import ops as torch_ops
from qrecipe.model.generate.compiled import CompiledDecoder, CompiledWeights, suits
from qrecipe.model.generate.decoder import Decoder, Shape
from qrecipe.model.generate.ops import CHUNK
from qrecipe.model.generate.prompts import Prompt, numbered
from qrecipe.model.generate.sampling import Draw, Sampling
from qrecipe.model.generate.weights import DecodingWeights, Stack
from qrecipe.model.load import LoadedBase
from qrecipe.model.stock import silence
from qrecipe.model.threads import each_on_one

__all__ = ["Draw", "Prompt", "Sampling", "generate", "numbered", "release", "stream", "width_for"]

CPU_WIDTH = 8
CPU_FRAMES = 16
"""Frames that a CPU's threads compute before they wait for each other."""
GPU_WIDTHS = (8, 64, 256)
"""Rows of the matrix products. On a GPU more rows round otherwise, so the size of a whole task decides, never what is left of it."""
GPU_FRAMES = 8
"""Frames between two looks at which rows are done: a look waits for the GPU."""
GPU_SHARE = 0.8
"""Of the free memory of a GPU that caches may take."""


def width_for(count: int, device: torch.device) -> int:
    """Rows of the matrix products for a task of so many prompts."""
    if device.type != "cuda":
        return CPU_WIDTH
    return next((w for w in GPU_WIDTHS if w >= count), GPU_WIDTHS[-1])


def generate(
    opened: LoadedBase, prompts: Sequence[Prompt], sampling: Sampling, *, batch: int | None = None, task: int | None = None
) -> list[torch.Tensor]:
    """Codes of every prompt, [frames, groups] int64 on the CPU each, without the end. See `stream`."""
    results = dict(stream(opened, prompts, sampling, batch=batch, task=task))
    return [results[i] for i in range(len(prompts))]


@torch.inference_mode()
def stream(
    opened: LoadedBase, prompts: Sequence[Prompt], sampling: Sampling, *, batch: int | None = None, task: int | None = None
) -> Iterator[tuple[int, torch.Tensor]]:
    """(Index of a prompt, its codes), each as soon as it is done, in no particular order.

    Args:
        prompts: `numbered` where some may be equal.
        batch: rows at most; None for as many as the device's memory and the task call for. No part of the result.
        task: prompts of the task that these are a part of, see `width_for`; by default these are all.

    Raises:
        UserError: QR074 if not even one row fits into memory.
    """
    # the longest first, by what they may last and then by their text, so that the last rows to end are short ones
    waiting = sorted(range(len(prompts)), key=lambda i: (-(prompts[i].max_frames or sampling.max_frames), -len(prompts[i].body), i))
    if not waiting:
        return
    done: set[int] = set()
    weights = _weights(opened)
    compiled = CompiledWeights(weights) if suits(opened, weights) else None
    width = width_for(task or len(prompts), opened.device) * (torch.get_num_threads() if compiled else 1)
    shape = _shape(opened, weights, prompts, sampling, batch, width)
    while waiting:
        try:
            for index, codes in _run(opened, _make_decoders(opened, weights, compiled, sampling, shape), prompts, waiting):
                done.add(index)
                yield index, codes
        except torch.OutOfMemoryError:
            if shape.rows == 1:
                raise out_of_memory("this prompt", f"{shape.positions} positions", "shorten the text or its reference") from None
            shape = replace(shape, rows=shape.rows // 2)
            _decoders(opened).clear()
            torch.cuda.empty_cache()
        waiting = [i for i in waiting if i not in done]


def _run(
    opened: LoadedBase, decoders: Sequence[Decoder], prompts: Sequence[Prompt], order: Sequence[int]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Speaks prompts in this order; yields what is done."""
    waiting = iter(order)
    speaking = [_keep_busy(decoder, prompts, waiting) for decoder in decoders]
    while speaking:
        results = each_on_one(lambda part: next(part, None), speaking) if opened.small else [next(speaking[0], None)]
        speaking = [part for part, done in zip(speaking, results, strict=True) if done is not None]
        for done in results:
            yield from done or []


def _keep_busy(decoder: Decoder, prompts: Sequence[Prompt], waiting: Iterator[int]) -> Iterator[list[tuple[int, torch.Tensor]]]:
    """Keeps all rows of a decoder busy until nothing waits for it or another one; yields after some frames what is done."""
    decoder.know_texts(prompts)
    row_of = dict[int, int]()
    frames, looks = (GPU_FRAMES, 1) if decoder.done.is_cuda else (1, CPU_FRAMES)
    while True:
        results: list[tuple[int, torch.Tensor]] = []
        for _ in range(looks):
            idle = [row for row in range(decoder.shape.rows) if row not in row_of]
            if entering := list(islice(waiting, len(idle))):
                decoder.admit(idle[: len(entering)], [prompts[i] for i in entering])
                row_of.update(zip(idle, entering, strict=False))
            if not row_of:
                yield results
                return
            for _ in range(frames):
                decoder.step()
            done = decoder.done[: decoder.shape.rows].tolist()
            if ended := [row for row in row_of if done[row]]:
                results += [(row_of.pop(row), codes) for row, codes in zip(ended, decoder.finished(ended), strict=True)]
        yield results


def _shape(
    opened: LoadedBase, weights: DecodingWeights, prompts: Sequence[Prompt], sampling: Sampling, batch: int | None, width: int
) -> Shape:
    frames = max(min(sampling.max_frames, p.max_frames or sampling.max_frames) for p in prompts)
    on_gpu = opened.device.type == "cuda"
    if on_gpu:  # sizes in steps, so that a graph serves more than one task
        frames = -(-frames // CHUNK) * CHUNK
    longest = max(p.length for p in prompts)
    positions = -(-(-(-longest // CHUNK) * CHUNK + frames + 1) // CHUNK) * CHUNK
    tokens = len({t for p in prompts for t in (*p.role, *p.body, *(p.reference_body or []))}) + 3
    if on_gpu:
        tokens = 1 << (tokens - 1).bit_length()
    rows = max(1, min(width, batch or width, len(prompts)))
    if on_gpu:
        stack = weights.talker
        row = 2 * len(stack.layers) * stack.kv_heads * stack.width * positions * weights.codec.element_size()
        rows = max(1, min(rows, int(GPU_SHARE * torch.cuda.mem_get_info()[0] / row)))
    return Shape(width, rows, positions, frames, tokens)


def _decoders(opened: LoadedBase) -> dict[Any, Any]:
    """A base's cache between calls: copies of weights, caches, graphs. Nothing on a CPU, where making it is cheap."""
    cache: dict[Any, Any] = opened.__dict__.setdefault("_decoders", {})
    return cache


def release(opened: LoadedBase) -> None:
    """Frees what is kept of a base on a GPU between calls, before something else needs the memory."""
    if _decoders(opened):
        _decoders(opened).clear()
        torch.cuda.empty_cache()


def _weights(opened: LoadedBase) -> DecodingWeights:
    cache = _decoders(opened)
    if "weights" in cache and cache["weights"].refresh():
        weights: DecodingWeights = cache["weights"]
        return weights
    cache.clear()
    weights = DecodingWeights(opened)
    if opened.device.type == "cuda":
        cache["weights"] = weights
    return weights


def _make_decoders(
    opened: LoadedBase, weights: DecodingWeights, compiled: CompiledWeights | None, sampling: Sampling, shape: Shape
) -> list[Decoder]:
    """One decoder for all rows, or one for each thread. Of those for a GPU the last one is kept, with its graph."""
    if compiled is not None:
        threads = min(torch.get_num_threads(), shape.rows)
        counts = [(shape.rows + i) // threads for i in range(threads)]
        return [CompiledDecoder(opened, weights, sampling, replace(shape, width=n, rows=n), compiled) for n in counts]
    if opened.device.type != "cuda":
        return [Decoder(opened, weights, sampling, shape)]
    cache = _decoders(opened)
    key = (sampling, shape)
    if key not in cache:
        for other in [k for k in cache if k != "weights"]:
            del cache[other]
        torch.cuda.empty_cache()
        cache["weights"] = weights
        cache[key] = Decoder(opened, weights, sampling, shape, _ops(weights))
    decoder: Decoder = cache[key]
    decoder.done.fill_(True)
    return [decoder]


def _ops(weights: DecodingWeights) -> Any:
    """The operations between the matrix products on a GPU: kernels where they can be trusted, else torch."""
    for stack in (weights.talker, weights.predictor):
        kernels = _kernels(stack.heads, stack.kv_heads, stack.width, stack.hidden)
        if kernels is None:
            return torch_ops
    return kernels


@cache
def _kernels(heads: int, kv_heads: int, width: int, hidden: int) -> Any:
    """The kernels, if for a stack of these sizes they give here what torch gives; else None."""
    stack = Stack([], torch.empty(0), heads, kv_heads, width, hidden, 1e-6, torch.empty(0), None)
    with suppress(Exception), silence():  # whatever a GPU, or a triton that is not there, makes of it
        from qrecipe.model.kernels import decode

        if decode.agrees(stack, torch.device("cuda"), torch.bfloat16):
            return decode
    return None
