"""Generated speech of a run, kept batch by batch: an evaluation that was stopped speaks only what is missing.

Kept by what it depends on, so that another metric over the same speech does not speak it again either.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qrecipe.data import sealed
from qrecipe.files import digest
from qrecipe.model.speak import Spoken


class SpokenStore:
    """Batches of speech of one state of the model."""

    def __init__(self, folder: Path, state: Any) -> None:
        """`state` is everything that speech depends on beside the batch itself: weights, dataset, settings."""
        self._folder = folder
        self._state = state

    def batch(self, key: Any, make: Callable[[], list[Spoken]]) -> list[Spoken]:
        """The speech of a batch, from the store or by `make`."""
        file = self._folder / f"{digest([self._state, key])[:32]}.sealed"
        found = sealed.recall(file, "lengths", "codes", "audio")
        if found is not None:
            return _unpacked(found)
        spoken = make()
        sealed.store(file, _packed(spoken))
        return spoken


def _packed(spoken: list[Spoken]) -> dict[str, torch.Tensor]:
    lengths = [[s.codes.shape[0], s.codes.shape[1], len(s.audio), s.rate] for s in spoken]
    return {
        "lengths": torch.tensor(lengths, dtype=torch.int64),
        "codes": torch.cat([s.codes.reshape(-1).to(torch.int64) for s in spoken]),
        "audio": torch.cat([torch.from_numpy(s.audio).to(torch.float32) for s in spoken]),
    }


def _unpacked(found: dict[str, torch.Tensor]) -> list[Spoken]:
    spoken = []
    codes_at = audio_at = 0
    for frames, books, samples, rate in found["lengths"].tolist():
        codes = found["codes"][codes_at : codes_at + frames * books].reshape(frames, books).clone()
        audio = found["audio"][audio_at : audio_at + samples].clone().numpy()
        spoken.append(Spoken(codes, audio, rate))
        codes_at, audio_at = codes_at + frames * books, audio_at + samples
    return spoken
