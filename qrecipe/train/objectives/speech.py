"""The objectives `speech` and `respell`: talker cross-entropy on codebook 0 plus weighted predictor cross-entropy on the others.

Frames that the base itself spoke (`respell`, `{use: self}`) also pull code 0 towards the base's own distribution.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch

from qrecipe.data.batches import Item, Micro
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.data.states import OnRows, States, Wanted, example_key
from qrecipe.model import forward, prompt
from qrecipe.model.load import LoadedBase
from qrecipe.qwen3 import Layout, PromptKind
from qrecipe.recipe.stage import SpokenStage
from qrecipe.train.objectives import distill
from qrecipe.train.objectives.objective import Objective, ObjectiveInputs
from qrecipe.train.prefetch import Prefetcher

PAYS = 1.5
"""How often rows come in the same layout, on average, for their states to be worth keeping."""


@dataclass(frozen=True)
class CachedBatch:
    """A micro-batch whose hidden states of the talker are cached."""

    hidden: torch.Tensor
    """[frames, hidden] states that predict the frames."""
    codes: torch.Tensor
    """[frames, G]."""

    def pinned(self) -> CachedBatch:
        """In memory that a GPU copies from while it computes."""
        return CachedBatch(self.hidden.pin_memory(), self.codes.pin_memory())

    def to(self, device: torch.device) -> CachedBatch:
        """On a device."""
        return CachedBatch(self.hidden.to(device, non_blocking=True), self.codes.to(device, non_blocking=True))


class SpeechObjective(Objective):
    """Learns frames, recorded or spoken by the base, every row under its own language's prefix."""

    def __init__(
        self,
        stage: SpokenStage,
        opened: LoadedBase,
        tables: forward.Tables,
        data: dict[str, SpeechData],
        seed: int,
        terms: Collection[str] = ("talker", "predictor"),
    ) -> None:
        """`terms` are the losses that can move anything that trains; no others are computed."""
        self.stage = stage
        self.opened = opened
        self.tables = tables
        self.data = data
        self.seed = seed
        self.ids = prompt.ControlIds.of(opened.config)
        self._prefetcher: Prefetcher[prompt.SpeechBatch | CachedBatch] = Prefetcher()
        self._states: States | None = None
        self._keys: dict[tuple[str, int, Layout, PromptKind], str] = {}
        weights = {"talker": 1.0, "predictor": stage.predictor_weight, "kl": stage.kl_weight}
        self.weights = {k: v for k, v in weights.items() if ("talker" if k == "kl" else k) in terms and v > 0}

    @classmethod
    def build(cls, stage: SpokenStage, inputs: ObjectiveInputs) -> SpeechObjective:
        """Learns every row of the stage's speech."""
        return cls(stage, inputs.opened, inputs.tables, dict(inputs.speech), inputs.seed, inputs.terms)

    def lengths(self) -> dict[str, list[int]]:
        """Frames by dataset."""
        return {name: [r.frames for r in d.rows] for name, d in self.data.items()}

    def count_labels(self, batch: Sequence[Micro]) -> dict[str, int]:
        """Labels of codebook 0 (ends included), codes of the other codebooks, and labels of codebook 0 with soft targets."""
        rows = [self.data[i.dataset].rows[i.index] for micro in batch for i in micro]
        frames = sum(r.frames for r in rows)
        ends = sum(not r.cut for r in rows)
        labels = {"talker": frames + ends, "predictor": frames * (self.opened.groups - 1)}
        soft = sum(len(r.soft_targets.codes) for r in rows if r.soft_targets is not None)
        if soft:
            labels["kl"] = soft
        return {term: n for term, n in labels.items() if term in self.weights}

    def loss_sums(self, micro: Micro, step: int) -> dict[str, torch.Tensor]:
        """Sums of the cross-entropies and of the divergence over a micro-batch."""
        batch = self._prefetcher.take(step, tuple(micro), lambda: self._batch(micro, step)).to(self.opened.device)
        if isinstance(batch, CachedBatch):
            logits = forward.predictor_logits(self.tables, batch.hidden, batch.codes)
            return {"predictor": forward.codes_nll(logits, batch.codes).sum()}
        wanted = {f"with_{term}": term in self.weights for term in ("talker", "predictor")}
        outputs = forward.speech_logits(self.tables, batch, self.opened.compute_dtype, **wanted)
        sums = {}
        if outputs.talker is not None:
            sums["talker"] = forward.talker_nll(outputs, batch).sum()
            rows = [self.data[i.dataset].rows[i.index] for i in micro]
            kl = distill.total(outputs.talker, [r.frames + (not r.cut) for r in rows], [r.soft_targets for r in rows])
            if kl is not None and "kl" in self.weights:
                sums["kl"] = kl
        if outputs.predictor is not None:
            sums["predictor"] = forward.predictor_nll(outputs, batch).sum()
        return sums

    def prefetch(self, micro: Micro, step: int) -> None:
        """Lays the micro-batch out in another thread, where a GPU would wait for it."""
        if self.opened.device.type == "cuda":
            self._prefetcher.start(step, tuple(micro), lambda: self._batch(micro, step).pinned())

    def cache_states(self, states: States, batches: Iterable[list[Micro]], progress: OnRows | None = None) -> int | None:
        """Reads the talker's states of every row from `states` from now on; missing ones are computed here.

        `batches` are those of all steps, from the first. Returns the bytes that are cached; None, and nothing changes, where
        too few rows come twice in the same layout for it to pay.
        """
        wanted: dict[str, Wanted] = {}
        draws = 0
        for step, micro in enumerate(batches, start=1):
            for item in (i for m in micro for i in m):
                draws += 1
                place = (item.dataset, item.index, *self._way(item.dataset, item.index, step))
                if place not in self._keys:
                    self._keys[place] = example_key(self._laid(*place))
                key = self._keys[place]
                wanted[key] = Wanted(key, item.length, partial(self._laid, *place))
        if draws < PAYS * len(wanted):
            return None
        self._states = states
        return states.fill(wanted, progress)

    def _batch(self, micro: Micro, step: int) -> prompt.SpeechBatch | CachedBatch:
        if self._states is None:
            return prompt.collate([self._example(i.dataset, i.index, step) for i in micro], self.ids)
        keys = [self._keys[i.dataset, i.index, *self._way(i.dataset, i.index, step)] for i in micro]
        states = torch.cat([self._states.row(key) for key in keys])
        if self._states.first_layer is None:
            return CachedBatch(states, torch.cat([self.data[i.dataset].rows[i.index].codes for i in micro]))
        laid = prompt.collate([self._example(i.dataset, i.index, step) for i in micro], self.ids)
        return replace(laid, entering=states, first_layer=self._states.first_layer)

    def name(self, item: Item) -> str:
        """`DATASET:LINE`."""
        return f"{item.dataset}:{self.data[item.dataset].rows[item.index].line}"

    def _example(self, dataset: str, index: int, step: int) -> prompt.Example:
        return self._laid(dataset, index, *self._way(dataset, index, step))

    def _way(self, dataset: str, index: int, step: int) -> tuple[Layout, PromptKind]:
        """How a row is laid out at a step: drawn, but always the same."""
        row = self.data[dataset].rows[index]
        coin = hashlib.sha256(f"{self.seed}:{step}:{dataset}:{row.line}".encode()).digest()
        kind: PromptKind = self.stage.prompt if self.stage.prompt != "mixed" else "in_context" if coin[1] % 2 else "x_vector"
        return layout_of(self.stage.layout, row, coin[0]), kind

    def _laid(self, dataset: str, index: int, layout: Layout, kind: PromptKind) -> prompt.Example:
        data = self.data[dataset]
        return data.example(data.rows[index], self.opened.language_row(data.language), layout, kind, self.opened.tokenizer)


def layout_of(layout: Literal[Layout, "mixed"], row: SpeechRow, coin: int) -> Layout:
    """`mixed` is half of the rows each; a text that outruns its speech is laid out whole."""
    if layout == "mixed":
        if len(row.body) > row.frames:
            return "non_streaming"
        return "streaming" if coin % 2 else "non_streaming"
    return layout
