"""Batches made ahead are those that were asked for; what nobody asks for is dropped."""

from __future__ import annotations

import threading

from qrecipe.train.ahead import Ahead


def test_what_was_begun_is_taken_and_made_once() -> None:
    ahead: Ahead[str] = Ahead()
    made: list[str] = []
    ahead.start("a", lambda: made.append(threading.current_thread().name) or "early")  # type: ignore[func-returns-value]
    ahead.start("a", lambda: "twice")
    assert ahead.take("a", lambda: "late") == "early"
    assert made[0].startswith("ahead")
    assert ahead.take("a", lambda: "late") == "late", "it is there once"


def test_another_batch_than_the_expected_is_made_now() -> None:
    """A micro-batch that had to be split is another one."""
    ahead: Ahead[str] = Ahead()
    ahead.start("whole", lambda: "whole")
    assert ahead.take("half", lambda: "half") == "half"
    assert ahead.take("whole", lambda: "made again") == "made again"
