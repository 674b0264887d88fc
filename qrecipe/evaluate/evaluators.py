"""Evaluators of generated speech: loaded when a metric first needs one, and run once for every sound."""

from __future__ import annotations

import hashlib
import random
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qrecipe.data.audio import Audio, read, resample
from qrecipe.errors import Place, Problem, Problems, RecipeError, in_a_line
from qrecipe.evaluate import asr as recognisers
from qrecipe.evaluate import normalise
from qrecipe.evaluate.samples import Sample, heard_inputs
from qrecipe.evaluate.wheels import materialise
from qrecipe.hashes import FileHashes
from qrecipe.inputs.evaluators import EvaluatorModel, find, language_problem, packages_problem, version_of
from qrecipe.model.dsp import compile_apart
from qrecipe.model.listening import LISTENING_RATE, WavLmSpeaker
from qrecipe.model.load import LoadedBase, pick_device
from qrecipe.model.stock import silence
from qrecipe.qwen3 import SAMPLE_RATE
from qrecipe.recipe.evaluator import Evaluators, Need
from qrecipe.recipe.metrics import MetricSpec
from qrecipe.store import Journal, key_of
from qrecipe.world import World

PACKAGES = {
    **recognisers.PACKAGES,
    "resemblyzer": ("Resemblyzer",),
    "wavlm": ("transformers",),
    "plcmos": ("speechmos",),
    "dnsmos": ("speechmos",),
}
"""Distributions whose versions change what a backend returns."""


