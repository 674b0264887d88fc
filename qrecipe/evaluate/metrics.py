"""The functions behind the built-in metrics. Each takes one item and returns one number."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qrecipe.data.speech import SpeechRow
from qrecipe.model.speak import Spoken


@dataclass(frozen=True)
class TeacherForced:
    """A recording as the model sees it with its own codes as history."""

    talker_nll: float
    """Nats, mean per label of codebook 0, the end included."""
    predictor_nll: float
    """Nats, mean per frame and codebook."""


@dataclass(frozen=True)
class Sample:
    """One generated utterance with what it is compared to."""

    row: SpeechRow
    spoken: Spoken
    cap: int
    """Frames at which generation was cut."""
    x_vector: torch.Tensor
    """[hidden] float32 of the generated audio."""
    reference: torch.Tensor
    """[hidden] float32 of the reference."""


def talker_nll(item: TeacherForced) -> float:
    """Negative log-likelihood of codebook 0."""
    return item.talker_nll


def predictor_nll(item: TeacherForced) -> float:
    """Negative log-likelihood of the other codebooks."""
    return item.predictor_nll


def runaway(sample: Sample) -> float:
    """1 if the generation reached its cap."""
    return float(sample.spoken.codes.shape[0] >= sample.cap)


def duration_ratio(sample: Sample) -> float:
    """Frames spoken over frames of the recording."""
    return sample.spoken.codes.shape[0] / sample.row.frames


def longest_run(codes: torch.Tensor) -> int:
    """Longest run of frames with the same code 0; `codes` is [frames, codebooks]."""
    best = run = 0
    previous = None
    for code in codes[:, 0].tolist():
        run = run + 1 if code == previous else 1
        previous = code
        best = max(best, run)
    return best


def repeated_frames(sample: Sample) -> float:
    """Longest run of frames with the same code 0."""
    return float(longest_run(sample.spoken.codes))


def speaker_similarity(sample: Sample) -> float:
    """Cosine of the x-vectors of the sample and of its reference."""
    return float(torch.nn.functional.cosine_similarity(sample.x_vector, sample.reference, dim=0))
