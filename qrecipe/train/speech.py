"""The objectives `speech` and `respell`: talker cross-entropy on codebook 0 plus weighted predictor cross-entropy on the others.

Frames that the base itself spoke (`respell`, `{use: self}`) also pull code 0 towards the base's own distribution.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch

from qrecipe.data.batches import Item, Micro
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.model import forward, prompt
from qrecipe.model.opened import Opened
from qrecipe.recipe.gate import PromptKind
from qrecipe.recipe.stage import SpokenStage
from qrecipe.train import distill
from qrecipe.train.objective import Losses


class SpeechObjective:
    """Learns frames, recorded or spoken by the base, every row under its own language's prefix."""

    def __init__(self, stage: SpokenStage, opened: Opened, tables: forward.Tables, data: dict[str, SpeechData], seed: int) -> None:
        self.stage = stage
        self.opened = opened
        self.tables = tables
        self.data = data
        self.seed = seed
        self.ids = prompt.ControlIds.of(opened.config)
        self.weights = {"talker": 1.0, "predictor": stage.predictor_weight, "kl": stage.kl_weight}

    def lengths(self) -> dict[str, list[int]]:
        """Frames by dataset."""
        return {name: [r.frames for r in d.rows] for name, d in self.data.items()}

    def labels(self, micro: Micro, step: int) -> dict[str, int]:
        """Labels of codebook 0 (ends included), codes of the other codebooks, and labels of codebook 0 that the base guides."""
        rows = [self.data[i.dataset].rows[i.index] for i in micro]
        frames = sum(r.frames for r in rows)
        ends = sum(not r.cut for r in rows)
        found = {"talker": frames + ends, "predictor": frames * (self.opened.groups - 1)}
        guided = sum(len(r.guide.codes) for r in rows if r.guide is not None)
        return {**found, "kl": guided} if guided else found

    def losses(self, micro: Micro, step: int) -> Losses:
        """Sums of both cross-entropies and of the divergence over a micro-batch."""
        examples = [self._example(i.dataset, i.index, step) for i in micro]
        batch = prompt.collate(examples, self.ids).to(self.opened.device)
        logits = forward.speech_logits(self.tables, batch, self.opened.compute_dtype, self.stage.predictor_weight > 0)
        sums = {"talker": forward.talker_nll(logits, batch).sum()}
        if logits.predictor is not None:
            sums["predictor"] = forward.predictor_nll(logits, batch).sum()
        assert logits.talker is not None
        kl = distill.total(logits.talker, [e.labels for e in examples], [self.data[i.dataset].rows[i.index].guide for i in micro])
        if kl is not None:
            sums["kl"] = kl
        return Losses(sums)

    def extra(self) -> None:
        """Nothing beside the labels."""
        return None

    def name(self, item: Item) -> str:
        """`DATASET:LINE`."""
        return f"{item.dataset}:{self.data[item.dataset].rows[item.index].line}"

    def state(self) -> dict[str, torch.Tensor]:
        """Nothing: all that learns are the model's parameters."""
        return {}

    def set_state(self, state: dict[str, torch.Tensor]) -> None:
        """Nothing to take over."""

    def _example(self, dataset: str, index: int, step: int) -> prompt.Example:
        data = self.data[dataset]
        row = data.rows[index]
        coin = hashlib.sha256(f"{self.seed}:{step}:{dataset}:{row.line}".encode()).digest()
        layout = _layout(self.stage.layout, row, coin[0])
        kind: PromptKind = self.stage.prompt if self.stage.prompt != "mixed" else "in_context" if coin[1] % 2 else "x_vector"
        language = self.opened.language_row(data.language)
        return data.example(row, language, layout, kind, self.opened.tokenizer)


def _layout(asked: Literal["streaming", "non_streaming", "mixed"], row: SpeechRow, coin: int) -> prompt.Layout:
    """`mixed` is half of the rows each; a text that outruns its speech is laid out whole."""
    if asked == "mixed":
        if len(row.body) > row.frames:
            return "non_streaming"
        return "streaming" if coin % 2 else "non_streaming"
    return asked
