"""The documents that are read back: manifest rows, the lock, the bundle manifest. Each is a model, its JSON Schema is
generated from it, and `check` validates with jsonschema whatever is read."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from qrecipe.errors import Place, Problem, Problems
from qrecipe.inputs.rows import SpeechLine, TextLine
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.language import Language
from qrecipe.recipe.model import Identifier, Settings
from qrecipe.recipe.recipe import NAME, VERSION, Evaluation

LISTENER = r"^[a-z0-9][a-z0-9_-]{0,39}$"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LockBase(Settings):
    """The base that a run used."""

    model: str
    """As the recipe names it."""
    revision: str | None
    """Commit of a hub id."""
    identity: str
    """Content of the base: equal means the same weights and files."""
    dtype: str
    """Number format of the weights."""


class LockStage(Settings):
    """A stage's exact trainable set."""

    id: str
    """Stage."""
    tensors: dict[str, Annotated[int, Field(ge=1)]]
    """Trained elements of every tensor that trains."""
    rows: dict[str, Sha256]
    """Hash of the row numbers of every tensor of which only rows train."""


class Lock(Settings):
    """Everything that a run resolved; reviewed beside the recipe. Holds nothing of one machine."""

    lock: Annotated[int, Field(ge=1, le=1)]
    """Version of this format."""
    recipe: str
    """Name of the recipe."""
    plan: Sha256
    """Hash of the plan."""
    base: LockBase
    """The base."""
    languages: dict[str, int]
    """Row of every language that was added."""
    datasets: dict[str, Sha256]
    """Content of every dataset, its recordings included."""
    evaluators: dict[str, str] = {}
    """Content of the models that listen, where they have one of their own."""
    taught: dict[str, Sha256] = {}
    """Synthetic datasets by `STAGE.DATASET`, spoken or respelled: sentences as it reads them, voices and settings."""
    stages: list[LockStage]
    """Exact trainable sets."""
    numerics: int
    """Version of the engine's numerics."""
    versions: dict[str, str]
    """Packages whose versions change numbers."""


class BundleLanguage(Settings):
    """A language of a bundle."""

    bcp47: str | None = None
    """BCP 47 tag: what `--language` understands beside the name, and the language that a recogniser is told."""
    token_id: int
    """Row of the codec embedding."""
    replace: dict[str, str] = {}
    """Spellings that were replaced in every text before the model learned it, and have to be in every text that it shall say."""


class BundleStage(Settings):
    """A stage as it went."""

    id: str
    """Stage."""
    status: str
    """`kept`, `reverted` or `skipped`."""
    fingerprint: Sha256 | None
    """Settings, data, base and what came before; null if it was skipped."""
    parameters: int | None
    """Trained elements."""


class BundlePack(Settings):
    """A language pack that a bundle was put together from."""

    name: Annotated[str, Field(pattern=NAME)]
    """Name of the pack."""
    version: str
    """Version of the bundle that it was taken from."""
    content: Sha256
    """Hash of the pack's manifest, which holds the hash of everything else in it."""


class BundleManifest(Settings):
    """bundle.json: what a bundle is and the hash of every file in it. Written last."""

    bundle: Annotated[int, Field(ge=1, le=1)]
    """Version of this format."""
    name: str
    """Name of the recipe."""
    version: str
    """Version that the recipe states."""
    plan: Sha256
    """Hash of the plan that was carried out."""
    base: LockBase
    """The base."""
    languages: dict[str, BundleLanguage]
    """Languages that were added."""
    base_tags: dict[str, str] = {}
    """BCP 47 tags of languages that the base has of an earlier bundle; left out where there are none."""
    stages: list[BundleStage]
    """Stages in order."""
    packs: list[BundlePack] = []
    """Packs in the order in which they were put onto the base, for a bundle that was made of packs."""
    accepted: bool
    """Whether every gate of `accept` passed."""
    qrecipe: str
    """Version of the engine."""
    files: dict[str, Sha256]
    """SHA-256 of every other file."""


