"""A batch of rows that speak: static key and value caches, one frame of every row at a time.

Prompts lie in the cache from position 0 on, a row's next position is its own, and what lies beyond it is never read. Every
matrix product has the shape of `width` rows however many are in use, so a row's numbers do not depend on its batch-mates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from qrecipe.model.forward import Tables, summed_embeddings
from qrecipe.model.generate import ops as torch_ops
from qrecipe.model.generate import sampling as draws
from qrecipe.model.generate.ops import CHUNK, Cache
from qrecipe.model.generate.prompts import Prompt
from qrecipe.model.generate.sampling import Draw, Sampling
from qrecipe.model.generate.weights import DecodingWeights, Layer, Stack
from qrecipe.model.load import LoadedBase
from qrecipe.model.prompt import ControlIds, collate

PREFILLED_AT_ONCE = {8: 2, 64: 8, 256: 16}
"""Width -> rows of a prefill on a GPU. Always as many, of a length rounded up to whole chunks; on a CPU a prompt is computed alone."""
RECORDED_LENGTH = 256
"""Positions up to which a prefill is a recorded graph: of longer ones the GPU has more to do than the host."""


@dataclass(frozen=True)
class Shape:
    """Sizes that memory is taken for, and a graph recorded."""

    width: int
    """Rows of every matrix product."""
    rows: int
    """Rows in use, at most `width`."""
    positions: int
    """Of the longest prompt with its frames, whole chunks."""
    frames: int
    """Of the longest utterance."""
    tokens: int
    """Distinct text tokens."""


class Decoder:
    """So many rows of caches and state, and the operations that advance them by a frame."""

    def __init__(self, opened: LoadedBase, weights: DecodingWeights, sampling: Sampling, shape: Shape, ops: Any = torch_ops) -> None:
        """Allocates all memory; on a GPU the first frame records a graph."""
        self.shape, self.sampling = shape, sampling
        self._opened, self._w, self._ops = opened, weights, ops
        self._ids = ControlIds.of(opened.config)
        self._tables = Tables(opened.talker)
        self._graph: Any = None
        self._prefills: dict[int, tuple[Any, ...]] = {}
        self._prefilled = PREFILLED_AT_ONCE.get(shape.width, 1)
        device, w = weights.device, weights

        def zeros(*size: int, dtype: torch.dtype = w.dtype) -> torch.Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        # caches have the rows in use alone, all else has the width of the matrix products
        self._caches = {
            id(stack): [Cache.empty(stack, shape.rows, positions, w.codec) for _ in stack.layers]
            for stack, positions in ((w.talker, shape.positions), (w.predictor, -(-w.groups // 16) * 16))
        }
        self._rotation = {
            id(w.talker): w.rotation(w.talker, shape.positions),
            id(w.predictor): w.rotation(w.predictor, -(-w.groups // 16) * 16),
        }
        width, frames = shape.width, shape.frames + 1  # what a finished row goes on saying lands in the last
        hidden, vocabulary = self._w.talker.hidden, len(w.codec_head)
        self.x = zeros(width, hidden)
        self._nothing = {id(w.talker): zeros(width, hidden), id(w.predictor): zeros(2 * width, w.predictor.hidden)}
        self.position, self.frame, self.length, self.limit = (zeros(width, dtype=torch.int64) for _ in range(4))
        self.done = torch.ones(width, dtype=torch.bool, device=device)
        self.seen = zeros(width, vocabulary, dtype=torch.bool)
        self.uniforms = zeros(width, frames, w.groups, dtype=torch.float32)
        self.text = zeros(width, frames, dtype=torch.int64)
        self.codes = zeros(width, frames, w.groups, dtype=torch.int64)
        self.projected = zeros(shape.tokens, hidden)
        self._lookup: dict[int, int] = {}
        self._rows = torch.arange(width, device=device)
        self._code_offsets = torch.arange(w.groups - 1, device=device) * w.codebook
        end = torch.arange(vocabulary, device=device) == self._ids.eos
        self._is_end = end
        self._suppressed = (torch.arange(vocabulary, device=device) >= vocabulary - draws.CONTROL_ROWS) & ~end
        self._inner = [ops.place_at(self._rotation[id(w.predictor)], i, self._caches[id(w.predictor)][0]) for i in range(w.groups)]

    # ---- prompts

    def know_texts(self, prompts: Sequence[Prompt]) -> None:
        """Projects every text token that the prompts need, now or beside a later frame."""
        ids = self._ids
        tokens = sorted(
            {t for p in prompts for t in (*p.role, *p.body, *(p.reference_body or []))} | {ids.tts_pad, ids.tts_bos, ids.tts_eos}
        )
        assert len(tokens) <= self.shape.tokens
        self._lookup = {token: i for i, token in enumerate(tokens)}
        self.projected[: len(tokens)] = self._w.text(torch.tensor(tokens, device=self._w.device))

    def admit(self, rows: Sequence[int], prompts: Sequence[Prompt]) -> None:
        """Puts prompts into rows, in place of what was there."""
        order = sorted(range(len(rows)), key=lambda i: -(-prompts[i].length // CHUNK))
        on_gpu = self._w.device.type == "cuda"
        start = 0
        while start < len(order):
            end = start + 1
            size = -(-prompts[order[start]].length // CHUNK)
            while on_gpu and end < len(order) and end - start < self._prefilled and -(-prompts[order[end]].length // CHUNK) == size:
                end += 1
            part = order[start:end]
            self._prefill([rows[i] for i in part], [prompts[i] for i in part], size * CHUNK if on_gpu else None)
            start = end
        self._reset([rows[i] for i in order], [prompts[i] for i in order])

    def _embeddings(self, prompts: Sequence[Prompt]) -> list[torch.Tensor]:
        """[positions, hidden] of every prompt."""
        batch = collate([p.example(self._w.groups) for p in prompts], self._ids)
        known = torch.tensor([self._lookup[t] for t in batch.tokens.tolist()], device=self._w.device)
        batch = batch.to(self._w.device)
        return list(torch.split(summed_embeddings(self._tables, batch, self.projected[known], self._w.dtype), list(batch.lengths)))

    def _prefill(self, rows: list[int], prompts: list[Prompt], padded: int | None) -> None:
        """Fills the talker's caches of rows, and sets what their first frame begins with.

        `padded` is the length that all are filled up to, on a GPU; there rows that are missing are the first one again.
        """
        embedded = self._embeddings(prompts)
        last = torch.tensor([len(x) - 1 for x in embedded], device=self._w.device)
        where = torch.tensor(rows, device=self._w.device)
        self.position[where] = last
        self.x[where] = torch.stack([x[-1] for x in embedded])
        if padded is None:
            return self._fill_caches(embedded[0].unsqueeze(0), where)
        missing = self._prefilled - len(rows)
        where = torch.cat([where, where[:1].expand(missing)])
        x = torch.stack([F.pad(x, (0, 0, 0, padded - len(x))) for x in [*embedded, *embedded[:1] * missing]])
        if padded > RECORDED_LENGTH:
            return self._fill_caches(x, where)
        if padded not in self._prefills:
            self._prefills[padded] = _record(self._fill_caches, x, where)
        graph, *inputs = self._prefills[padded]
        for static, values in zip(inputs, (x, where), strict=True):
            static.copy_(values)
        graph.replay()

    def _fill_caches(self, x: torch.Tensor, where: torch.Tensor) -> None:
        """Keys and values of prompts [count, length, hidden] into rows [count] of every layer's cache."""
        count, length = x.shape[:2]
        stack = self._w.talker
        cos, sin = (table[:length].unsqueeze(1) for table in self._rotation[id(stack)])
        x = x.flatten(0, 1)
        delta = torch.zeros_like(x)
        for layer, cache in zip(stack.layers, self._caches[id(stack)], strict=True):
            x, h = torch_ops.add_norm(x, delta, layer.input_norm, stack.eps)
            q, k, v = self._heads(F.linear(h, layer.qkv, layer.qkv_bias), layer, stack, count, cos, sin)
            for target, values in ((cache.k, k), (cache.v, v)):
                filled = F.pad(values, (0, 0, 0, 0, 0, -length % CHUNK))
                chunks = filled.view(count, -1, CHUNK, *filled.shape[2:]).permute(1, 0, 3, 2, 4)
                target[: len(chunks)].index_copy_(1, where, chunks.contiguous())
            if layer is stack.layers[-1]:
                break  # of the last layer only keys and values are read
            attended = _causal(q, k, v).flatten(0, 1).flatten(1)
            x, h = torch_ops.add_norm(x, F.linear(attended, layer.o, layer.o_bias), layer.post_norm, stack.eps)
            delta = F.linear(torch_ops.gated(F.linear(h, layer.gate_up), stack.activation), layer.down)

    @staticmethod
    def _heads(
        qkv: torch.Tensor, layer: Layer, stack: Stack, count: int, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values of whole prompts: [count, length, heads, width] each."""
        heads, kv = stack.heads, stack.kv_heads
        y = qkv.view(count, -1, heads + 2 * kv, stack.width)
        qk = torch_ops.rotate(F.rms_norm(y[:, :, : heads + kv], (stack.width,), eps=stack.eps) * layer.head_norms, cos, sin)
        return qk[:, :, :heads], qk[:, :, heads:], y[:, :, heads + kv :]

    def _reset(self, rows: list[int], prompts: list[Prompt]) -> None:
        """Sets all of a row's state but its caches and position."""
        frames, groups, device = self.shape.frames + 1, self._w.groups, self._w.device
        where = torch.tensor(rows, device=device)
        limits = [self.limit_of(p) for p in prompts]
        text = np.full((len(rows), frames), self._lookup[self._ids.tts_pad])
        for row, p in zip(text, prompts, strict=True):
            most = len(p.body) + len(p.reference_body or []) + 1  # after the text there is padding alone
            beside = [self._lookup[t] for t in p.trailing(self._ids, min(frames, most))]
            row[: len(beside)] = beside
        self.text[where] = torch.from_numpy(text).to(device)
        self.uniforms[where] = torch.from_numpy(np.stack([p.uniforms(frames, groups) for p in prompts])).to(device)
        self.limit[where] = torch.tensor(limits, device=device)
        self.seen[where] = False
        for state in (self.frame, self.length):
            state[where] = 0
        self.done[where] = False

    def limit_of(self, prompt: Prompt) -> int:
        """Frames at which an utterance is cut."""
        return min(self.sampling.max_frames, prompt.max_frames or self.sampling.max_frames)

    # ---- a frame

    def step(self) -> None:
        """Advances every row that is not done by one frame."""
        if self._w.device.type != "cuda":
            return self._step()
        if self._graph is None:
            state = (self.x, self.position, self.frame, self.length, self.done, self.seen, self.codes)
            before = [t.clone() for t in state]
            (self._graph,) = _record(self._step)
            for tensor, values in zip(state, before, strict=True):
                tensor.copy_(values)
        self._graph.replay()

    def _step(self) -> None:
        hidden, code = self._code_0()
        codes = self._codes_after(hidden, code)
        self._next_input(codes)
        self._advance(codes)

    def _hidden(self, stack: Stack, x: torch.Tensor, tokens: range | None = None) -> torch.Tensor:
        """All layers and the last norm: [width x tokens, hidden] -> [width, hidden] of each row's last token.

        `tokens` are places in the predictor, of a row side by side in `x`. In the talker every row has one, at a place of its own.
        """
        ops, delta = self._ops, self._nothing[id(stack)][: len(x)]
        places = [self._place(stack)] if tokens is None else self._inner[tokens.start : tokens.stop]
        # what is to be added comes and goes apart from what it is added to: the sum and the next norm are one kernel
        for layer, cache in zip(stack.layers, self._caches[id(stack)], strict=True):
            x, h = ops.add_norm(x, delta, layer.input_norm, stack.eps)
            attended = ops.attend(F.linear(h, layer.qkv, layer.qkv_bias), layer, places, cache, stack)
            x, h = ops.add_norm(x, F.linear(attended, layer.o, layer.o_bias), layer.post_norm, stack.eps)
            delta = F.linear(ops.gated(F.linear(h, layer.gate_up), stack.activation), layer.down)
        if len(places) > 1:
            x, delta = (t.view(-1, len(places), stack.hidden)[:, -1].contiguous() for t in (x, delta))
        hidden: torch.Tensor = ops.add_norm(x, delta, stack.norm, stack.eps)[1]
        return hidden

    def _place(self, stack: Stack) -> Any:
        """Where the rows stand in the talker's cache."""
        cache, rows = self._caches[id(stack)][0], self.shape.rows
        live = len(cache.k) if self._w.device.type == "cuda" else int(self.position[:rows].max()) // cache.k.shape[3] + 1
        return self._ops.place(self._rotation[id(stack)], self.position[:rows], cache, live)

    def _linear(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """A product that no layer has."""
        return F.linear(x, weight)

    def _project(self, hidden: torch.Tensor) -> torch.Tensor:
        """The talker's hidden state as the predictor reads it."""
        return self._w.project(hidden)  # type: ignore[no-any-return]

    def _code_0(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The talker: its hidden state [width, hidden] and code 0 [width] of the next frame."""
        w, s = self._w, self.sampling
        hidden = self._hidden(w.talker, self.x)
        scores = draws.penalize(self._linear(hidden, w.codec_head).float(), self.seen, s.repetition_penalty)
        early = (self.frame < s.min_frames).unsqueeze(1)
        scores = scores.masked_fill(self._suppressed | (self._is_end & early), -torch.inf)
        code = self._choose(scores, self.uniforms[self._rows, self.frame, 0], s.talker)
        self.seen.scatter_(1, code.unsqueeze(1), True)
        return hidden, code

    def _codes_after(self, hidden: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """The code predictor: all codes of the frame, [width, groups]."""
        w, s = self._w, self.sampling
        uniforms = self.uniforms[self._rows, self.frame].t().contiguous()
        x = torch.stack((self._project(hidden), w.codec_in.index_select(0, code)), 1).flatten(0, 1)
        codes, tokens = [code], range(2)
        for i, head in enumerate(w.heads):
            scores = self._linear(self._hidden(w.predictor, x, tokens), head)
            codes.append(self._choose(scores, uniforms[i + 1], s.predictor))
            if i + 1 < len(w.heads):
                x, tokens = w.tables_in.index_select(0, codes[-1] + i * w.codebook), range(i + 2, i + 3)
        return torch.stack(codes, 1)

    def _choose(self, scores: torch.Tensor, uniforms: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Codes of the rows in use, [width]: choosing costs as much as a layer, so on a CPU no other rows choose."""
        rows = len(scores) if self._w.device.type == "cuda" else self.shape.rows
        return F.pad(self._ops.choose(scores[:rows], uniforms[:rows], draw), (0, len(scores) - rows))

    def _next_input(self, codes: torch.Tensor) -> None:
        """The frame's embedding and the text token beside it."""
        w = self._w
        rest = w.tables.index_select(0, (codes[:, 1:] + self._code_offsets).flatten()).view(len(codes), w.groups - 1, -1)
        heard = torch.cat((w.codec.index_select(0, codes[:, 0]).unsqueeze(1), rest), 1).sum(1)
        self.x.copy_(heard + self.projected.index_select(0, self.text[self._rows, self.frame]))

    def _advance(self, codes: torch.Tensor) -> None:
        """Keeps the frame, and counts for rows that go on."""
        self.codes.index_put_((self._rows, self.frame), codes)
        ended = codes[:, 0] == self._ids.eos
        going = ~self.done
        self.length.add_(going & ~ended)
        self.position.add_(going)
        self.frame.add_(going)
        self.done.logical_or_(ended | (self.length >= self.limit))

    def finished(self, rows: Sequence[int]) -> list[torch.Tensor]:
        """Codes of rows that are done, [frames, groups] int64 on the CPU each."""
        where = torch.tensor(rows, device=self._w.device)
        lengths, codes = self.length[where].tolist(), self.codes[where].cpu()
        return [part[:n].clone() for part, n in zip(codes, lengths, strict=True)]


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention over whole prompts, [count, length, heads, width] each."""
    groups = q.shape[2] // k.shape[2]
    if groups > 1 and q.device.type == "cpu":
        k, v = (t.repeat_interleave(groups, 2) for t in (k, v))
        groups = 1
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=groups > 1).transpose(1, 2)


def _record(run: Callable[..., None], *arguments: torch.Tensor) -> tuple[Any, ...]:
    """Runs a function twice, which compiles kernels, and records it as a graph; returns it with copies of the arguments that it reads."""
    static = [t.clone() for t in arguments]
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run(*static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(*static)
    return (graph, *static)
