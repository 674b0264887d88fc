"""`evaluate`: a model on recordings, item by item."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from qrecipe.data.codes import Encoder
from qrecipe.data.speech import SpeechData, prepare
from qrecipe.errors import DataError, Place, Problem, UserError, suggest
from qrecipe.evaluate.listeners import Listeners
from qrecipe.evaluate.measure import Value, measure
from qrecipe.files import FileHashes
from qrecipe.plan.manifest import read_manifest
from qrecipe.recipe import metrics as registry
from qrecipe.recipe.dataset import SpeechDataset
from qrecipe.recipe.evaluator import Asr, Evaluators
from qrecipe.recipe.recipe import Evaluation
from qrecipe.run.events import Events, Listener
from qrecipe.run.models import language_of, open_argument

SHORT = {"nll": ("talker_nll", "predictor_nll")}
"""Names that stand for several metrics."""


@dataclass(frozen=True)
class Request:
    """What is to be measured."""

    model: str
    data: Path
    metrics: list[str]
    layout: str
    language: str
    reference: Path | None
    reference_text: str | None
    seeds: list[int]
    asr: str | None = None
    """The recogniser's model, as in `evaluators.asr.model`."""
    bcp47: str | None = None
    """Tag of the language, where its name does not tell."""


def evaluate(request: Request, listener: Listener | None = None) -> dict[str, Any]:
    """Measures a model. Returns `items` (one a row, in the manifest's order) and their means as `summary`.

    The voice is `reference` if it is given, else each row's own, else another clip of the manifest; where its text is
    known the prompt is in-context, and a row without any has no speaker. Raises `UserError`.
    """
    names = _metric_names(request.metrics)
    if request.reference_text is not None and request.reference is None:
        raise UserError(Problem("QR070", "--reference-text says what --reference speaks, and there is none", Place("--reference-text")))
    if request.reference is not None and not request.reference.is_file():
        raise UserError(Problem("QR043", f"there is no file {request.reference}", Place("--reference")))
    hashes = FileHashes()
    events = Events(None, listener)
    opened, info = open_argument(request.model, hashes)
    language = language_of(opened, request.language, Place("--language"))
    manifest = read_manifest(request.data, "speech", opened.tokenizer)
    if manifest.problems:
        raise DataError(manifest.problems)
    if request.reference is not None:
        given = [replace(r, reference=request.reference, reference_text=request.reference_text) for r in manifest.rows]
        manifest = replace(manifest, rows=given)
    dataset = SpeechDataset(kind="speech", language=language, path=str(request.data))
    data = prepare(
        request.data.stem,
        dataset,
        manifest,
        Encoder(opened, info, hashes),
        opened.tokenizer,
        reference=None,
        need_reference=False,
        progress=lambda what, done, of: events.tell("encoding", dataset=what, done=done, of=of),
    )
    hashes.save()
    if any(_spec(n).source == "generated" for n in names) and not any(r.reference for r in data.rows):
        raise UserError(
            Problem("QR045", "speaking needs a voice, and no row has a reference", Place(str(request.data)), "give --reference")
        )
    layout = cast(Literal["streaming", "non_streaming"], request.layout)
    settings = Evaluation(seeds=request.seeds, layouts=[layout])
    listeners = Listeners(
        opened, _evaluators(request, names), Path.cwd(), {language: request.bcp47} if request.bcp47 else {}, hashes=hashes
    )
    for name in names:
        missing = listeners.missing(_spec(name))
        if missing is not None:
            raise UserError(missing)
    values = measure(
        opened, data, names, settings, listeners, progress=lambda what, done, of: events.tell("speaking", what=what, done=done, of=of)
    )
    return _result(request, data, names, values)


def _metric_names(asked: list[str]) -> list[str]:
    names = [n for a in asked for n in SHORT.get(a, (a,))]
    for name in names:
        if registry.find(name) is None:
            raise UserError(
                Problem("QR020", f"no metric is called `{name}`", Place("--metrics"), suggest(name, [*registry.names(), *SHORT]))
            )
    return list(dict.fromkeys(names))


def _spec(name: str) -> registry.MetricSpec:
    spec = registry.find(name)
    assert spec is not None
    return spec


def _evaluators(request: Request, names: list[str]) -> Evaluators:
    if request.asr is not None:
        return Evaluators(asr=Asr(model=request.asr))
    needy = [n for n in names if _spec(n).needs == "asr"]
    if needy:
        raise UserError(Problem("QR070", f"`{needy[0]}` needs a recogniser", Place("--asr"), "such as --asr wheel:whisper-base"))
    return Evaluators()


def _result(request: Request, data: SpeechData, names: list[str], values: dict[str, list[Value]]) -> dict[str, Any]:
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
    summary: dict[str, Any] = {"items": len(items), "frames": sum(r.frames for r in data.rows)}
    for name in names:
        known = [i[name] for i in items if i[name] is not None]
        summary[name] = sum(known) / len(known)
    return {"model": request.model, "layout": request.layout, "language": request.language, "items": items, "summary": summary}