class PackJudging(Settings):
    """Everything that a language is judged by again."""

    accept: list[Gate]
    """Gates of the recipe's `accept`."""
    datasets: dict[Identifier, str]
    """Languages of the datasets that they read, by name; their rows are in `data/NAME.jsonl` of the pack."""
    settings: dict[str, Language]
    """Languages of the pack as the recipe states them: rows at their init are what `baseline: base` means."""
    evaluation: Evaluation
    """How the gates are measured."""
    evaluators: Evaluators
    """Models that listen."""
    rewarded: list[str] = []
    """Metrics that a stage was rewarded by."""


class PackManifest(Settings):
    """Manifest of a language pack: what a language adds to one base, and the hash of everything in the file."""

    pack: Annotated[int, Field(ge=1, le=1)]
    """Version of this format."""
    name: Annotated[str, Field(pattern=NAME)]
    """Name of the bundle that it was taken from."""
    version: Annotated[str, Field(pattern=VERSION)]
    """Its version."""
    bundle: Sha256
    """Hash of its bundle.json."""
    base: LockBase
    """The one base that the pack fits."""
    languages: dict[str, BundleLanguage]
    """Languages with the rows that they had there."""
    accepted: bool
    """Whether every gate of `accept` passed there."""
    judging: PackJudging
    """Gates of its recipe, and how they are measured."""
    qrecipe: str
    """Version of the engine."""
    tensors: dict[str, Sha256]
    """Number format, shape and content of every tensor and file of the pack, as one hash each."""


Judgement = Literal["pass", "fail", "undecided", "skipped"]


class Verdict(Settings):
    """A gate's decision, with the numbers that decided it. Without a value: why there is none."""

    gate: str
    """The gate in one line."""
    metric: str
    """Name of the metric."""
    data: str
    """On which dataset."""
    outcome: Judgement
    """`pass` if the whole interval is on the good side of the threshold, `fail` if it is on the bad side, `undecided` between, which does not pass; `skipped`: the gate is optional and cannot be judged on this machine."""
    severity: Literal["error", "warn"]
    """`warn` never counts."""
    value: float | None = None
    """The deciding number: the mean over prompts (the median, the pooled rate); for a relative gate the mean difference."""
    low: float | None = None
    """Lower end of the interval of `value`; null where there are too few prompts for one."""
    high: float | None = None
    """Upper end."""
    threshold: float
    """The gate's number."""
    kind: str
    """The gate's threshold, such as `max`."""
    confidence: float
    """Level of the interval."""
    prompts: int
    """Prompts that were judged."""
    prompts_needed: int | None = None
    """For undecided: prompts at which an interval of this spread would decide."""
    measured: float | None = None
    """The metric itself."""
    spread: tuple[float, float] | None = None
    """Between which 95 % of the prompts lie."""
    baseline: float | None = None
    """The metric at the baseline."""
    spoken_as: str | None = None
    """The language of its own that the base spoke for the baseline, `auto` for none; null unless the gate says `speak_as: best`."""
    tried: dict[str, float] = {}
    """The metric of the base under each of its languages on the sentences that chose `spoken_as`, which are not judged."""
    untold: float | None = None
    """The metric of the base that is told no language, on the sentences that are judged."""
    recordings: float | None = None
    """The metric over the recordings themselves: what the evaluator finds in real speech."""
    slice: str | None = None
    """For a gate on the worst slice: which that is."""
    slices: dict[str, dict[str, float]] = {}
    """The metric by layout, prompt, speaker and length, where there are several."""
    evaluator: dict[str, Any] | None = None
    """The evaluator with everything that its numbers depend on."""
    rewarded: bool = False
    """Whether a stage was rewarded by the metric's own ear: the value rises whether speech gets better or not."""
    reason: str | None = None
    """Why there is no value."""

    @property
    def bound(self) -> float:
        """The threshold on the scale of `value`: a decrease is a negative difference."""
        return -self.threshold if self.kind in ("min_decrease", "max_decrease") else self.threshold

    def against_best(self) -> str | None:
        """Scores of the base, told nothing and told its best language, and of the model, in a line; None for other gates.

        >>> Verdict(gate="", metric="cer", data="dev", outcome="pass", severity="error", threshold=0, kind="min_decrease",
        ...     confidence=0.95, prompts=27, measured=0.13, baseline=0.165, spoken_as="spanish", untold=0.41).against_best()
        'cer on dev: the base told nothing 0.41, told spanish 0.165, this model 0.13 (27 sentences, which did not choose the language)'
        """
        if self.spoken_as is None or self.measured is None or self.baseline is None:
            return None
        untold = [f"told nothing {self.untold:.3g}"] if self.untold is not None else []
        with_language = [f"told {self.spoken_as} {self.baseline:.3g}"] if self.spoken_as != "auto" else []
        values = ", ".join([f"the base {'; '.join(untold)}" if untold else "the base", *with_language, f"this model {self.measured:.3g}"])
        return f"{self.metric} on {self.data}: {values} ({self.prompts} sentences, which did not choose the language)"

    @property
    def counts_as_pass(self) -> bool:
        """Whether the gate lets the run go on."""
        return self.outcome in ("pass", "skipped") or self.severity == "warn"

    def as_json(self) -> dict[str, Any]:
        """For verdicts.json and the command line."""
        rounded: dict[str, Any] = _rounded(self.model_dump(mode="json"))
        return rounded


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 6) if isinstance(value, float) else value


