"""Metrics: torch-free specs of what can be measured. The functions that measure live in `qrecipe.evaluate`.

Other packages add metrics through the entry-point group `qrecipe.metrics`; each entry point loads to a `MetricSpec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from qrecipe.recipe.evaluator import Need

ENTRY_POINTS = "qrecipe.metrics"
LIKELIHOOD = ("talker_nll", "predictor_nll")
"""Metrics of how likely recordings are."""


@dataclass(frozen=True)
class MetricSpec:
    """A metric by name: what it needs, which direction is better, and where the function that measures it is."""

    name: str
    description: str
    unit: str
    source: Literal["teacher_forced", "generated"]
    """`teacher_forced` reads recordings only; `generated` speaks every prompt with every seed."""
    better: Literal["lower", "higher", "one", "match"]
    """`one`: the nearer to 1; `match`: the nearer to the recordings' own."""
    function: str
    """`module:function`, called with one item: `TeacherForced`, or for `generated` one spoken `Sample`. Returns a float, or a `Ratio` whose denominators weigh the prompts."""
    binary: bool = False
    """Values are 0 or 1: intervals are Wilson's, with the prompts as the sample."""
    counts: bool = False
    """Values are `Ratio`s of counted events to what they are counted among, such as characters: where nothing was counted, the interval is that of so many trials."""
    centre: Literal["mean", "median"] = "mean"
    """Statistic over the prompts."""
    on_recordings: bool = False
    """Recordings have a value of their own, which is shown beside the model's."""
    needs: Need | None = None
    """The evaluator behind it."""
    spoilt: tuple[str, ...] = ()
    """Corruptions of a recording (`qrecipe.evaluate.corruptions`) that the metric must notice: a gate on it is proven on them before a run."""
    packages: tuple[str, ...] = ()
    """Modules that must be importable, beside those of the evaluator."""
    extra: str | None = None
    """The extra of qrecipe that installs them."""


def _error_rate(name: str, unit: str) -> MetricSpec:
    return MetricSpec(
        name,
        f"{unit} error rate: edits over {unit}s of the normalised text, pooled over prompts; of one sample at most as many as its text has {unit}s",
        "share",
        "generated",
        "lower",
        f"qrecipe.evaluate.metrics:{name}",
        counts=True,
        spoilt=("transcripts", "cut", "doubled", "reversed"),
        needs="asr",
        packages=("jiwer",),
        extra="asr",
        on_recordings=True,
    )


