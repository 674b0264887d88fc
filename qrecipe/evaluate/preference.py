"""The listening gate: votes of people who heard the model and the base blindly, with an interval over listeners and sentences.

Votes of one listener are alike, and so are votes on one sentence. The interval is that of the pigeonhole bootstrap (Owen,
Annals of Applied Statistics 1, 2007): listeners and sentences are drawn independently, and a vote counts as often as its
listener times as often as its sentence. `tests/evaluate/test_preference.py` simulates how often it covers the truth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qrecipe.evaluate.gates import outcome_of, undecidable, verdict_of
from qrecipe.evaluate.intervals import RESAMPLES, Floats, none_of
from qrecipe.files import digest
from qrecipe.inputs.documents.ballots import Ballot
from qrecipe.inputs.documents.verdicts import Verdict
from qrecipe.recipe.gate import Gate


@dataclass(frozen=True)
class Pair:
    """Two sounds of one prompt."""

    line: int
    """Line of the manifest."""
    model: str
    """Content of what the model said."""
    base: str
    """Content of what the base said."""


@dataclass(frozen=True)
class Vote:
    """One listener's answer to one pair."""

    listener: str
    line: int
    value: float
    """1 for the model, 0 for the base, 0.5 for neither; between them on the scale of five."""


def share(vote: Vote) -> float:
    """The metric `preference` of one vote."""
    return vote.value


def votes_of(ballots: Sequence[Ballot], pairs: Sequence[Pair]) -> list[Vote]:
    """Votes on these pairs; those on other sounds count as none."""
    by_sounds: Mapping[frozenset[str], Pair] = {frozenset((p.model, p.base)): p for p in pairs if p.model != p.base}
    votes = []
    for ballot in ballots:
        for answer in ballot.answers:
            pair = by_sounds.get(frozenset((answer.first, answer.second)))
            if pair is not None:
                towards_model = answer.answer if answer.second == pair.model else -answer.answer
                votes.append(Vote(ballot.listener, pair.line, (towards_model + 2) / 4))
    return votes


def judge_preference(gate: Gate, ballots: Sequence[Ballot], pairs: Sequence[Pair]) -> Verdict:
    """The verdict of a gate on `preference`; undecided without votes on these sounds."""
    votes = votes_of(ballots, pairs)
    if not votes:
        other = f"none of {len(ballots)} ballots is on these sounds" if ballots else "nobody has voted yet"
        return undecidable(gate, f"{other}: `qrecipe listen` of the run asks listeners", "undecided")
    value = float(np.mean([v.value for v in votes]))
    low, high = interval(votes, gate.confidence, gate.label())
    by_listener = {name: [v.value for v in votes if v.listener == name] for name in sorted({v.listener for v in votes})}
    means = {name: sum(vs) / len(vs) for name, vs in by_listener.items()}
    return verdict_of(
        gate,
        outcome_of(gate, low, high),
        value=value,
        low=low,
        high=high,
        prompts=len({v.line for v in votes}),
        measured=value,
        slices={"listener": means} if len(means) > 1 else {},
        evaluator={"listeners": len(means), "votes": len(votes), "ballots": digest(sorted(b.sha256 for b in ballots))},
    )


def interval(votes: Sequence[Vote], confidence: float, seed: str) -> tuple[float, float]:
    """Two-sided interval of the mean vote over listeners and sentences.

    From 0 to 1 where one listener, or one sentence, has all votes. Where all votes are alike it ends at the exact bound of as
    many trials as there are listeners or sentences, whichever are fewer.
    """
    listeners, sentences = sorted({v.listener for v in votes}), sorted({v.line for v in votes})
    if min(len(listeners), len(sentences)) < 2:
        return 0.0, 1.0
    values = {v.value for v in votes}
    if len(values) == 1:
        value, reach = values.pop(), none_of(min(len(listeners), len(sentences)), confidence)
        return max(0.0, value - reach), min(1.0, value + reach)

    # sums and counts of votes by listener and sentence, [listeners, sentences]
    sums = np.zeros((len(listeners), len(sentences)))
    counts = np.zeros_like(sums)
    for vote in votes:
        at = listeners.index(vote.listener), sentences.index(vote.line)
        sums[at] += vote.value
        counts[at] += 1
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    by_listener, by_sentence = _draws(rng, len(listeners)), _draws(rng, len(sentences))
    total = ((by_listener @ counts) * by_sentence).sum(axis=1)
    drawn = total > 0
    means = ((by_listener @ sums) * by_sentence).sum(axis=1)[drawn] / total[drawn]
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _draws(rng: np.random.Generator, n: int) -> Floats:
    """How often each of `n` is drawn in every resample, [resamples, n]."""
    counts: Floats = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)
    return counts
