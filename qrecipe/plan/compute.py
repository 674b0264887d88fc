"""The computation of a stage, known from what it trains: where gradients stop, what never changes, what it costs.

Everything here follows from names and shapes; nothing of it is part of a plan's hash. Sizes are of a GPU with bfloat16
weights and float32 masters; on a CPU everything is float32.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qrecipe.plan.trainable import BLOCK, Trainable
from qrecipe.qwen3 import (
    CODEC_HEAD,
    PREDICTOR,
    PREDICTOR_HEADS,
    PREDICTOR_LAYERS,
    TALKER_INPUTS,
    TALKER_LAYERS,
    TALKER_NORM,
    within,
)
from qrecipe.recipe.stage import EmbeddingMatchStage, Masters, Moments, Stage, TextLmStage

_LAYER = re.compile(rf"{re.escape(TALKER_LAYERS)}\.(\d+)\.")
_PREFIX = 10
"""Positions of a row beside its text and its frames."""
_REFERENCE = 60
"""Frames, and about as many text tokens at most, that an in-context prompt adds; for estimates."""
ROW_FRAMES = 375
"""Of a row of 30 seconds, about the longest."""
BF16, FP32 = 2, 4
MOMENTS = {"float32": 2 * FP32, "8bit": 2 * (1 + FP32 / BLOCK)}
"""Bytes of AdamW's state for each trained number; of 8 bits with a scale for each block."""
CUDA = 300 << 20
"""Workspaces of the libraries."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Volume:
    """How much a stage reads in one epoch."""

    rows: int
    frames: float
    """Codec frames; text tokens where nothing is spoken."""
    tokens: float
    """Text tokens."""


@dataclass(frozen=True)
class Compute:
    """The computation of a stage."""

    layers: int
    """Of the talker."""
    first_layer: int | None
    """The first of the talker's layers that back-propagation passes: 0 reaches the embeddings, `layers` the final norm alone,
    None means that the whole talker runs without gradients."""
    terms: tuple[str, ...]
    """Loss terms that can move anything that trains; the others are not computed."""
    cached: Literal["hidden", "layer"] | None
    """States that never change during the stage and are computed once: the hidden states that predict frames, or those that
    enter `first_layer`. None where everything depends on what trains."""
    cache_bytes: int | None
    """Of that on the disk at most, as bfloat16; None while the data is not known."""
    weights: int
    """Bytes of the base's weights on the GPU."""
    parameters: int
    """Numbers that train."""
    linear: int
    """Those of them in the weights of linear layers, which the next two are about."""
    moments: Moments
    masters: Masters
    """The stage's choices."""
    activations: int
    """Bytes that one micro-batch keeps for its backward pass, logits included."""
    recomputed: int
    """The same where layers are computed again: the input of each, the logits, and `layer`."""
    layer: int
    """Of that, what the layer at work keeps."""
    longest_row: int
    """`recomputed` of `ROW_FRAMES` alone: a row cannot be split."""
    accumulates: bool
    """Whether a step has several micro-batches: then gradients wait beside the activations of the next."""
    operations: float | None
    """Floating-point operations of the stage; None while its data is not known."""
    frames: float
    """That it trains on, over all epochs; 0 while its data is not known."""

    @property
    def trained(self) -> int:
        """Bytes of masters. What a step computes with is a bfloat16 copy in the place of the weight, or a bfloat16 master itself."""
        return (self.parameters - (self.linear if self.masters == "bfloat16" else 0)) * FP32

    @property
    def gradients(self) -> int:
        """Bytes of gradients, of their masters' format, which a backward pass makes in the place of what it has used up of the
        activations."""
        return self.trained + (self.linear * BF16 if self.masters == "bfloat16" else 0)

    @property
    def optimizer(self) -> int:
        """Bytes of AdamW's moments."""
        return round((self.parameters - self.linear) * MOMENTS["float32"] + self.linear * MOMENTS[self.moments])

    @property
    def peak(self) -> int:
        """Bytes of GPU memory at most."""
        return self._standing + self.passing

    @property
    def peak_recomputing(self) -> int:
        """The same where layers are computed again in the backward pass, which goes on when most gradients are there.

        Autocast's copies of float32 masters are gone by then; what they were made from lies in the machine's memory.
        """
        copies = self.linear * BF16 if self.masters == "float32" else 0
        return self._standing + max(self._passing(self.recomputed, self.accumulates), self.gradients + self.layer - copies)

    @property
    def least(self) -> int:
        """The same where micro-batches are split as well, down to a single row: less cannot be done without changing the result."""
        return min(self.peak_recomputing, self._standing + self._passing(self.longest_row, accumulates=True))

    @property
    def passing(self) -> int:
        """Bytes of activations and gradients at most: as the one goes the other comes, unless gradients are there from before."""
        return self._passing(self.activations, self.accumulates)

    @property
    def _standing(self) -> int:
        return self.weights + self.trained + self.optimizer + CUDA

    def _passing(self, activations: int, accumulates: bool) -> int:
        return activations + self.gradients if accumulates else max(activations, self.gradients)

    def as_json(self) -> dict[str, Any]:
        """For `--format json`."""
        sums = ("trained", "gradients", "optimizer", "peak", "peak_recomputing", "least")
        return {**self.__dict__, "terms": list(self.terms), **{name: getattr(self, name) for name in sums}}


