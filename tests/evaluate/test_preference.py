"""Votes of listeners become a verdict: blind, by content, with an interval over listeners and sentences."""

from __future__ import annotations

import numpy as np
import pytest

from qrecipe.evaluate import preference
from qrecipe.evaluate.preference import Pair, Vote, interval, judge_preference, votes_of
from qrecipe.inputs.documents.ballots import Ballot
from qrecipe.recipe.gate import Gate
from tests.support.ballots import ballot, content

GATE = Gate(metric="preference", data="dev", ballots="votes/*.json", min=0.6)
PAIRS = [Pair(i, content(f"model{i}"), content(f"base{i}")) for i in range(1, 13)]


def given(listener: str, answers: list[tuple[str, str, int]], scale: str = "five") -> Ballot:
    return Ballot.model_validate(ballot(listener, answers, scale))


def unanimous(listener: str) -> Ballot:
    return given(listener, [(f"base{i}", f"model{i}", 2) for i in range(1, 13)])


@pytest.mark.parametrize(
    ("first", "second", "answer", "value"),
    [("base1", "model1", 2, 1.0), ("model1", "base1", 2, 0.0), ("model1", "base1", -1, 0.75), ("base1", "model1", 0, 0.5)],
)
def test_a_vote_is_for_the_sound_wherever_it_stood(first: str, second: str, answer: int, value: float) -> None:
    assert votes_of([given("anna", [(first, second, answer)])], PAIRS) == [Vote("anna", 1, value)]


def test_votes_on_other_sounds_count_as_none() -> None:
    stale = given("anna", [("old model", "base1", 2), ("model1", "model2", 2)])
    assert votes_of([stale], PAIRS) == []
    verdict = judge_preference(GATE, [stale], PAIRS)
    assert (verdict.outcome, verdict.value) == ("undecided", None)
    assert "none of 1 ballots is on these sounds" in (verdict.reason or "")
    assert not verdict.counts_as_pass


def test_nobody_has_voted() -> None:
    assert "nobody has voted yet" in (judge_preference(GATE, [], PAIRS).reason or "")


def test_listeners_who_agree_decide() -> None:
    verdict = judge_preference(GATE, [unanimous(f"l{i}") for i in range(10)], PAIRS)
    assert (verdict.outcome, verdict.value, verdict.prompts) == ("pass", 1.0, 12)
    assert verdict.low == pytest.approx(1 - (1 - 0.025 ** (1 / 10)), abs=1e-9), "as sure as ten listeners can make it"
    assert verdict.evaluator is not None
    assert (verdict.evaluator["listeners"], verdict.evaluator["votes"]) == (10, 120)


def test_one_listener_or_one_sentence_decides_nothing() -> None:
    assert judge_preference(GATE, [unanimous("anna")], PAIRS).outcome == "undecided"
    many = [given(f"l{i}", [("base1", "model1", 2)]) for i in range(50)]
    assert judge_preference(GATE, many, PAIRS).outcome == "undecided"


def test_listeners_who_prefer_the_base_fail_it() -> None:
    against = [given(f"l{i}", [(f"base{k}", f"model{k}", -2) for k in range(1, 13)]) for i in range(10)]
    assert judge_preference(GATE, against, PAIRS).outcome == "fail"


@pytest.mark.slow
def test_the_interval_covers_what_it_says() -> None:
    """Listeners and sentences each shift the votes; an interval that took votes for independent would cover far less."""
    rng = np.random.default_rng(0)
    covered = naive = 0
    rounds = 150
    for n in range(rounds):
        taste, ease = rng.normal(0, 0.15, 12), rng.normal(0, 0.15, 16)
        chances = np.clip(0.6 + taste[:, None] + ease[None], 0, 1)
        drawn = rng.random((12, 16)) < chances
        votes = [Vote(f"l{i:02}", k, float(drawn[i, k])) for i in range(12) for k in range(16)]
        low, high = interval(votes, 0.95, str(n))
        covered += low <= 0.6 <= high
        mean, error = drawn.mean(), np.sqrt(drawn.mean() * (1 - drawn.mean()) / drawn.size)
        naive += abs(mean - 0.6) <= 1.96 * error
    assert covered / rounds > 0.92
    assert naive / rounds < covered / rounds - 0.1


def test_the_same_votes_give_the_same_interval_in_any_order() -> None:
    votes = [Vote(f"l{i}", k, float((i * k) % 3 == 0)) for i in range(5) for k in range(7)]
    assert interval(votes, 0.95, "x") == interval(votes[::-1], 0.95, "x")


def test_the_metric_of_a_vote() -> None:
    assert preference.share(Vote("anna", 1, 0.25)) == 0.25
