"""The functions behind the built-in metrics. Each takes one item and returns one number, a ratio to be pooled, or None
where the item has no value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from qrecipe.evaluate import normalise
from qrecipe.evaluate.samples import Sample

LONGEST_REPEATED = 4
EARLY = 0.5
"""Speech that lasts less than this share of the recording has stopped early."""


@dataclass(frozen=True)
class TeacherForced:
    """A recording as the model sees it with its own codes as history."""

    talker_nll: float
    """Nats, mean per label of codebook 0, the end included."""
    predictor_nll: float
    """Nats, mean per frame and codebook."""
    other_text_nll: float = math.nan
    """`talker_nll` under the text of another recording."""


@dataclass(frozen=True)
class Ratio:
    """A value with the weight of its prompt: rates of errors are pooled, not averaged."""

    numerator: float
    denominator: float


Measurement = float | Ratio | None


def talker_nll(item: TeacherForced) -> float:
    """Negative log-likelihood of codebook 0."""
    return item.talker_nll


def text_gain(item: TeacherForced) -> float:
    """Worth of the text: nats a label that another recording's text costs."""
    return item.other_text_nll - item.talker_nll


def predictor_nll(item: TeacherForced) -> float:
    """Negative log-likelihood of the other codebooks."""
    return item.predictor_nll


def runaway(sample: Sample) -> float:
    """1 if the generation reached its cap."""
    return float(sample.frames >= sample.cap)


def early_stop(sample: Sample) -> float:
    """1 if the sample lasts less than half as long as the recording."""
    return float(sample.frames < EARLY * sample.row.frames)


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


def speaker_similarity(sample: Sample) -> float | None:
    """Cosine of the speaker vectors of the sample and of its reference, by the recipe's speaker encoder."""
    return sample.evaluators.similarity(sample)


def mos(sample: Sample) -> float:
    """Predicted mean opinion score."""
    return sample.evaluators.mos(sample)


def text_and_transcript(sample: Sample) -> tuple[str, str]:
    """The text and the transcript, both normalised."""
    return normalise.normalise(sample.row.text, sample.tag), normalise.normalise(sample.transcript, sample.tag)


def _rate(edits: Any, length: int) -> Ratio:
    """Edits that jiwer counted over the length of the text, at most 1."""
    return Ratio(min(edits.substitutions + edits.deletions + edits.insertions, length), length)


def cer(sample: Sample) -> Ratio:
    """Character edits (substitutions, deletions, insertions) of the transcript, over characters of the text; both normalised.

    No sample counts more edits than its text has characters. Of a sound that it cannot read a recogniser may write one word
    a hundred times, and one such sample would outweigh all others.
    """
    import jiwer

    text, transcript = text_and_transcript(sample)
    if not text:
        return Ratio(0, 0)
    return _rate(jiwer.process_characters(text, transcript), len(text))


def wer(sample: Sample) -> Ratio:
    """Word edits of the transcript over words of the text; both normalised. At most as many as the text has words, as in `cer`."""
    import jiwer

    text, transcript = (normalise.words(t, sample.tag) for t in text_and_transcript(sample))
    if not text:
        return Ratio(0, 0)
    return _rate(jiwer.process_words(" ".join(text), " ".join(transcript)), len(text))


def repeats(words: list[str]) -> int:
    """Words that say again, at once, what stands right before them: a word, or a phrase of up to `LONGEST_REPEATED` words."""
    count = at = 0
    while at < len(words):
        for n in range(min(LONGEST_REPEATED, at, len(words) - at), 0, -1):
            if words[at : at + n] == words[at - n : at]:
                count += n
                at += n
                break
        else:
            at += 1
    return count


def repeated_words(sample: Sample) -> Ratio:
    """Words of the transcript that are said again at once, beyond those of the text, over words of the text."""
    text, transcript = (normalise.words(t, sample.tag) for t in text_and_transcript(sample))
    return Ratio(max(0, repeats(transcript) - repeats(text)), len(text))
