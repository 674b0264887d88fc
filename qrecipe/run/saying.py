"""`say`: one text in one voice, written as a WAV file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import soundfile

from qrecipe.data.audio import AudioProblem, read
from qrecipe.errors import DataError, Place, Problem
from qrecipe.files import FileHashes, replacing
from qrecipe.model.speak import Utterance, speak
from qrecipe.plan.tokenizer import clean_text
from qrecipe.run.models import language_of, open_argument


def say(
    model: str, text: str, language: str, reference: Path, reference_text: str | None, layout: str, seed: int, out: Path
) -> dict[str, Any]:
    """Speaks a text through stock `generate_voice_clone` with the checkpoint's own sampling. Raises `UserError`."""
    try:
        voice = read(reference)
    except AudioProblem as e:
        raise DataError(Problem("QR043", f"{reference}: {e}", Place("--reference"))) from None
    opened, _ = open_argument(model, FileHashes())
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
    spoken = speak(opened, [utterance], layout=cast(Literal["streaming", "non_streaming"], layout), seed=seed)[0]
    with replacing(out) as temporary:
        soundfile.write(str(temporary), spoken.audio, spoken.rate, format="WAV", subtype="PCM_16")
    return {"out": str(out), "seconds": round(len(spoken.audio) / spoken.rate, 3), "frames": int(spoken.codes.shape[0])}
