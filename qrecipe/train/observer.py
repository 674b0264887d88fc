"""Reports of a stage while it trains."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepReport:
    """One optimiser step that moved the weights."""

    step: int
    """From 1."""
    of: int
    losses: dict[str, float]
    """Loss term -> mean over the global batch's labels, nats."""
    gradient_norm: float
    """Before clipping."""
    lr_scale: float
    """Share of the peak learning rate."""


class Observer:
    """Told of a stage's progress. Its methods do nothing; override those that matter."""

    def step(self, report: StepReport) -> None:
        """Called for every step that moved the weights, in order, when its numbers have been read."""

    def selected(self, step: int, value: float, best: bool) -> None:
        """Called for every held-out value; `best` if no step so far is better."""

    def event(self, kind: str, **fields: object) -> None:
        """Called for events that belong on record: skipped steps, loss spikes, memory, compilation, checkpoints."""

    def progress(self, kind: str, **fields: object) -> None:
        """Called for passing progress that is shown and not recorded."""
