"""The documents that are read back: manifest rows, the lock, the bundle manifest. Each is a model, its JSON Schema is
generated from it, and `check` validates with jsonschema whatever is read."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field

from qrecipe.errors import Place, Problem
from qrecipe.recipe.model import Settings

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TextRow(Settings):
    """One line of a text manifest."""

    text: Annotated[str, Field(min_length=1, max_length=10_000)]
    """The sentence."""


class SpeechRow(Settings):
    """One line of a speech manifest. `audio_codes` may stand in for `audio`."""

    audio: Annotated[str, Field(min_length=1)] | None = None
    """The recording, relative to the manifest; any format, rate and channel count that libsndfile reads."""
    text: Annotated[str, Field(min_length=1, max_length=10_000)]
    """What is said in it."""
    reference: Annotated[str, Field(min_length=1)] | None = None
    """A recording of the same voice, relative to the manifest."""
    reference_text: Annotated[str, Field(min_length=1)] | None = None
    """What is said in the reference."""
    speaker: Annotated[str, Field(min_length=1)] | None = None
    """Who speaks; rows without it are one speaker."""
    ref_audio: Annotated[str, Field(min_length=1)] | None = None
    """Another name of `reference`, as in the stock fine-tuning manifests."""
    audio_codes: Annotated[list[Annotated[list[Annotated[int, Field(ge=0, lt=2048)]], Field(min_length=1)]], Field(min_length=1)] | None = (
        None
    )
    """Ready codes, frames x codebooks, as in the stock fine-tuning manifests; the recording is then not encoded again."""
    language: str | None = None
    """Read and ignored: a row's language is its dataset's."""
    cut: bool = False
    """The recording ends before the sentence does: its end is not learned."""


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
    """What a run resolved; reviewed beside the recipe. Holds nothing of one machine."""

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
    stages: list[LockStage]
    """Exact trainable sets."""
    numerics: int
    """Version of the engine's numerics."""
    versions: dict[str, str]
    """Packages whose versions change numbers."""


class BundleLanguage(Settings):
    """A language of a bundle."""

    bcp47: str
    """BCP 47 tag."""
    token_id: int
    """Row of the codec embedding."""


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
    stages: list[BundleStage]
    """Stages in order."""
    accepted: bool
    """Whether every gate of `accept` passed."""
    qrecipe: str
    """Version of the engine."""
    files: dict[str, Sha256]
    """SHA-256 of every other file."""


DOCUMENTS: dict[str, type[Settings]] = {
    "text-row": TextRow,
    "speech-row": SpeechRow,
    "lock": Lock,
    "bundle": BundleManifest,
}


@lru_cache
def validator(name: str) -> Any:
    """The jsonschema validator of a document."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(DOCUMENTS[name].model_json_schema())


def check(name: str, value: object, place: Place, code: str = "QR062") -> list[Problem]:
    """Problems of a document that was read, by its JSON Schema."""
    found = []
    for error in sorted(validator(name).iter_errors(value), key=lambda e: [str(k) for k in e.absolute_path]):
        where = ".".join(str(k) for k in error.absolute_path)
        what = _short(error)
        found.append(Problem(code, f"{where}: {what}" if where else what, place))
    return found


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
