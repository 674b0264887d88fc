"""`say`: one text in one voice, written as a sound file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from qrecipe.data.audio import AudioProblem, encoded, read
from qrecipe.errors import DataError, Place, Problem, RecipeError
from qrecipe.files import FileHashes, replacing
from qrecipe.model.speak import Utterance, speak
from qrecipe.plan.tokenizer import clean_text
from qrecipe.qwen3 import Layout
from qrecipe.run.events import Events
from qrecipe.run.models import language_of, open_argument


def say(
    model: str, text: str, language: str, reference: Path, reference_text: str | None, layout: str, seed: int, out: Path
) -> dict[str, Any]:
    """Speaks a text through stock `generate_voice_clone` with the checkpoint's own sampling. Raises `UserError`."""
    how = _format(out)
    try:
        voice = read(reference)
    except AudioProblem as e:
        raise DataError(Problem("QR043", f"{reference}: {e}", Place("--reference"))) from None
    opened = open_argument(model, FileHashes(), Events(None)).opened
    language_of(opened, language, Place("--language"))
    said = clean_text(text)
    why = opened.tokenizer.text_problem(said)
    if why is not None:
        raise DataError(Problem("QR042", why, Place("TEXT")))
    utterance = Utterance(
        text=said,
        language=language,
        x_vector=opened.x_vector(voice),
        reference_text=clean_text(reference_text) if reference_text else None,
        reference_codes=opened.encode([voice])[0] if reference_text else None,
    )
    spoken = speak(opened, [utterance], layout=cast(Layout, layout), seed=seed)[0]
    with replacing(out) as temporary:
        temporary.write_bytes(encoded(spoken.audio, spoken.rate, **how))
    return {"out": str(out), "seconds": round(len(spoken.audio) / spoken.rate, 3), "frames": int(spoken.codes.shape[0])}


FORMATS = {
    "": {"format": "WAV", "subtype": "PCM_16"},
    ".wav": {"format": "WAV", "subtype": "PCM_16"},
    ".flac": {"format": "FLAC", "subtype": "PCM_16"},
    ".mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
    ".ogg": {"format": "OGG", "subtype": "VORBIS"},
    ".opus": {"format": "OGG", "subtype": "OPUS"},
}
"""By the ending of the name: soundfile's format and subtype."""


def _format(out: Path) -> dict[str, str]:
    """How a file of this name is written. Raises `RecipeError` for an ending that is none of sound."""
    try:
        return FORMATS[out.suffix.lower()]
    except KeyError:
        known = ", ".join(f"`{ending}`" for ending in FORMATS if ending)
        problem = Problem("QR070", f"{out.name}: no kind of sound ends in `{out.suffix}`", Place("--out"), f"known: {known}")
        raise RecipeError(problem) from None
