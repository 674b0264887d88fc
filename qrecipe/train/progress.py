"""How far a stage has come: counts, windows of losses, and the best weights by held-out data."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from statistics import fmean, pstdev
from typing import Any

import torch

SPIKE_WINDOW = 32
"""Steps that a loss is compared with."""
SPIKE_AFTER = 16
SPIKE_DEVIATIONS = 6.0
SPIKE_RATIO = 1.5
"""A spike is a loss this many standard deviations above the window's mean, and this many times the mean."""


@dataclass(frozen=True)
class HeldOut:
    """The weights of one step, measured on held-out data."""

    value: float
    """In the metric's unit."""
    score: float
    """Orders the steps: the lowest is best. Infinite for a step that must not be chosen."""


@dataclass
class Selection:
    """The best step so far by held-out data."""

    best_step: int = 0
    best_score: float = math.inf
    best: dict[str, torch.Tensor] | None = None
    """`Learner.state` of that step."""
    history: list[tuple[int, float]] = field(default_factory=list)
    """(step, held-out value) of every selection."""
    misses: int = 0
    """Selections in a row that were no better."""


@dataclass
class Progress:
    """How far a stage has come, beside the tensors."""

    step: int = 0
    """Steps that are over, and so global batches that were used up."""
    silent: list[int] = field(default_factory=list)
    """Groups of parameters that have had no gradient yet."""
    bad_row: int = 0
    """Steps in a row, up to now, that were skipped because a number was not finite."""
    bad: int = 0
    """Such steps in all."""
    taken: int = 0
    """Steps that changed weights."""
    recent: deque[dict[str, float]] = field(default_factory=deque)
    """Losses of the last tenth of the steps."""
    totals: deque[float] = field(default_factory=lambda: deque(maxlen=SPIKE_WINDOW))
    """Weighted losses that a spike is compared with."""
    fits: int | None = None
    """Length of a micro-batch that fits into this machine's memory; None while none has been too large."""
    selection: Selection = field(default_factory=Selection)

    def spike_over(self, loss: float) -> float | None:
        """The usual loss, if this one leaps out of those before it; else None."""
        if len(self.totals) < SPIKE_AFTER:
            return None
        usual, spread = fmean(self.totals), pstdev(self.totals)
        return usual if loss > usual + SPIKE_DEVIATIONS * spread and loss > SPIKE_RATIO * usual else None

    def mean_losses(self) -> dict[str, float]:
        """Means over the last tenth of the steps that changed weights. Needs one such step."""
        tail = list(self.recent)[-max(1, self.taken // 10) :]
        return {k: sum(m.get(k, 0.0) for m in tail) / len(tail) for k in tail[-1]}

    def copy(self) -> Progress:
        """A copy that later steps do not change."""
        return replace(self, recent=self.recent.copy(), totals=self.totals.copy())

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, without the tensors of the best weights."""
        s = self.selection
        return {
            "step": self.step,
            "silent": self.silent,
            "bad_row": self.bad_row,
            "bad": self.bad,
            "taken": self.taken,
            "recent": list(self.recent),
            "totals": list(self.totals),
            "fits": self.fits,
            "selection": {
                "best_step": s.best_step,
                "best_value": s.best_score if s.best is not None else None,
                "history": s.history,
                "misses": s.misses,
            },
        }

    def load(self, value: dict[str, Any], best: dict[str, torch.Tensor] | None) -> None:
        """Takes over the values of `as_json` and the best weights; the lengths of the windows stay as they are."""
        s = value["selection"]
        self.step, self.silent, self.fits = value["step"], list(value["silent"]), value["fits"]
        self.bad_row, self.bad, self.taken = value["bad_row"], value["bad"], value["taken"]
        self.recent = deque(value["recent"], self.recent.maxlen)
        self.totals = deque(value["totals"], self.totals.maxlen)
        best_score = s["best_value"] if s["best_value"] is not None else math.inf
        self.selection = Selection(s["best_step"], best_score, best, [(a, b) for a, b in s["history"]], s["misses"])