@dataclass(frozen=True)
class _Decoder:
    """Widths of a stack of decoder layers."""

    layers: int
    hidden: int
    heads: int
    """Width of all query heads."""
    keys: int
    """Width of all key heads."""
    inner: int

    @classmethod
    def of(cls, shapes: Shapes, layers: str) -> _Decoder:
        first = f"{layers}.0"
        count = len({n.removeprefix(f"{layers}.").split(".")[0] for n in shapes if within(n, layers)})
        heads, hidden = shapes[f"{first}.self_attn.q_proj.weight"]
        return cls(count, hidden, heads, shapes[f"{first}.self_attn.k_proj.weight"][0], shapes[f"{first}.mlp.gate_proj.weight"][0])

    @property
    def weights(self) -> int:
        """Of one layer."""
        return self.hidden * (2 * self.heads + 2 * self.keys + 3 * self.inner)

    def saved(self, trains: bool, turned_again: bool = False) -> int:
        """Bytes that one layer keeps of one position. Inputs of linear layers are kept only for those that train.

        `turned_again`: queries and keys after norm and rotation are not kept but computed again, by the kernel that does all between the
        projections.
        """
        numbers = 2 * self.hidden + 3 * self.heads + 3 * self.keys + 2 * self.inner
        if trains:
            numbers += 2 * self.hidden + self.heads + self.inner
        if turned_again:
            numbers -= 2 * self.heads + self.keys
        return numbers * BF16


def compute(stage: Stage, trainable: Trainable, shapes: Shapes, volume: Volume | None, speech_tokenizer: int = 0) -> Compute | None:
    """The computation of a stage; None for an objective that does not run the talker.

    Args:
        shapes: tensors of the base.
        volume: one epoch of the stage's data; None while it is not known.
        speech_tokenizer: bytes of the speech tokenizer.
    """
    if isinstance(stage, EmbeddingMatchStage):
        return None
    names = {n for g in trainable.groups for n in g.tensors}
    joint = {n for g in trainable.groups if g.whole and g.train.lora is None for n in g.tensors} if stage.compile == "auto" else set()
    model = _Model(shapes, names, joint, isinstance(stage, TextLmStage), float(getattr(stage, "predictor_weight", 0.0)))
    ratio = _positions_a_frame(stage, volume)
    layer = model.layer(ratio)
    recomputed = model.entering(ratio) + layer
    batch = stage.batch.frames if volume is None else min(stage.batch.frames, math.ceil(volume.frames))
    return Compute(
        layers=model.talker.layers,
        first_layer=model.first,
        terms=model.terms,
        cached=model.cached,
        cache_bytes=_cache_bytes(stage, model, ratio, volume),
        weights=sum(math.prod(s) for s in shapes.values()) * BF16 + speech_tokenizer,
        parameters=trainable.parameters if trainable.parameters is not None else trainable.parameters_max,
        linear=sum(math.prod(shapes[n]) for n in trainable.linear(shapes)),
        moments=stage.moments,
        masters=stage.masters,
        activations=round(batch * model.saved(ratio)),
        recomputed=round(batch * recomputed),
        layer=round(batch * layer),
        longest_row=round(min(batch, ROW_FRAMES) * recomputed),
        accumulates=stage.batch.accumulate > 1,
        operations=_operations(stage, model, ratio, volume),
        frames=_frames(stage, volume) if volume is not None else 0.0,
    )


