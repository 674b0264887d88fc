"""The divergence from the teacher: against torch's own over the whole vocabulary, and the objective that it is a part of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from qrecipe.data.batches import Item
from qrecipe.data.speech import SoftTargets, SpeechData
from qrecipe.data.synthetic import soft_targets
from qrecipe.evaluate.measure import teacher_forced
from qrecipe.model import prompt
from qrecipe.model.load import LoadedBase
from qrecipe.plan.synthetic import TOP
from qrecipe.recipe.stage import RespellStage
from qrecipe.train.objectives import distill
from qrecipe.train.objectives.speech import SpeechObjective
from tests.support.training import LANGUAGE, PROJECTION, learner_of


def targets_of(logits: torch.Tensor, top: int) -> SoftTargets:
    logs, codes = torch.log_softmax(logits, 1).topk(top, dim=1)
    return SoftTargets(codes, logs)


def test_with_every_code_it_is_the_whole_divergence() -> None:
    torch.manual_seed(0)
    theirs, mine = torch.randn(7, 50) * 3, torch.randn(7, 50) * 3
    whole = F.kl_div(torch.log_softmax(mine, 1), torch.log_softmax(theirs, 1), log_target=True, reduction="none").sum(1)
    assert torch.allclose(distill.divergence(mine, targets_of(theirs, 50)), whole, atol=1e-5)


def with_others_as_one(theirs: torch.Tensor, mine: torch.Tensor, top: int) -> torch.Tensor:
    """The divergence over the teacher's `top` likeliest codes and one outcome that stands for all others, nats a row, by its definition."""
    expected = []
    for a, b in zip(torch.softmax(theirs.double(), 1), torch.softmax(mine.double(), 1), strict=True):
        likely = a.topk(top).indices
        kept = sum(float(a[i] * (a[i] / b[i]).log()) for i in likely)
        rest = 1 - float(a[likely].sum()), 1 - float(b[likely].sum())
        expected.append(kept + rest[0] * float(torch.tensor(rest[0] / rest[1]).log()))
    return torch.tensor(expected, dtype=torch.float64)


def test_with_some_codes_it_is_the_divergence_with_the_others_as_one() -> None:
    torch.manual_seed(1)
    theirs, mine = torch.randn(5, 40), torch.randn(5, 40)
    found = distill.divergence(mine, targets_of(theirs, 6))
    assert torch.allclose(found.double(), with_others_as_one(theirs, mine, 6), atol=1e-5)
    assert (found <= distill.divergence(mine, targets_of(theirs, 40)) + 1e-6).all()


def test_it_is_zero_and_flat_where_the_student_is_the_teacher() -> None:
    torch.manual_seed(2)
    mine = torch.randn(4, 30, requires_grad=True)
    found = distill.divergence(mine, targets_of(mine.detach(), 8))
    found.sum().backward()
    assert found.abs().max() < 1e-5
    assert mine.grad is not None
    assert mine.grad.abs().max() < 1e-5


@pytest.fixture(scope="module")
def spoken(opened: LoadedBase, own: SpeechData) -> SpeechData:
    """Malay rows as if the base had said them in Spanish: its distributions under another text and language."""
    row = opened.language_row("spanish")
    examples = [replace(own.example(r, row, "non_streaming", "x_vector", opened.tokenizer), body=r.body[::-1]) for r in own.rows]
    return replace(own, rows=[replace(r, soft_targets=t) for r, t in zip(own.rows, soft_targets(opened, examples), strict=True)])


def respell_stage(*train: dict[str, Any], **changes: Any) -> RespellStage:
    fields = {"id": "s", "objective": "respell", "data": ["malay"], "steps": 3, "warmup": 0.0, "train": list(train), "layout": "streaming"}
    return RespellStage.model_validate({**fields, "batch": {"frames": 200}, **changes})


def test_the_student_learns_the_codes_under_its_own_prompt(opened: LoadedBase, spoken: SpeechData) -> None:
    """Cross-entropies are the likelihoods that evaluation finds for the native text under the new language's row; the
    divergence is that of its definition between distributions that are read one row at a time."""
    stage = respell_stage(LANGUAGE)
    learner, _ = learner_of(opened, stage)
    objective = SpeechObjective(stage, opened, learner.tables, {"malay": spoken}, seed=0)
    micro = [Item("malay", i, r.frames) for i, r in enumerate(spoken.rows)]
    with torch.no_grad():
        sums, labels = objective.loss_sums(micro, 1), objective.count_labels([micro])
        measured = [item for _, item in teacher_forced(opened, learner.tables, spoken, "streaming", "x_vector")]
        frames = [r.frames for r in spoken.rows]
        talker = sum(m.talker_nll * (n + 1) for m, n in zip(measured, frames, strict=True))
        predictor = sum(m.predictor_nll * n * (opened.groups - 1) for m, n in zip(measured, frames, strict=True))
        whole = opened.config.talker_config.vocab_size
        kl = kept = 0.0
        row = opened.language_row("spanish")
        for r in spoken.rows:
            native = spoken.example(r, opened.language_row("malay"), "streaming", "x_vector", opened.tokenizer)
            respelled = replace(spoken.example(r, row, "non_streaming", "x_vector", opened.tokenizer), body=r.body[::-1])
            mine, theirs = (_distribution(opened, e, whole) for e in (native, respelled))
            kl += float(F.kl_div(mine, theirs, log_target=True, reduction="sum"))
            kept += float(with_others_as_one(theirs, mine, TOP).sum())
    learner.close()
    assert labels["kl"] == labels["talker"] == sum(frames) + len(frames)
    assert float(sums["talker"]) == pytest.approx(talker, rel=1e-4)
    assert float(sums["predictor"]) == pytest.approx(predictor, rel=1e-4)
    assert float(sums["kl"]) == pytest.approx(kept, rel=1e-4)
    assert float(sums["kl"]) <= kl * (1 + 1e-4), "at most the whole divergence"


def _distribution(opened: LoadedBase, example: prompt.Example, whole: int) -> torch.Tensor:
    """Log probabilities of code 0 at every label, in the order of the vocabulary."""
    (targets,) = soft_targets(opened, [example], top=whole)
    return torch.empty_like(targets.logs).scatter_(1, targets.codes, targets.logs)


def test_rows_without_a_teacher_have_no_divergence(opened: LoadedBase, spoken: SpeechData, english: SpeechData) -> None:
    stage = respell_stage(PROJECTION, data=["malay", {"use": "english", "share": 0.5}])
    learner, _ = learner_of(opened, stage)
    objective = SpeechObjective(stage, opened, learner.tables, {"malay": spoken, "english": english}, seed=0)
    both = [Item("malay", 0, 8), Item("english", 0, 8)]
    with torch.no_grad():
        alone, mixed = objective.loss_sums(both[:1], 1), objective.loss_sums(both, 1)
        assert "kl" not in objective.loss_sums(both[1:], 1)
    assert "kl" not in objective.count_labels([both[1:]])
    assert float(mixed["kl"]) == pytest.approx(float(alone["kl"]), rel=1e-4)
    learner.close()
