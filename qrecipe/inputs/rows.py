"""Lines of manifests and their fields. Imported by whatever reads data, so it holds nothing else."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError

from qrecipe.qwen3 import CODEBOOK_SIZE
from qrecipe.recipe.model import Settings

MAX_TEXT = 10_000
"""Characters of a text."""


class TextLine(Settings):
    """One line of a text manifest."""

    model_config = ConfigDict(title="TextRow")

    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    """The sentence."""
    language: str | None = None
    """The language by name or tag. A row's language is its dataset's: rows that say another are counted in a warning."""


class SpeechLine(Settings):
    """One line of a speech manifest. `audio_codes` may stand in for `audio`."""

    model_config = ConfigDict(title="SpeechRow")

    audio: Annotated[str, Field(min_length=1)] | None = None
    """The recording, relative to the manifest; any format, rate and channel count that libsndfile reads."""
    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    """Its transcript."""
    reference: Annotated[str, Field(min_length=1)] | None = None
    """A recording of the same voice, relative to the manifest."""
    reference_text: Annotated[str, Field(min_length=1)] | None = None
    """Transcript of the reference."""
    speaker: Annotated[str, Field(min_length=1)] | None = None
    """Who speaks; rows without it are one speaker."""
    ref_audio: Annotated[str, Field(min_length=1)] | None = None
    """Another name of `reference`, as in the stock fine-tuning manifests."""
    audio_codes: (
        Annotated[list[Annotated[list[Annotated[int, Field(ge=0, lt=CODEBOOK_SIZE)]], Field(min_length=1)]], Field(min_length=1)] | None
    ) = None
    """Ready codes, frames x codebooks, as in the stock fine-tuning manifests; the recording is then not encoded again."""
    language: str | None = None
    """The language by name or tag. A row's language is its dataset's: rows that say another are counted in a warning."""
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None
    """How sure a machine was that made this text or this cut; none for a person's work. Not read by training."""
    cut: bool = False
    """The recording ends before the sentence does: its end is not learned."""


_LINES: dict[Literal["text", "speech"], type[TextLine] | type[SpeechLine]] = {"text": TextLine, "speech": SpeechLine}


def fields(kind: Literal["text", "speech"]) -> frozenset[str]:
    """Names that a line may hold."""
    return frozenset(_LINES[kind].model_fields)


def parse(kind: Literal["text", "speech"], value: object, strict: bool = True) -> TextLine | SpeechLine | None:
    """A line of a manifest, None if it does not follow its schema; a hundred times faster than jsonschema.

    Not `strict`, it takes 1.0 for a whole number, as a JSON Schema does.
    """
    try:
        return _LINES[kind].model_validate(value, strict=strict)
    except ValidationError:
        return None
