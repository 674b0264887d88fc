"""What fixtures of the whole suite hand to tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.audio import Audio

if TYPE_CHECKING:
    import torch

    from qrecipe.run.record import Outcome


@dataclass(frozen=True)
class Voice:
    """A reference recording as prompts hold it."""

    samples: Audio
    """Mono at 24 kHz."""
    x_vector: torch.Tensor
    """[hidden]."""
    codes: torch.Tensor
    """[frames, codebooks]."""


@dataclass(frozen=True)
class Finished:
    """A run that ended."""

    recipe: Path
    runs: Path
    bundles: Path
    outcome: Outcome
