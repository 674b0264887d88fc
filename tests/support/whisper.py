"""Whisper base out of packages, for tests that listen. Gone from the registry: those tests are skipped, loudly."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from qrecipe.errors import Place
from qrecipe.hashes import FileHashes
from qrecipe.inputs.evaluators import find, installed
from qrecipe.recipe.evaluator import Asr, Evaluators

ASR = Asr(model="wheel:whisper-base", beam_size=1, window=15)


def require() -> None:
    """Skips the test where Whisper cannot be had."""
    _, problems = find("asr", Evaluators(asr=ASR), Path.cwd(), Place("test"), FileHashes())
    missing = [p.message for p in problems] + ([] if installed("jiwer") else ["jiwer is not installed"])
    if missing:
        warnings.warn(f"NOT TESTED, because there is no recogniser: {missing[0]}", stacklevel=2)
        pytest.skip(missing[0])
