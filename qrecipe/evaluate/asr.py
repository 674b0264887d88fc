"""Speech recognisers behind one small interface: a recording and a language in, a transcript out."""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from qrecipe.data.audio import Audio
from qrecipe.errors import Place, Problem, RecipeError, in_a_line
from qrecipe.model.listening import TransformersRecogniser
from qrecipe.model.load import pick_device
from qrecipe.model.stock import silence
from qrecipe.recipe.evaluator import Asr

PACKAGES = {"faster_whisper": ("faster-whisper", "ctranslate2"), "transformers": ("transformers",)}
"""Distributions whose versions change transcripts."""


GPU_WORKERS = 4
"""Recordings that a GPU transcribes beside one another; each waits for the host more than for the GPU."""


class Recogniser(Protocol):
    """A backend that turns sound into text."""

    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        """The transcripts of recordings ([samples] float32 each, mono at 16 kHz) in the language with this code."""
        ...

    def transcribe_scored(self, audio: Audio, language: str) -> tuple[str, float]:
        """The transcript of one recording, and the mean probability of its tokens, from 0 to 1."""
        ...


@runtime_checkable
class Aligner(Protocol):
    """A recogniser that can force a text onto a recording."""

    @property
    def aligns(self) -> bool:
        """Whether the model that it has loaded can."""
        ...

    def letter_logs(self, audio: Audio, language: str) -> torch.Tensor:
        """[samples] float32 at 16 kHz -> log-probabilities of letters, [frames, letters]."""
        ...

    def fit(self, logs: torch.Tensor, text: str) -> float:
        """How well a text fits a recording by its `letter_logs`, from 0 to 1."""
        ...


class FasterWhisper:
    """Whisper through CTranslate2: beam search at temperature 0, no earlier text as a prompt, no voice activity filter.

    Recordings are transcribed beside one another rather than as one batch: a batch would change last digits, and now and then
    a word. On a CPU each has one thread, which loses nothing by waiting for others.
    """

    def __init__(self, asr: Asr, folder: Path) -> None:
        logging.getLogger("faster_whisper").setLevel(logging.ERROR)
        with silence():
            from faster_whisper import WhisperModel

        class Windowed(WhisperModel):  # type: ignore[misc, unused-ignore]
            """Leaves out padding that a short recording does not need: the package itself always fills up to 30 s."""

            def encode(self, features: NDArray[np.float32]) -> Any:
                window = asr.window * self.frames_per_second
                return super().encode(features if features[..., window - self.frames_per_second :].any() else features[..., :window])

        device = "cuda" if _runs_on_a_gpu() else "cpu"
        threads_of_torch = torch.get_num_threads()
        self._at_once = GPU_WORKERS if device == "cuda" else threads_of_torch
        threads = {"cpu_threads": 1, "num_workers": self._at_once}
        settings: dict[str, Any] = {"compute_type": asr.compute_type, **threads, "local_files_only": True}
        self._model = Windowed(str(folder), device=device, device_index=pick_device().index or 0, **settings)
        torch.set_num_threads(threads_of_torch)  # CTranslate2 gives this thread of ours as many as it has itself
        self._beam_size = asr.beam_size

    def transcribe(self, audios: Sequence[Audio], language: str) -> list[str]:
        """See `Recogniser`. Each recording gets what it would get alone."""
        with ThreadPoolExecutor(self._at_once) as pool:
            return list(pool.map(lambda audio: self.transcribe_scored(audio, language)[0], audios))

    def transcribe_scored(self, audio: Audio, language: str) -> tuple[str, float]:
        """See `Recogniser`."""
        stream, _ = self._model.transcribe(
            audio, language=language, beam_size=self._beam_size, temperature=0.0, condition_on_previous_text=False, vad_filter=False
        )
        segments = list(stream)
        tokens = sum(len(s.tokens) for s in segments)
        logs = sum(s.avg_logprob * len(s.tokens) for s in segments)
        return " ".join(s.text.strip() for s in segments).strip(), math.exp(logs / tokens) if tokens else 0.0


def _runs_on_a_gpu() -> bool:
    """Whether CTranslate2 finds a GPU and the cuBLAS that it was built for: torch may bring another one, and without it
    CTranslate2 fails at the first recording."""
    if not torch.cuda.is_available():
        return False
    import ctranslate2

    if not ctranslate2.get_cuda_device_count():
        return False
    try:
        ctypes.CDLL("libcublas.so.12")
    except OSError:
        return False
    return True


def open_recogniser(asr: Asr, folder: Path, place: Place) -> Recogniser:
    """The recogniser that a recipe names, loaded from `folder`. Raises `RecipeError`."""
    try:
        if asr.backend == "transformers":
            return TransformersRecogniser(folder, asr.beam_size, pick_device())
        return FasterWhisper(asr, folder)
    except (RuntimeError, ValueError, OSError, KeyError) as e:
        raise RecipeError(Problem("QR081", f"`{asr.backend}` cannot load {asr.model}: {in_a_line(e)}", place)) from None
