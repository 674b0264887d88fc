"""What hears generated speech: evaluators, loaded when a metric first asks for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from qrecipe.data.audio import Audio
from qrecipe.errors import Place, Problem, RecipeError
from qrecipe.evaluate import asr as recognisers
from qrecipe.evaluate import normalise
from qrecipe.evaluate.wheels import materialise
from qrecipe.files import FileHashes
from qrecipe.model.opened import Opened
from qrecipe.plan.evaluators import find_asr, packages_problem
from qrecipe.recipe.evaluator import Asr, Evaluators
from qrecipe.recipe.language import TAGS
from qrecipe.recipe.metrics import MetricSpec


class Listeners:
    """The evaluators of a recipe or of a command.

    Args:
        opened: the model; its speaker encoder listens too.
        evaluators: what the recipe names.
        root: the folder that relative paths start from.
        tags: BCP 47 tags of languages that the base does not list by name.
        places: where the recipe names an evaluator.
    """

    def __init__(
        self,
        opened: Opened,
        evaluators: Evaluators,
        root: Path,
        tags: dict[str, str],
        places: dict[str, Place] | None = None,
        hashes: FileHashes | None = None,
    ) -> None:
        self._opened = opened
        self._evaluators = evaluators
        self._root = root
        self._tags = {**TAGS, **tags}
        self._places = places or {}
        self._hashes = hashes or FileHashes()
        self._recogniser: recognisers.Recogniser | None = None
        self._missing: dict[str, list[Problem]] = {}

    def missing(self, spec: MetricSpec) -> Problem | None:
        """Why a metric cannot be measured on this machine, or None."""
        if spec.needs == "asr" and "asr" not in self._missing:
            if self._evaluators.asr is None:
                problem = Problem("QR026", f"`{spec.name}` needs a recogniser, and none is named", self._place())
                self._missing["asr"] = [problem]
            else:
                _, self._missing["asr"] = find_asr(self._evaluators.asr, self._root, self._place(), self._hashes)
        lacking = self._missing.get(spec.needs, []) if spec.needs else []
        return next(iter(lacking), None) or packages_problem(spec.packages, spec.extra, f"`{spec.name}`", Place(spec.name))

    def describe(self, spec: MetricSpec, language: str) -> dict[str, Any] | None:
        """What a metric's value depends on beside the sample: part of the verdict, and of what a value is stored under."""
        if spec.needs is None:
            return None
        asr = self._asr()
        found, _ = find_asr(asr, self._root, self._place(), self._hashes)
        return {
            **recognisers.describe(asr, found.identity),
            "language": self.code(language),
            "normalisation": {"version": normalise.VERSION, "tag": self.tag(language)},
        }

    def transcribe(self, audio: Audio, language: str) -> str:
        """What the recogniser hears in `audio` ([samples] float32 at 24 kHz) of a language by name."""
        if self._recogniser is None:
            asr = self._asr()
            found, _ = find_asr(asr, self._root, self._place(), self._hashes)
            self._recogniser = recognisers.open_recogniser(asr, materialise(found, self._place()), self._place())
        try:
            return self._recogniser.transcribe(recognisers.to_asr_rate(audio), self.code(language))
        except ValueError as e:
            reason = str(e).strip().splitlines()[0][:200]
            raise RecipeError(Problem("QR081", f"the recogniser cannot hear `{language}`: {reason}", self._place())) from None

    def x_vector(self, audio: Audio) -> torch.Tensor:
        """Speaker vector of a sample, [hidden] float32, by the base's own encoder."""
        return self._opened.x_vector(audio)

    def tag(self, language: str) -> str:
        """BCP 47 tag of a language; its code for the recogniser where none is known."""
        asr = self._evaluators.asr
        return self._tags.get(language) or (asr.languages.get(language) if asr else None) or language

    def code(self, language: str) -> str:
        """What the recogniser calls a language."""
        return self._asr().languages.get(language) or self.tag(language).split("-")[0]

    def _asr(self) -> Asr:
        assert self._evaluators.asr is not None, "checked before anything is measured"
        return self._evaluators.asr

    def _place(self) -> Place:
        return self._places.get("asr", Place("evaluators.asr"))
