"""Metrics: torch-free specs of what can be measured. The functions that measure live in `qrecipe.evaluate`.

Other packages add metrics through the entry-point group `qrecipe.metrics`; each entry point loads to a `MetricSpec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from qrecipe.recipe.evaluator import Need

ENTRY_POINTS = "qrecipe.metrics"
LIKELIHOOD = ("talker_nll", "predictor_nll")
"""Metrics of how likely recordings are."""
PREFERENCE = "preference"
"""The metric that people measure."""

_Better = Literal["lower", "higher", "one", "match"]


@dataclass(frozen=True)
class MetricSpec:
    """A metric by name: what it needs, which direction is better, and where the function that measures it is."""

    name: str
    description: str
    unit: str
    source: Literal["teacher_forced", "generated", "ballots"]
    """`teacher_forced` reads recordings only; `generated` speaks every prompt with every seed; `ballots` counts what people chose."""
    better: _Better
    """`one`: the nearer to 1; `match`: the nearer to the recordings' own."""
    function: str
    """`module:function`, called with one item: `TeacherForced`, for `generated` one spoken `Sample`, for `ballots` one vote. Returns a float, or a `Ratio` whose denominators weigh the prompts."""
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
    bounds: tuple[float | None, float | None] = (None, None)
    """The least and the largest value that there can be, None where there is none: an interval stays within."""
    reward: str | None = None
    """How a value becomes a reward, by its name in `qrecipe.recipe.rewards.TRANSFORMS`; None: nothing can be rewarded for it."""
    compares: bool = False
    """Whether a value compares with the row's own recording, which text does not have."""

    @property
    def reads_recordings(self) -> bool:
        """Whether sentences that nobody has recorded have no value of it."""
        return self.source == "teacher_forced" or self.compares or self.better == "match"


_NOT_NEGATIVE = (0.0, None)
_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "share": (0.0, 1.0),
    "MOS": (1.0, 5.0),
    "cosine": (-1.0, 1.0),
    "correlation": (-1.0, 1.0),
    **dict.fromkeys(("ratio", "frame", "1/s", "semitone"), _NOT_NEGATIVE),
}
"""By the unit."""


def _likelihood(name: str, better: _Better, description: str, **more: Any) -> MetricSpec:
    return MetricSpec(name, description, "nat", "teacher_forced", better, f"qrecipe.evaluate.metrics:{name}", **more)


def _spoken(name: str, unit: str, better: _Better, description: str, function: str | None = None, **more: Any) -> MetricSpec:
    """A metric of generated speech; `function` where it is not `metrics:NAME` of `qrecipe.evaluate`."""
    where = f"qrecipe.evaluate.{function or f'metrics:{name}'}"
    return MetricSpec(name, description, unit, "generated", better, where, bounds=_BOUNDS[unit], **more)


def _sound(name: str, unit: str, better: _Better, description: str, *corruptions: str, **more: Any) -> MetricSpec:
    """A metric of the sound alone."""
    more = {"on_recordings": True, **more}
    return _spoken(name, unit, better, description, f"sound:{name}", spoilt=corruptions, **more)


def _error_rate(name: str, unit: str) -> MetricSpec:
    counted = f"edits over {unit}s of the normalised text, pooled over prompts"
    description = f"{unit} error rate: {counted}; of one sample at most as many as its text has {unit}s"
    corruptions = ("transcripts", "cut", "doubled", "reversed")
    needs: dict[str, Any] = {"needs": "asr", "packages": ("jiwer",), "extra": "asr", "reward": "one_less"}
    return _spoken(name, "share", "lower", description, counts=True, spoilt=corruptions, on_recordings=True, **needs)


_GAIN = (
    "what reading is worth: `talker_nll` under another recording's text less that under its own, the other text being the nearest in length"
)
_REPEATED = "words of the transcript that are repeated immediately, beyond those of the text, over words of the text"
_SIMILARITY = "cosine between speaker vectors of the sample and of its reference, by `evaluators.speaker`"
_MOS = "mean opinion score from 1 to 5 as `evaluators.mos` predicts it"
_RUNAWAY = "share of samples that reach the frame cap instead of ending"
_EARLY = "share of samples that last less than half as long as the recording"
_DURATION = "frames spoken over frames of the recording, median over prompts"
_RATE = "characters of the normalised text a second, from the first to the last speech"
_CONTOUR = "correlation of the pitch contour with that of the recording, after alignment"
_LOUDNESS = "correlation of loudness in dB with that of the recording, after alignment"
_PREFERRED = "share of listeners' votes for the model over the base, heard blindly; a vote for neither is half a vote"
_SPECS = (
    _likelihood(
        "talker_nll", "lower", "negative log-likelihood of codebook 0, end of speech included, mean per label", bounds=_NOT_NEGATIVE
    ),
    _likelihood(
        "predictor_nll", "lower", "negative log-likelihood of the other codebooks, mean per frame and codebook", bounds=_NOT_NEGATIVE
    ),
    _likelihood("text_gain", "higher", _GAIN),
    _error_rate("cer", "character"),
    _error_rate("wer", "word"),
    _spoken(
        "repeated_words", "share", "lower", _REPEATED, counts=True, spoilt=("doubled",), needs="asr", on_recordings=True, reward="one_less"
    ),
    _spoken("runaway_rate", "share", "lower", _RUNAWAY, "metrics:runaway", binary=True, spoilt=("endless",), reward="one_less"),
    _spoken(
        "early_stop_rate", "share", "lower", _EARLY, "metrics:early_stop", binary=True, spoilt=("stub",), reward="one_less", compares=True
    ),
    _spoken("duration_ratio", "ratio", "one", _DURATION, centre="median", spoilt=("doubled", "cut"), reward="ratio", compares=True),
    _spoken(
        "repeated_frames",
        "frame",
        "lower",
        "longest run of frames with the same code 0",
        spoilt=("stuck",),
        on_recordings=True,
        reward="few",
    ),
    _sound("silence_share", "share", "lower", "share of 20 ms frames that lie 40 dB or more below the loudest", "gaps", reward="one_less"),
    _sound("speaking_rate", "1/s", "match", _RATE, "doubled", "cut", reward="usual"),
    _sound("pause_rate", "1/s", "lower", "pauses of 0.2 s or more a second of speech", "gaps", reward="few"),
    _spoken("speaker_similarity", "cosine", "higher", _SIMILARITY, needs="speaker", spoilt=("voice",), on_recordings=True, reward="cosine"),
    _spoken("mos", "MOS", "higher", _MOS, needs="mos", spoilt=("noise",), on_recordings=True, reward="opinion"),
    _sound("f0_range", "semitone", "match", "semitones between the 5th and the 95th percentile of pitch", "flat", reward="usual"),
    _sound("f0_correlation", "correlation", "higher", _CONTOUR, "flat", "recordings", on_recordings=False, reward="cosine", compares=True),
    _sound(
        "energy_correlation",
        "correlation",
        "higher",
        _LOUDNESS,
        "reversed",
        "recordings",
        on_recordings=False,
        reward="cosine",
        compares=True,
    ),
    MetricSpec(PREFERENCE, _PREFERRED, "share", "ballots", "higher", "qrecipe.evaluate.preference:share", bounds=_BOUNDS["share"]),
)
BUILTIN: dict[str, MetricSpec] = {m.name: m for m in _SPECS}


def spec_of(name: str) -> MetricSpec:
    """The metric of a name that was checked. Raises `KeyError`."""
    spec = find(name)
    if spec is None:
        raise KeyError(name)
    return spec


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
