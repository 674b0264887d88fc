"""The functions behind the built-in metrics. Each takes one item and returns one number, or a ratio to be pooled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from qrecipe.data.audio import Audio
from qrecipe.data.speech import SpeechRow
from qrecipe.evaluate import normalise

if TYPE_CHECKING:
    from qrecipe.evaluate.listeners import Listeners


@dataclass(frozen=True)
class TeacherForced:
    """A recording as the model sees it with its own codes as history."""

    talker_nll: float
    """Nats, mean per label of codebook 0, the end included."""
    predictor_nll: float
    """Nats, mean per frame and codebook."""


@dataclass
class Sample:
    """One utterance with what it is compared to: generated speech, or a recording in its place."""

    row: SpeechRow
    audio: Audio
    """[samples] float32, mono at 24 kHz."""
    codes: torch.Tensor
    """[frames, codebooks]."""
    cap: int
    """Frames at which generation was cut."""
    language: str
    """Name of the language that the text is in."""
    listeners: Listeners
    reference: torch.Tensor | None
    """[hidden] float32, x-vector of the reference; None if the row has none."""

    @property
    def frames(self) -> int:
        """Frames of the sample."""
        return int(self.codes.shape[0])

    @cached_property
    def transcript(self) -> str:
        """What the recipe's recogniser hears."""
        return self.listeners.transcribe(self.audio, self.language)

    @cached_property
    def x_vector(self) -> torch.Tensor:
        """[hidden] float32 of the audio."""
        return self.listeners.x_vector(self.audio)

    @property
    def tag(self) -> str:
        """BCP 47 tag of the language."""
        return self.listeners.tag(self.language)


@dataclass(frozen=True)
class Ratio:
    """A value with the weight of its prompt: rates of errors are pooled, not averaged."""

    numerator: float
    denominator: float


def talker_nll(item: TeacherForced) -> float:
    """Negative log-likelihood of codebook 0."""
    return item.talker_nll


def predictor_nll(item: TeacherForced) -> float:
    """Negative log-likelihood of the other codebooks."""
    return item.predictor_nll


def runaway(sample: Sample) -> float:
    """1 if the generation reached its cap."""
    return float(sample.frames >= sample.cap)


def duration_ratio(sample: Sample) -> float:
    """Frames spoken over frames of the recording."""
    return sample.frames / sample.row.frames


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
    return float(longest_run(sample.codes))


def speaker_similarity(sample: Sample) -> float:
    """Cosine of the x-vectors of the sample and of its reference."""
    assert sample.reference is not None, "only rows with a reference are spoken"
    return float(torch.nn.functional.cosine_similarity(sample.x_vector, sample.reference, dim=0))


def cer(sample: Sample) -> Ratio:
    """Character edits (substitutions, deletions, insertions) of the transcript, over characters of the text; both normalised."""
    import jiwer

    said, heard = normalise.normalise(sample.row.text, sample.tag), normalise.normalise(sample.transcript, sample.tag)
    found = jiwer.process_characters(said, heard)
    return Ratio(found.substitutions + found.deletions + found.insertions, len(said))


def wer(sample: Sample) -> Ratio:
    """Word edits of the transcript over words of the text; both normalised."""
    import jiwer

    said = normalise.words(normalise.normalise(sample.row.text, sample.tag), sample.tag)
    heard = normalise.words(normalise.normalise(sample.transcript, sample.tag), sample.tag)
    found = jiwer.process_words(" ".join(said), " ".join(heard))
    return Ratio(found.substitutions + found.deletions + found.insertions, len(said))
