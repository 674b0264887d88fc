"""How a metric's value becomes a reward: numbers between 0 and 1, of which more is better. Never imports torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

Spread = tuple[float, float]
"""Between which 95 % of the recordings lie."""


class Transform(NamedTuple):
    """A function of a value, and of the recordings' spread where it needs one."""

    description: str
    function: Callable[[float, Spread], float]
    spread: bool = False
    """Whether it compares with recordings of the language."""


def _usual(value: float, spread: Spread) -> float:
    low, high = spread
    outside = max(low - value, value - high, 0.0)
    return 1.0 - outside / (high - low) if high > low else float(outside == 0.0)


TRANSFORMS: dict[str, Transform] = {
    "one_less": Transform("1 less the value", lambda value, _: 1.0 - value),
    "cosine": Transform("the value, at least 0", lambda value, _: value),
    "opinion": Transform("(value - 1) / 4", lambda value, _: (value - 1.0) / 4.0),
    "few": Transform("1 / (1 + value)", lambda value, _: 1.0 / (1.0 + value)),
    "ratio": Transform("the value or 1 / value, whichever is less", lambda value, _: min(value, 1.0 / value) if value > 0 else 0.0),
    "usual": Transform(
        "1 where 95 % of the language's recordings lie; outside less by the distance over the width of that", _usual, spread=True
    ),
}


def reward_of(transform: str, value: float | None, spread: Spread = (0.0, 0.0)) -> float:
    """The reward for a value, between 0 and 1; 0 for a sample that has none, such as the rate of one that says nothing.

    >>> reward_of("one_less", 0.25), reward_of("one_less", 1.5), reward_of("usual", 9.0, (10.0, 20.0)), reward_of("few", None)
    (0.75, 0.0, 0.9, 0.0)
    """
    if value is None:
        return 0.0
    return min(1.0, max(0.0, TRANSFORMS[transform].function(value, spread)))
