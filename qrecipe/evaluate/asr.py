"""Speech recognisers behind one small interface: a recording and a language in, a transcript out."""

from __future__ import annotations

import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from qrecipe.data.audio import RATE
from qrecipe.errors import Place, Problem, RecipeError
from qrecipe.model.stock import silence
from qrecipe.recipe.evaluator import Asr

ASR_RATE = 16_000
"""Hz; what every recogniser here reads."""

Audio = NDArray[np.float32]


class Recogniser(Protocol):
    """What a backend is."""

    def transcribe(self, audio: Audio, language: str) -> str:
        """The transcript of `audio` ([samples] float32, mono at 16 kHz) in the language with this code."""
        ...


def to_asr_rate(audio: Audio) -> Audio:
    """[samples] at 24 kHz -> [samples] at 16 kHz."""
    import librosa

    out: Audio = librosa.resample(y=audio, orig_sr=RATE, target_sr=ASR_RATE).astype(np.float32)
    return out


class FasterWhisper:
    """Whisper through CTranslate2. Greedy or beam search at temperature 0, no earlier text as a prompt, no voice activity filter."""

    def __init__(self, asr: Asr, folder: Path, place: Place) -> None:
        logging.getLogger("faster_whisper").setLevel(logging.ERROR)
        with silence():
            from faster_whisper import WhisperModel
        settings: dict[str, Any] = {"compute_type": asr.compute_type, "cpu_threads": torch.get_num_threads(), "local_files_only": True}
        try:
            self._model = WhisperModel(str(folder), device=_device(), **settings)
        except (RuntimeError, ValueError, OSError) as e:
            reason = str(e).strip().splitlines()[0][:200]
            raise RecipeError(Problem("QR081", f"faster-whisper cannot load {asr.model}: {reason}", place)) from None
        self._beam_size = asr.beam_size

    def transcribe(self, audio: Audio, language: str) -> str:
        """See `Recogniser`."""
        segments, _ = self._model.transcribe(
            audio, language=language, beam_size=self._beam_size, temperature=0.0, condition_on_previous_text=False, vad_filter=False
        )
        return " ".join(s.text.strip() for s in segments).strip()


def _device() -> str:
    import ctranslate2

    return "cuda" if torch.cuda.is_available() and ctranslate2.get_cuda_device_count() else "cpu"


def open_recogniser(asr: Asr, folder: Path, place: Place) -> Recogniser:
    """The recogniser that a recipe names, loaded from `folder`. Raises `RecipeError`."""
    return FasterWhisper(asr, folder, place)


def describe(asr: Asr, identity: str | None) -> dict[str, Any]:
    """Everything that a transcript depends on beside the recording and the language."""
    packages = ("faster-whisper", "ctranslate2")
    return {
        **asr.model_dump(mode="json", exclude={"languages"}),
        "identity": identity,
        "temperature": 0.0,
        "condition_on_previous_text": False,
        "versions": {p: version(p) for p in packages},
    }
