"""What can be measured: torch-free specs of metrics. The functions that measure live in `qrecipe.evaluate`.

Other packages add metrics through the entry-point group `qrecipe.metrics`; each entry point loads to a `MetricSpec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ENTRY_POINTS = "qrecipe.metrics"


@dataclass(frozen=True)
class MetricSpec:
    """A metric by name: what it needs, which direction is better, and where the function that measures it is."""

    name: str
    description: str
    unit: str
    source: Literal["teacher_forced", "generated"]
    """`teacher_forced` reads recordings only; `generated` speaks every prompt with every seed."""
    better: Literal["lower", "higher", "one"]
    function: str
    """`module:function`, called with one item: `TeacherForced`, or for `generated` one spoken `Sample`. Returns a float, or a `Ratio` whose denominators weigh the prompts."""
    binary: bool = False
    """Values are 0 or 1: intervals are Wilson's, with the prompts as the sample."""
    on_recordings: bool = False
    """Recordings have a value of their own, which is shown beside the model's."""
    needs: Literal["asr"] | None = None
    """The evaluator that the recipe must name."""
    packages: tuple[str, ...] = ()
    """Modules that must be importable, beside those of the evaluator."""
    extra: str | None = None
    """The extra of qrecipe that installs them."""


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
            "runaway_rate",
            "share of samples that reach the frame cap instead of ending",
            "share",
            "generated",
            "lower",
            "qrecipe.evaluate.metrics:runaway",
            binary=True,
        ),
        MetricSpec(
            "duration_ratio",
            "frames spoken over frames of the recording",
            "ratio",
            "generated",
            "one",
            "qrecipe.evaluate.metrics:duration_ratio",
        ),
        MetricSpec(
            "repeated_frames",
            "longest run of frames with the same code 0",
            "frame",
            "generated",
            "lower",
            "qrecipe.evaluate.metrics:repeated_frames",
            on_recordings=True,
        ),
        MetricSpec(
            "speaker_similarity",
            "cosine between x-vectors of the sample and of the reference, by the base's own speaker encoder",
            "cosine",
            "generated",
            "higher",
            "qrecipe.evaluate.metrics:speaker_similarity",
            on_recordings=True,
        ),
        MetricSpec(
            "cer",
            "character error rate: edits over characters of the normalised text, pooled over prompts",
            "share",
            "generated",
            "lower",
            "qrecipe.evaluate.metrics:cer",
            on_recordings=True,
            needs="asr",
            packages=("jiwer",),
            extra="asr",
        ),
        MetricSpec(
            "wer",
            "word error rate: edits over words of the normalised text, pooled over prompts",
            "share",
            "generated",
            "lower",
            "qrecipe.evaluate.metrics:wer",
            on_recordings=True,
            needs="asr",
            packages=("jiwer",),
            extra="asr",
        ),
    )
}


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


def names() -> list[str]:
    """Names of every metric that is installed."""
    from importlib.metadata import entry_points

    return sorted({*BUILTIN, *(p.name for p in entry_points(group=ENTRY_POINTS))})