class Verdicts(Settings):
    """verdicts.json of a bundle: what every gate decided, by the stage after which it was judged; `accept` last."""

    verdicts: dict[str, list[Verdict]]
    """By stage."""
    survives_rounding: dict[str, float]
    """Share of what a stage trained that survives rounding to the base's number format."""


def interval_text(low: float | None, high: float | None, sign: str = "") -> str:
    """An interval as people read it. `sign` is `+` for one of a difference.

    >>> interval_text(0.25, 1.5)
    '0.25 to 1.5'
    >>> interval_text(None, None)
    'none'
    """
    return "none" if low is None or high is None else f"{low:{sign}.4g} to {high:{sign}.4g}"


class Answer(Settings):
    """A listener's answer to one pair of sounds. Which of them is whose stands nowhere in the ballot."""

    text: str
    """The sentence."""
    first: Sha256
    """Content of the sound that was called A: SHA-256 of its samples as little-endian float32."""
    second: Sha256
    """Content of the sound that was called B."""
    answer: Annotated[int, Field(ge=-2, le=2)]
    """From -2, A is much better, over 0, neither, to 2, B is much better; of the scale `ab` -2, 0 or 2."""


class Ballot(Settings):
    """Answers of one listener. Committed beside the recipe."""

    ballot: Annotated[int, Field(ge=1, le=1)]
    """Version of this format."""
    listener: Annotated[str, Field(pattern=LISTENER)]
    """A name that tells listeners apart; it need not be a person's own."""
    scale: Literal["ab", "five"]
    """`ab`: A, B or neither; `five`: much better, better, neither."""
    answers: Annotated[list[Answer], Field(min_length=1, max_length=10_000)]
    """In the order in which the pairs were heard."""
    sha256: Sha256
    """Hash of the rest as canonical JSON: a ballot that was edited is refused."""


class Statistic(Settings):
    """A metric of one model over one dataset, or the difference of two."""

    value: float
    """Mean over prompts (median, pooled rate)."""
    low: float | None
    """Lower end of its interval; null where there are too few prompts for one."""
    high: float | None
    """Upper end."""
    confidence: float
    """Level of the interval."""
    prompts: int
    """Prompts that have a value."""
    unit: str
    """Unit of the metric."""
    better: Literal["lower", "higher", "one", "match"]
    """Which direction is better."""
    spread: tuple[float, float]
    """Between which 95 % of the prompts lie."""
    recordings: float | None
    """The metric over the recordings themselves."""
    slices: dict[str, dict[str, float]]
    """The metric by layout, prompt, speaker and length, where there are several."""
    evaluator: dict[str, Any] | None
    """The evaluator with everything that its numbers depend on."""


