"""Batches made ahead are those that were asked for; what nobody asks for is dropped."""

from __future__ import annotations

import threading

from qrecipe.train.prefetch import Prefetcher


def test_what_was_begun_is_taken_and_made_once() -> None:
    prefetcher: Prefetcher[str] = Prefetcher()
    made: list[str] = []
    prefetcher.start(1, "a", lambda: made.append(threading.current_thread().name) or "early")  # type: ignore[func-returns-value]
    prefetcher.start(1, "a", lambda: "twice")
    assert prefetcher.take(1, "a", lambda: "late") == "early"
    assert made[0].startswith("prefetch")
    assert prefetcher.take(1, "a", lambda: "late") == "late", "it is there once"


def test_another_batch_than_the_expected_is_made_now_and_the_next_is_still_there() -> None:
    """A micro-batch that had to be split is another one, and so is the first of all: nobody expected it."""
    prefetcher: Prefetcher[str] = Prefetcher()
    prefetcher.start(2, "whole", lambda: "whole")
    prefetcher.start(3, "next", lambda: "next")
    assert prefetcher.take(2, "half", lambda: "half") == "half"
    assert prefetcher.take(3, "next", lambda: "made again") == "next"
    assert prefetcher.take(2, "whole", lambda: "made again") == "made again", "steps that are over are dropped"
