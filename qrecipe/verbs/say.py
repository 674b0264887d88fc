"""`say`: one text in one voice, written as a sound file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qrecipe.data.audio import MAX_REFERENCE, Audio, AudioProblem, encoded, load_reference, rate_problem
from qrecipe.errors import DataError, Place, Problem, RecipeError
from qrecipe.files import is_file, replacing
from qrecipe.hashes import FileHashes
from qrecipe.model import speak
from qrecipe.model.generate import speech as generated
from qrecipe.model.speak import Utterance
from qrecipe.qwen3 import SAMPLE_RATE, Layout
from qrecipe.run.events import Events
from qrecipe.run.models import habits_of_model, language_of, open_argument
from qrecipe.source import paths


@dataclass(frozen=True)
class Speech:
    """A text and how it is spoken."""

    text: str
    language: str
    """Language whose token is given, by name or by its BCP 47 tag, or `auto`."""
    reference: Path
    """A recording of the voice."""
    reference_text: str | None
    """Its text; makes the prompt in-context."""
    layout: Layout
    seed: int
    engine: Literal["own", "stock"] = "own"
    """`stock` speaks through `generate_voice_clone`, which says other things with the same seed."""


@dataclass(frozen=True)
class SpokenText:
    """A text as a model said it."""

    audio: Audio
    """[samples] float32."""
    rate: int
    """Hz."""
    frames: int
    """Frames of the codec."""


def say(model: str, speech: Speech, out: Path) -> dict[str, Any]:
    """Speaks a text with the checkpoint's own sampling and writes it as a sound file. Raises `UserError`."""
    file_format = _format(out)
    spoken = spoken_by(model, speech)
    with replacing(out) as temporary:
        temporary.write_bytes(encoded(spoken.audio, spoken.rate, **file_format))
    return {"out": str(out), "seconds": round(len(spoken.audio) / spoken.rate, 3), "frames": spoken.frames}


def spoken_by(model: str, speech: Speech) -> SpokenText:
    """The speech of a model. Raises `UserError`."""
    try:
        voice = load_reference(speech.reference, MAX_REFERENCE)
    except AudioProblem as e:
        clear = "a few seconds of clear speech do"
        help_ = clear if is_file(speech.reference) else paths.hint(str(speech.reference), Path.cwd())
        raise DataError(Problem("QR043", f"{speech.reference}: {e}", Place("--reference"), help_)) from None
    replaced = habits_of_model(model, speech.language).replacements
    reference_text = replaced.apply(speech.reference_text) if speech.reference_text else None
    unfit = rate_problem(reference_text, len(voice.speech) / SAMPLE_RATE) if reference_text else None
    if unfit is not None:
        raise DataError(Problem("QR044", unfit, Place("--reference-text")))
    session = open_argument(model, FileHashes(), Events(None))
    opened = session.opened
    language = language_of(session, speech.language, Place("--language"))
    text = replaced.apply(speech.text)
    if speech.engine == "stock" and (why := opened.tokenizer.text_problem(text)) is not None:
        raise DataError(Problem("QR042", why, Place("TEXT")))
    utterance = Utterance(
        text=text,
        language=language,
        x_vector=opened.x_vector(voice.samples),
        reference_text=reference_text,
        reference_codes=opened.encode([voice.samples])[0] if reference_text else None,
    )
    if speech.engine == "stock":
        (spoken,) = speak.speak(opened, [utterance], layout=speech.layout, seed=speech.seed)
        return SpokenText(spoken.audio, spoken.rate, int(spoken.codes.shape[0]))
    script = generated.prepare(opened, [generated.Request(utterance, speech.layout, speech.seed)])
    ((_, codes),) = generated.speak(opened, script)
    ((audio, rate),) = generated.sound(opened, [codes], [utterance])
    return SpokenText(audio, rate, int(codes.shape[0]))


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
