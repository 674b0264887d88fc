"""The objective `embedding_match`: a native word's mean projected embedding moves to that of the word respelled.

What a talker reads of a word are its tokens' embeddings after `text_projection`. Their mean over the respelled word, by the
weights as they are when the stage begins, is the target of their mean over the native word. Nothing is spoken, so it costs
seconds; it knows nothing of order and context.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from qrecipe.data.batches import Item, Micro
from qrecipe.model import forward
from qrecipe.model.load import LoadedBase
from qrecipe.plan.synthetic import Sentence
from qrecipe.recipe.respelling import RespellingTable
from qrecipe.recipe.stage import EmbeddingMatchStage
from qrecipe.train.objectives.objective import Objective, ObjectiveInputs

_WORD = re.compile(r" ?[^\W\d_]+")
TARGET_BATCH = 1024
"""Words in a batch when targets are computed."""


@dataclass(frozen=True)
class WordPair:
    """A word as it is tokenised within a sentence (with the space before it), and respelled."""

    native: str
    respelled: str
    line: int
    """Line of the manifest where it occurs first."""


def pairs(sentences: Sequence[Sentence], table: RespellingTable) -> list[WordPair]:
    """Every word of the sentences once, in order of appearance."""
    by_word: dict[str, WordPair] = {}
    for sentence in sentences:
        for word in _WORD.findall(sentence.text):
            respelled = table.spell(word)
            if word not in by_word and respelled.strip():
                by_word[word] = WordPair(word, respelled, sentence.line)
    return list(by_word.values())


class EmbeddingMatchObjective(Objective):
    """Mean squared distance of pooled projected embeddings, over the mean squared norm of the targets."""

    def __init__(self, stage: EmbeddingMatchStage, opened: LoadedBase, tables: forward.Tables, data: dict[str, list[WordPair]]) -> None:
        self.stage = stage
        self.opened = opened
        self.tables = tables
        self.data = data
        self.weights = {"words": 1.0, "anchor": stage.anchor}
        self._tokens = {name: [opened.tokenizer.ids(p.native) for p in words] for name, words in data.items()}
        respelled = {name: [opened.tokenizer.ids(p.respelled) for p in words] for name, words in data.items()}
        with torch.no_grad(), opened.autocast():
            self._targets = {name: self._all(ids) for name, ids in respelled.items()}
            self._before = {name: self._all(ids) for name, ids in self._tokens.items()} if stage.anchor else {}
        self._scale = torch.cat(list(self._targets.values())).pow(2).sum(1).mean()

    @classmethod
    def build(cls, stage: EmbeddingMatchStage, inputs: ObjectiveInputs) -> EmbeddingMatchObjective:
        """Moves every word of the stage's sentences."""
        words = {name: pairs(sentences, table) for name, (sentences, table) in inputs.sentences.items()}
        return cls(stage, inputs.opened, inputs.tables, words)

    def lengths(self) -> dict[str, list[int]]:
        """Tokens of every native word, by dataset."""
        return {name: [len(t) for t in tokens] for name, tokens in self._tokens.items()}

    def count_labels(self, batch: Sequence[Micro]) -> dict[str, int]:
        """Words."""
        words = sum(map(len, batch))
        return {"words": words, **({"anchor": words} if self.stage.anchor else {})}

    def loss_sums(self, micro: Micro, step: int) -> dict[str, torch.Tensor]:
        """Sums of squared distances to the targets and, with an anchor, to the words' embeddings before the stage."""
        mine = self.pooled([self._tokens[i.dataset][i.index] for i in micro])
        targets = torch.stack([self._targets[i.dataset][i.index] for i in micro])
        sums = {"words": (mine - targets).pow(2).sum() / self._scale}
        if self.stage.anchor:
            before = torch.stack([self._before[i.dataset][i.index] for i in micro])
            sums["anchor"] = (mine - before).pow(2).sum() / self._scale
        return sums

    def pooled(self, words: Sequence[Sequence[int]]) -> torch.Tensor:
        """Mean projected embedding of every word's tokens, [words, hidden] float32."""
        sizes = torch.tensor([len(w) for w in words], device=self.opened.device)
        ids = torch.tensor([t for w in words for t in w], dtype=torch.int64, device=self.opened.device)
        projected = self.opened.talker.text_projection(self.tables.text(ids)).float()
        of = torch.repeat_interleave(torch.arange(len(words), device=self.opened.device), sizes)
        total = torch.zeros(len(words), projected.shape[1], device=self.opened.device).index_add(0, of, projected)
        return total / sizes.unsqueeze(1)

    def _all(self, words: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.cat([self.pooled(words[i : i + TARGET_BATCH]) for i in range(0, len(words), TARGET_BATCH)])

    def name(self, item: Item) -> str:
        """`DATASET:LINE`."""
        return f"{item.dataset}:{self.data[item.dataset][item.index].line}"