BUILTIN: dict[str, MetricSpec] = {
    m.name: m
    for m in (
        MetricSpec(
            "talker_nll",
            "negative log-likelihood of codebook 0, end of speech included, mean per label",
            "nat",
            "teacher_forced",
            "lower",
            "qrecipe.evaluate.metrics:talker_nll",
        ),
        MetricSpec(
            "predictor_nll",
            "negative log-likelihood of the other codebooks, mean per frame and codebook",
            "nat",
            "teacher_forced",
            "lower",
            "qrecipe.evaluate.metrics:predictor_nll",
        ),
        MetricSpec(
            "text_gain",
            "what reading is worth: `talker_nll` under another recording's text less that under its own, the other text being the nearest in length",
            "nat",
            "teacher_forced",
            "higher",
            "qrecipe.evaluate.metrics:text_gain",
        ),
        _error_rate("cer", "character"),
        _error_rate("wer", "word"),
        MetricSpec(
            "repeated_words",
            "words of the transcript that are repeated immediately, beyond those of the text, over words of the text",
            "share",
            "generated",
            "lower",
            "qrecipe.evaluate.metrics:repeated_words",
            counts=True,
            spoilt=("doubled",),
            needs="asr",
            on_recordings=True,
        ),
        MetricSpec(
            "runaway_rate",
            "share of samples that reach the frame cap instead of ending",
            "share",
            "generated",
            "lower",
            "qrecipe.evaluate.metrics:runaway",
            binary=True,
            spoilt=("endless",),
        ),
        MetricSpec(
            "early_stop_rate",
            "share of samples that last less than half as long as the recording",
            "share",
            "generated",
            "lower",
            "qrecipe.evaluate.metrics:early_stop",
            binary=True,
            spoilt=("stub",),
        ),
        MetricSpec(
            "duration_ratio",
            "frames spoken over frames of the recording, median over prompts",
            "ratio",
            "generated",
            "one",
            "qrecipe.evaluate.metrics:duration_ratio",
            centre="median",
            spoilt=("doubled", "cut"),
        ),
        MetricSpec(
            "repeated_frames",
            "longest run of frames with the same code 0",
            "frame",
            "generated",
            "lower",
            "qrecipe.evaluate.metrics:repeated_frames",
            spoilt=("stuck",),
            on_recordings=True,
        ),
        MetricSpec(
            "silence_share",
            "share of 20 ms frames that lie 40 dB or more below the loudest",
            "share",
            "generated",
            "lower",
            "qrecipe.evaluate.sound:silence_share",
            spoilt=("gaps",),
            on_recordings=True,
        ),
        MetricSpec(
            "speaking_rate",
            "characters of the normalised text a second, from the first to the last speech",
            "1/s",
            "generated",
            "match",
            "qrecipe.evaluate.sound:speaking_rate",
            spoilt=("doubled", "cut"),
            on_recordings=True,
        ),
        MetricSpec(
            "pause_rate",
            "pauses of 0.2 s or more a second of speech",
            "1/s",
            "generated",
            "lower",
            "qrecipe.evaluate.sound:pause_rate",
            spoilt=("gaps",),
            on_recordings=True,
        ),
        MetricSpec(
            "speaker_similarity",
            "cosine between speaker vectors of the sample and of its reference, by `evaluators.speaker`",
            "cosine",
            "generated",
            "higher",
            "qrecipe.evaluate.metrics:speaker_similarity",
            needs="speaker",
            spoilt=("voice",),
            on_recordings=True,
        ),
        MetricSpec(
            "mos",
            "mean opinion score from 1 to 5 as `evaluators.mos` predicts it",
            "MOS",
            "generated",
            "higher",
            "qrecipe.evaluate.metrics:mos",
            needs="mos",
            spoilt=("noise",),
            on_recordings=True,
        ),
        MetricSpec(
            "f0_range",
            "semitones between the 5th and the 95th percentile of pitch",
            "semitone",
            "generated",
            "match",
            "qrecipe.evaluate.sound:f0_range",
            spoilt=("flat",),
            on_recordings=True,
        ),
        MetricSpec(
            "f0_correlation",
            "correlation of the pitch contour with that of the recording, after alignment",
            "correlation",
            "generated",
            "higher",
            "qrecipe.evaluate.sound:f0_correlation",
            spoilt=("flat", "recordings"),
        ),
        MetricSpec(
            "energy_correlation",
            "correlation of loudness in dB with that of the recording, after alignment",
            "correlation",
            "generated",
            "higher",
            "qrecipe.evaluate.sound:energy_correlation",
            spoilt=("reversed", "recordings"),
        ),
    )
}


@lru_cache(maxsize=256)
def find(name: str) -> MetricSpec | None:
    """The metric of this name, built in or from another package; None if there is none."""
    if name in BUILTIN:
        return BUILTIN[name]
    from importlib.metadata import entry_points  # reads every installed package's metadata, so only when needed

    for point in entry_points(group=ENTRY_POINTS, name=name):
        spec = point.load()
        if isinstance(spec, MetricSpec):
            return spec
    return None


@lru_cache(maxsize=1)
def names() -> list[str]:
    """Names of every metric that is installed."""
    from importlib.metadata import entry_points

    return sorted({*BUILTIN, *(p.name for p in entry_points(group=ENTRY_POINTS))})
