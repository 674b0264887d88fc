"""The objective `embedding_match`: which words it reads, what it measures, and that it moves nothing but what is declared."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qrecipe.data.batches import Item, Sampler
from qrecipe.model.load import LoadedBase
from qrecipe.plan.synthetic import Sentence
from qrecipe.recipe.respelling import RespellingTable, parse
from qrecipe.recipe.stage import EmbeddingMatchStage
from qrecipe.train.loop import train_stage
from qrecipe.train.objectives.embedding_match import EmbeddingMatchObjective, WordPair, pairs
from tests.support.training import PROJECTION, learner_of

TEXT = "Kucing itu suka kacang, kucing itu suka 2 susu."


@pytest.fixture(scope="module")
def table() -> RespellingTable:
    return parse(
        "{respelling: 1, from: ms, into: es, alphabet: abcdefghilmnopqrstu, rules: [c -> ch, k -> c], tests: {kacang: cachang}}", "t.yaml"
    )


def stage(*train: dict[str, Any], **changes: Any) -> EmbeddingMatchStage:
    fields = {"id": "s", "objective": "embedding_match", "data": ["text"], "steps": 30, "warmup": 0.0, "train": list(train)}
    return EmbeddingMatchStage.model_validate({**fields, "batch": {"frames": 1000}, **changes})


def test_words_are_read_as_they_stand_in_a_sentence(table: RespellingTable) -> None:
    found = pairs([Sentence(3, TEXT, ""), Sentence(4, "Kucing lari.", "")], table)
    assert found[:4] == [
        WordPair("Kucing", "Cuching", 3),
        WordPair(" itu", " itu", 3),
        WordPair(" suka", " suca", 3),
        WordPair(" kacang", " cachang", 3),
    ]
    assert [p.native for p in found[4:]] == [" kucing", " susu", " lari"]


def test_the_loss_is_the_distance_of_means(opened: LoadedBase, table: RespellingTable) -> None:
    chosen = stage(PROJECTION)
    learner, _ = learner_of(opened, chosen)
    words = pairs([Sentence(1, TEXT, "")], table)
    objective = EmbeddingMatchObjective(chosen, opened, learner.tables, {"text": words})
    talker = opened.talker

    def mean(text: str) -> torch.Tensor:
        ids = torch.tensor(opened.wrapper.processor.tokenizer(text)["input_ids"])
        found: torch.Tensor = talker.text_projection(talker.model.text_embedding(ids)).mean(0)
        return found

    with torch.no_grad():
        targets = torch.stack([mean(p.respelled) for p in words])
        away = torch.stack([mean(p.native) for p in words]) - targets
        expected = float(away.pow(2).sum() / targets.pow(2).sum(1).mean())
        micro = [Item("text", i, 1) for i in range(len(words))]
        assert float(objective.loss_sums(micro, 1)["words"]) == pytest.approx(expected, rel=1e-4)
        assert objective.count_labels([micro]) == {"words": len(words)}
    learner.close()


def test_words_come_nearer_and_an_anchor_holds_them_back(opened: LoadedBase, table: RespellingTable) -> None:
    seen = sorted({t for w in TEXT.split() for t in opened.tokenizer.ids(" " + w)})
    left = []
    for anchor in (0.0, 10.0):
        chosen = stage({"match": "talker.model.text_embedding", "rows": "seen", "lr": 5e-3}, anchor=anchor)
        learner, _ = learner_of(opened, chosen, seen)
        objective = EmbeddingMatchObjective(chosen, opened, learner.tables, {"text": pairs([Sentence(1, TEXT, "")], table)})
        sampler = Sampler(objective.lengths(), {}, chosen.batch, 0)
        micro = sampler.epoch(0)[0][0]
        with torch.no_grad():
            before = float(objective.loss_sums(micro, 1)["words"])
        result = train_stage(chosen, opened, learner, objective, sampler)
        with torch.no_grad():
            left.append(float(objective.loss_sums(micro, 1)["words"]) / before)
        learner.close()
        assert set(result.delta.rows) == {"talker.model.text_embedding.weight"}
    assert left[0] < 0.5
    assert left[0] < left[1] < 1.0