class _Model:
    """A base and what trains of it."""

    def __init__(self, shapes: Shapes, names: set[str], joint: set[str], text: bool, predictor_weight: float) -> None:
        """`names` are the tensors that train; `joint` those of them that do so themselves, in compiled layers."""
        self.shapes, self._names, self._joint = shapes, names, joint
        self.talker, self.predictor = _Decoder.of(shapes, TALKER_LAYERS), _Decoder.of(shapes, PREDICTOR_LAYERS)
        self.groups = 1 + sum(within(n, PREDICTOR_HEADS) for n in shapes)
        self.first = _first_layer(names, self.talker.layers)
        self.terms = ("text",) if text else _terms(names, self.first, predictor_weight)
        self.cached: Literal["hidden", "layer"] | None = None
        if not text and self.first is None and "talker" not in self.terms:
            self.cached = "hidden"
        elif not text and self.first:
            self.cached = "layer"

    def trains(self, part: str) -> bool:
        """Whether linear layers of a part learn, themselves or through low-rank deltas."""
        return any(within(n, part) for n in self._names)

    def saved(self, ratio: float) -> float:
        """Bytes that one frame keeps, or that its loss needs beside them."""
        return sum(saved for _, saved in self._layers(ratio)) + self._around()

    def entering(self, ratio: float) -> float:
        """The same of what enters layers and of what is around them, without what they keep."""
        return sum(entering for entering, _ in self._layers(ratio)) + self._around()

    def layer(self, ratio: float) -> float:
        """Bytes that the largest layer keeps for one frame."""
        return max((saved for _, saved in self._layers(ratio)), default=0.0)

    def _layers(self, ratio: float) -> Iterator[tuple[float, float]]:
        """Of each layer that gradients pass: bytes of what enters it, and of what it keeps, for one frame."""
        if self.first is not None:
            for i in range(self.first, self.talker.layers):
                yield ratio * self.talker.hidden * BF16, ratio * self.talker.saved(self.trains(f"{TALKER_LAYERS}.{i}"))
        if "predictor" in self.terms:
            for i in range(self.predictor.layers):
                layer = f"{PREDICTOR_LAYERS}.{i}"
                joint = all(f"{layer}.self_attn.{n}_proj.weight" in self._joint for n in "qkv")
                saved = self.predictor.saved(self.trains(layer), turned_again=joint)
                yield self.groups * self.predictor.hidden * BF16, self.groups * saved

    def _around(self) -> float:
        """Bytes of logits and of what the predictor reads, for one frame, and what its loss needs beside them."""
        total, logits = 0.0, 0
        if "talker" in self.terms:
            logits = self.shapes[f"{CODEC_HEAD}.weight"][0]
            total += logits * BF16
        if "predictor" in self.terms:
            heard = self.groups * (self.talker.hidden + self.predictor.hidden) + (self.groups - 1) * self.predictor.hidden
            count = (self.groups - 1) * self.shapes[f"{PREDICTOR_HEADS}.0.weight"][0]
            total += (heard + count) * BF16
            logits = max(logits, count)
        return total + logits * (FP32 + BF16)  # the larger of the two losses once in float32, and its gradient

    def operations(self, ratio: float, computed: float) -> float:
        """Of one frame: two for each weight and position forwards, two more for the gradient of what enters, two for that of a
        weight that trains. `computed` is the share of the times in which frozen layers are not known already."""

        def passes(back: bool, trains: bool) -> int:
            return 2 * (1 + back + trains)

        total = 0.0
        for i in range(self.talker.layers):
            back = self.first is not None and i >= self.first
            share = 1.0 if back else computed
            total += share * ratio * self.talker.weights * passes(back, self.trains(f"{TALKER_LAYERS}.{i}"))
        if "talker" in self.terms:
            total += math.prod(self.shapes[f"{CODEC_HEAD}.weight"]) * passes(self.first is not None, self.trains(CODEC_HEAD))
        if "predictor" in self.terms:
            heads = (self.groups - 1) * math.prod(self.shapes[f"{PREDICTOR_HEADS}.0.weight"])
            weights = self.groups * self.predictor.layers * self.predictor.weights + heads
            total += weights * passes(True, self.trains(PREDICTOR))
        return total


