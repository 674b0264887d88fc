"""Where the time goes: phases within phases, each second counted once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qrecipe import phases
from qrecipe.phases import each, measured, phase


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be moved by hand."""
    moment = [0.0]
    monkeypatch.setattr(phases.time, "monotonic", lambda: moment[0])
    return moment


def test_a_second_counts_once_for_the_innermost_phase(now: list[float]) -> None:
    with measured() as clock:
        now[0] += 1
        with phase("training"):
            now[0] += 10
            with phase("speaking"):
                now[0] += 100
            now[0] += 20
        with phase("speaking"):
            now[0] += 200
    assert clock.table() == {"speaking": 300, "training": 30, "other": 1}


def test_between_two_items_another_phase_counts(now: list[float]) -> None:
    def made() -> Iterator[int]:
        for i in range(2):
            now[0] += 5
            yield i

    with measured() as clock:
        for _ in each("speaking", made()):
            now[0] += 3
    assert clock.table() == {"speaking": 10, "other": 6}


def _fail(now: list[float]) -> None:
    now[0] += 1
    raise ValueError("no")


def test_what_fails_ends_its_phase(now: list[float]) -> None:
    with measured() as clock:
        with pytest.raises(ValueError, match="no"), phase("training"):
            _fail(now)
        now[0] += 2
    assert clock.table() == {"other": 2, "training": 1}


def test_without_a_clock_nothing_is_counted() -> None:
    assert phases.current() is None
    with phase("training"):
        assert list(each("speaking", [1, 2])) == [1, 2]
