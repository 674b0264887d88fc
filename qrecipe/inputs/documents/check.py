"""Every document by name, and `check`, which validates with jsonschema whatever is read."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from qrecipe.errors import Place, Problem, Problems
from qrecipe.inputs.documents.ballots import Ballot
from qrecipe.inputs.documents.bundle import BundleManifest, PackManifest
from qrecipe.inputs.documents.lock import Lock
from qrecipe.inputs.documents.results import Comparison, EvaluationResult
from qrecipe.inputs.documents.verdicts import Verdicts
from qrecipe.inputs.rows import SpeechLine, TextLine
from qrecipe.recipe.model import Settings

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