def _first_layer(names: Iterable[str], layers: int) -> int | None:
    """The lowest layer of the talker that something trains in or below."""
    reached = []
    for name in names:
        if within(name, *TALKER_INPUTS):
            reached.append(0)
        elif (match := _LAYER.match(name)) is not None:
            reached.append(int(match[1]))
        elif within(name, TALKER_NORM):
            reached.append(layers)
    return min(reached, default=None)


def _terms(names: Iterable[str], first: int | None, predictor_weight: float) -> tuple[str, ...]:
    names = set(names)
    talker = first is not None or any(within(n, CODEC_HEAD) for n in names)
    predictor = first is not None or any(within(n, PREDICTOR) for n in names)
    return (("talker",) if talker else ()) + (("predictor",) if predictor and predictor_weight > 0 else ())


def _positions_a_frame(stage: Stage, volume: Volume | None) -> float:
    """Positions of the talker for one frame that is learned; in `text_lm` for one token."""
    frames = volume.frames / volume.rows if volume is not None and volume.rows and volume.frames else 60.0
    tokens = volume.tokens / volume.rows if volume is not None and volume.rows else 20.0
    if stage.objective == "text_lm":
        return (tokens + _PREFIX) / max(tokens, 1.0)
    first = {"streaming": 0.0, "non_streaming": tokens, "mixed": tokens / 2}[getattr(stage, "layout", "mixed")]
    reference = {"x_vector": 0.0, "in_context": 1.0, "mixed": 0.5}[getattr(stage, "prompt", "x_vector")] * _REFERENCE
    return (frames + _PREFIX + first + reference * (1 + (first > 0))) / frames


def _operations(stage: Stage, model: _Model, ratio: float, volume: Volume | None) -> float | None:
    if volume is None or not volume.frames:
        return None
    frames = _frames(stage, volume)
    epochs = frames / volume.frames
    return frames * model.operations(ratio, min(1.0, _variants(stage) / epochs) if model.cached is not None else 1.0)


def _frames(stage: Stage, volume: Volume) -> float:
    """Frames that a stage trains on."""
    steps = (stage.steps or 0) * stage.batch.frames * stage.batch.accumulate
    return stage.epochs * volume.frames if stage.epochs is not None else steps


def _variants(stage: Stage) -> int:
    """In how many ways a row can be laid out."""
    return (1 + (getattr(stage, "layout", "") == "mixed")) * (1 + (getattr(stage, "prompt", "") == "mixed"))


def _cache_bytes(stage: Stage, model: _Model, ratio: float, volume: Volume | None) -> int | None:
    if model.cached is None:
        return 0
    if volume is None:
        return None
    drawn = min(_variants(stage), math.ceil(stage.epochs)) if stage.epochs is not None else _variants(stage)
    return math.ceil(drawn * volume.frames * (ratio if model.cached == "layer" else 1.0) * model.talker.hidden * BF16)