class Heard(Settings):
    """One utterance that was judged."""

    line: int
    """Line of the manifest."""
    layout: str
    """How text met frames."""
    prompt: str
    """How the voice was given."""
    seed: int | None
    """Seed; null for a recording."""
    audio: str | None
    """Its file, relative to the evaluation's; null where nothing was kept."""
    transcript: str | None
    """The recogniser's transcript; null without one."""


class EvaluationResult(Settings):
    """Result of `qrecipe evaluate`."""

    evaluation: Annotated[int, Field(ge=1, le=1)]
    """Version of this format."""
    model: str
    """The MODEL argument."""
    identity: str | None
    """Content of the model."""
    data: str
    """The manifest."""
    language: str
    """Language whose token was given."""
    settings: dict[str, Any]
    """How it was measured."""
    items: list[dict[str, Any]]
    """One a row, in the manifest's order: text, frames, line, how the voice was given, and the mean of every metric."""
    summary: dict[str, float]
    """Items, frames, and every metric's value."""
    metrics: dict[str, Statistic]
    """Every metric with its interval."""
    samples: list[Heard]
    """Every utterance."""
    gates: list[dict[str, Any]] = []
    """Result of `--probe-gates`."""


class Comparison(Settings):
    """Result of `qrecipe compare`: differences of B to A, paired by prompt, layout, way of giving the voice and seed."""

    comparison: Annotated[int, Field(ge=1, le=1)]
    """Version of this format."""
    a: EvaluationResult
    """The first model."""
    b: EvaluationResult
    """The second."""
    differences: dict[str, Statistic]
    """B less A."""
    verdicts: dict[str, Literal["better", "worse", "undecided"]]
    """Verdict of the interval on B."""


DOCUMENTS: dict[str, type[Settings]] = {
    "text-row": TextLine,
    "speech-row": SpeechLine,
    "lock": Lock,
    "bundle": BundleManifest,
    "pack": PackManifest,
    "ballot": Ballot,
    "verdicts": Verdicts,
    "evaluation": EvaluationResult,
    "comparison": Comparison,
}

WHOLE = {"lock", "bundle", "pack", "ballot"}
"""Documents that are read into their model."""


@lru_cache
def validator(name: str) -> Any:
    """The jsonschema validator of a document."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(DOCUMENTS[name].model_json_schema())


def check(name: str, value: object, place: Place, code: str = "QR062") -> Problems:
    """Problems of a document that was read, by its JSON Schema."""
    problems = Problems()
    for error in sorted(validator(name).iter_errors(value), key=lambda e: [str(k) for k in e.absolute_path]):
        path = ".".join(str(k) for k in error.absolute_path)
        message = _short(error)
        problems.append(Problem(code, f"{path}: {message}" if path else message, place))
    if not problems and name in WHOLE:
        try:  # a JSON Schema takes 1e308 for an integer
            DOCUMENTS[name].model_validate(value)
        except ValidationError as e:
            problems += [Problem(code, f"{'.'.join(map(str, x['loc']))}: {x['msg']}", place) for x in e.errors(include_url=False)]
    return problems


def _short(error: Any) -> str:
    """jsonschema quotes the whole value; people need what is wrong with it."""
    if error.validator == "required":
        missing = [k for k in error.validator_value if k not in error.instance]
        return "missing " + ", ".join(f"`{k}`" for k in missing)
    if error.validator == "additionalProperties":
        extra = sorted(set(error.instance) - set(error.schema.get("properties", {})))
        return "unknown field " + ", ".join(f"`{k}`" for k in extra)
    message = str(error.message)
    return message if len(message) < 160 else message[:157] + "..."