@dataclass(frozen=True)
class EvaluatorChoice:
    """Evaluators as a recipe or a command names them."""

    settings: Evaluators
    root: Path
    """The folder that relative paths start from."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """BCP 47 tags of languages that published bases do not list by name."""
    places: dict[str, Place] = field(default_factory=dict)
    """Where the recipe names an evaluator."""


class EvaluatorSet:
    """The evaluators of a recipe or of a command, each loaded when it is first needed.

    Args:
        opened: the model, whose speaker encoder is an evaluator too; `identity` is its content.
        choice: the evaluators by name.
        journal: results of the evaluators so far.
    """

    def __init__(
        self,
        opened: LoadedBase,
        identity: str | None,
        choice: EvaluatorChoice,
        hashes: FileHashes | None = None,
        journal: Journal | None = None,
    ) -> None:
        self._opened = opened
        self._identity = identity
        self._settings = choice.settings
        self._root = choice.root
        self._tags = {**opened.tags, **choice.tags}
        self._places = choice.places
        self._hashes = hashes or FileHashes()
        self.journal = journal or Journal()
        self._recogniser: recognisers.Recogniser | None = None
        self._encoder: Callable[[Sequence[Audio]], list[torch.Tensor]] | None = None
        self._references: dict[Path, torch.Tensor] = {}
        self._models: dict[Need, tuple[EvaluatorModel, Problems]] = {}
        self._described: dict[tuple[str, str], dict[str, Any]] = {}

    @property
    def world(self) -> World:
        """The processes that share the listening."""
        return self._opened.world

    def missing(self, spec: MetricSpec) -> Problem | None:
        """Why a metric cannot be measured on this machine, or None."""
        if spec.needs == "asr" and self._settings.asr is None:
            return Problem("QR026", f"`{spec.name}` needs a recogniser, and none is named", self._place("asr"))
        lacking = self._find(spec.needs)[1] if spec.needs else []
        return next(iter(lacking), None) or packages_problem(spec.packages, spec.extra, f"`{spec.name}`", Place(spec.name))

    def describe(self, spec: MetricSpec, language: str) -> dict[str, Any] | None:
        """Everything but the sample that a metric's value depends on: part of the verdict, and of the key of a stored value."""
        return None if spec.needs is None else self._describe(spec.needs, language)

    def _describe(self, need: Need, language: str) -> dict[str, Any]:
        if (need, language) not in self._described:
            settings = getattr(self._settings, need)
            about: dict[str, Any] = {**settings.model_dump(mode="json", exclude={"languages"}), "identity": self._find(need)[0].identity}
            if settings.backend == "base":
                about["identity"] = self._identity
            if need == "asr":
                about |= {"temperature": 0.0, "condition_on_previous_text": False, "language": self.language_code(language)}
                about["normalisation"] = {"version": normalise.VERSION, "tag": self.tag(language)}
            about["versions"] = {p: version_of(p) for p in PACKAGES.get(settings.backend, ())}
            self._described[(need, language)] = about
        return self._described[(need, language)]

    def transcribe(self, sample: Sample) -> str:
        """Transcript of a sample by the recogniser, computed once for each sound."""
        transcript: str = self.journal.get_or_make(self._heard(sample), lambda: self._transcribe([sample])[0])
        return transcript

    def transcribe_all(self, samples: Sequence[Sample]) -> None:
        """Transcribes those that were not before, as many beside one another as the recogniser takes; `transcribe` then knows them."""
        for language in dict.fromkeys(s.language for s in samples):
            self._add_unknown([s for s in samples if s.language == language], self._heard, self._transcribe)

    def known_transcript(self, sample: Sample) -> str | None:
        """The transcript if it was computed before, else None."""
        if self._settings.asr is None or self._find("asr")[1]:
            return None
        transcript: str | None = self.journal.get(self._heard(sample))
        return transcript

    def _heard(self, sample: Sample) -> list[Any]:
        """Inputs of a transcript."""
        return heard_inputs(self._describe("asr", sample.language), sample.key)

    def _add_unknown(
        self, samples: Sequence[Sample], inputs: Callable[[Sample], list[Any]], measure: Callable[[list[Sample]], Sequence[str | float]]
    ) -> None:
        """Measures samples whose value is not in the journal, all in one call, each sound once; `inputs` are those of its value."""
        unknown = {key_of(about): s for s in samples if self.journal.get(about := inputs(s)) is None}
        if unknown:
            self.journal.add(dict(zip(unknown, measure(list(unknown.values())), strict=True)))

    def _transcribe(self, samples: Sequence[Sample]) -> list[str]:
        """Transcripts of samples of one language."""
        language = samples[0].language
        try:
            return self._recognises().transcribe([resampled(s.audio) for s in samples], self.language_code(language))
        except (ValueError, OSError) as e:
            raise RecipeError(Problem("QR081", f"the recogniser cannot hear `{language}`: {in_a_line(e)}", self._place("asr"))) from None

    def _recognises(self) -> recognisers.Recogniser:
        asr, place = self._settings.asr, self._place("asr")
        assert asr is not None, "checked before anything is measured"
        if self._recogniser is None:
            self._recogniser = recognisers.open_recogniser(asr, materialise(self._find("asr")[0], place), place)
        return self._recogniser

    def similarity(self, sample: Sample) -> float | None:
        """Cosine between the speaker vectors of the sample and of its reference; None without a reference."""
        if sample.row.reference is None:
            return None
        cosine: float = self.journal.get_or_make(self._compared(sample), lambda: self._similarities([sample])[0])
        return cosine

    def compare_all(self, samples: Sequence[Sample]) -> None:
        """Compares the voices of those that were not before, as many at once as the encoder takes; `similarity` then knows them."""
        self._add_unknown([s for s in samples if s.row.reference], self._compared, self._similarities)

    def _compared(self, sample: Sample) -> list[Any]:
        """Inputs of a similarity."""
        assert sample.row.reference is not None
        return ["voice", self._describe("speaker", sample.language), sample.key, self._hashes.sha256(sample.row.reference)]

    def _similarities(self, samples: Sequence[Sample]) -> list[float]:
        encode, cosines = self._speaker(), []
        for sample, vector in zip(samples, encode([s.audio for s in samples]), strict=True):
            path = sample.row.reference
            assert path is not None
            if path not in self._references:
                self._references[path] = encode([read(path)])[0]
            cosines.append(float(torch.nn.functional.cosine_similarity(vector, self._references[path], dim=0)))
        return cosines

    def _speaker(self) -> Callable[[Sequence[Audio]], list[torch.Tensor]]:
        if self._encoder is None:
            backend, place = self._settings.speaker.backend, self._place("speaker")
            if backend == "base":
                self._encoder = self._opened.x_vectors
            elif backend == "resemblyzer":
                resemblyzer = open_resemblyzer()
                self._encoder = lambda audios: [resemblyzer(a) for a in audios]
            else:
                folder = materialise(self._find("speaker")[0], place)
                try:
                    wavlm = WavLmSpeaker(folder, pick_device())
                except (RuntimeError, ValueError, OSError, KeyError) as e:
                    message = f"transformers cannot load {self._settings.speaker.model}: {in_a_line(e)}"
                    raise RecipeError(Problem("QR081", message, place)) from None
                self._encoder = lambda audios: [wavlm.vector(resampled(a)) for a in audios]
        return self._encoder

    def mos(self, sample: Sample) -> float:
        """Predicted mean opinion score, 1 to 5."""
        score: float = self.journal.get_or_make(["mos", self._describe("mos", sample.language), sample.key], lambda: self._mos(sample))
        return score

    def _mos(self, sample: Sample) -> float:
        audio = np.clip(resampled(sample.audio), -1.0, 1.0)
        seed = int.from_bytes(hashlib.sha256(sample.key.encode()).digest()[:4], "big")
        states = random.getstate(), np.random.get_state()
        random.seed(seed)  # PLCMOS averages over cuts that it draws from the global generators
        np.random.seed(seed)
        try:
            with silence():
                from speechmos import dnsmos, plcmos

                if self._settings.mos.backend == "plcmos":
                    return float(plcmos.run(audio, sr=LISTENING_RATE)["plcmos"])
                return float(dnsmos.run(audio, sr=LISTENING_RATE)["ovrl_mos"])
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])

    def tag(self, language: str) -> str:
        """BCP 47 tag of a language; its code for the recogniser where none is known."""
        asr = self._settings.asr
        return self._tags.get(language) or (asr.languages.get(language) if asr else None) or language

    def language_code(self, language: str) -> str:
        """The recogniser's code of a language."""
        tag = self.tag(language)
        return self._settings.asr.code(language, tag) if self._settings.asr else tag

    def unknown_language(self, language: str) -> Problem | None:
        """Why the recogniser cannot be told this language, or None."""
        asr = self._settings.asr
        return None if asr is None else language_problem(asr, self._find("asr")[0], language, self.tag(language), self._place("asr"))

    def _find(self, need: Need) -> tuple[EvaluatorModel, Problems]:
        if need not in self._models:
            self._models[need] = find(need, self._settings, self._root, self._place(need), self._hashes)
        return self._models[need]

    def _place(self, need: str) -> Place:
        return self._places.get(need, Place(f"evaluators.{need}"))


def resampled(audio: Audio) -> Audio:
    """[samples] at 24 kHz -> [samples] at 16 kHz."""
    return resample(audio, SAMPLE_RATE, LISTENING_RATE)


def open_resemblyzer() -> Callable[[Audio], torch.Tensor]:
    """Resemblyzer's encoder as its authors use it: its own preprocessing, then the mean over windows."""
    if "pkg_resources" not in sys.modules:  # webrtcvad asks it for a version number, and newer setuptools have none
        shim = types.ModuleType("pkg_resources")
        shim.get_distribution = lambda name: types.SimpleNamespace(version=version_of(name))  # type: ignore[attr-defined]  # a stand-in
        sys.modules["pkg_resources"] = shim
    else:
        shim = None
    compile_apart()
    try:
        with silence():
            from resemblyzer import VoiceEncoder, preprocess_wav

            encoder = VoiceEncoder("cpu", verbose=False)
    finally:
        if shim is not None:
            del sys.modules["pkg_resources"]

    def encode(audio: Audio) -> torch.Tensor:
        cleaned = preprocess_wav(audio, source_sr=SAMPLE_RATE)
        return torch.from_numpy(encoder.embed_utterance(cleaned if cleaned.size else audio))

    return encode
