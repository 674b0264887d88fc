"""Metrics of the sound itself, on sounds whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from qrecipe.data.audio import Audio
from qrecipe.data.speech import SpeechRow
from qrecipe.evaluate import sound
from qrecipe.evaluate.samples import Sample
from qrecipe.qwen3 import SAMPLE_RATE


class FakeEvaluators:
    def tag(self, language: str) -> str:
        return "ms"


def tone(*pieces: tuple[float, float]) -> Audio:
    """(Hz, seconds) pieces of a voice-like tone; 0 Hz is silence."""
    phase, found = 0.0, []
    for hz, seconds in pieces:
        t = np.arange(int(seconds * SAMPLE_RATE))
        wave = sum(np.sin(phase + 2 * np.pi * hz * k * t / SAMPLE_RATE) / k for k in (1, 2, 3)) if hz else np.zeros(len(t))
        found.append(0.2 * np.asarray(wave))
    return np.concatenate(found).astype(np.float32)


def sample(audio: Audio, text: str = "abcde abcde", recording: Audio | None = None) -> Sample:
    row = SpeechRow(1, text, [], [], torch.zeros((10, 8)), 1.0, 0.0, "", None, None, False)
    made = Sample(row, audio, torch.zeros((10, 8)), 30, "malay", cast(Any, FakeEvaluators()))
    made.__dict__["recording"] = recording
    return made


SPEECH = tone((150, 1.0), (0, 0.5), (200, 0.5))


def test_silence_pauses_and_rate() -> None:
    item = sample(SPEECH)
    assert sound.silence_share(item) == pytest.approx(0.25, abs=0.03)
    assert sound.pause_rate(item) == pytest.approx(0.5, abs=0.03)
    assert sound.speaking_rate(item) == pytest.approx(5.0, abs=0.2)
    short = sample(tone((150, 1.0), (0, 0.1), (200, 0.9)))
    assert sound.pause_rate(short) == 0.0
    nothing = sample(np.zeros(SAMPLE_RATE, np.float32))
    assert (sound.silence_share(nothing), sound.pause_rate(nothing), sound.speaking_rate(nothing)) == (1.0, None, None)


@pytest.mark.slow
def test_pitch_has_the_range_that_was_made() -> None:
    octave = sample(tone(*[(110 * 2 ** (i / 20), 0.1) for i in range(21)]))
    assert sound.f0_range(octave) == pytest.approx(12 * 0.9, abs=1.0)
    assert sound.f0_range(sample(tone((140, 2.0)))) == pytest.approx(0.0, abs=0.3)
    assert sound.f0_range(sample(np.zeros(SAMPLE_RATE, np.float32))) is None


@pytest.mark.slow
def test_contours_are_compared_after_alignment() -> None:
    data = Path(__file__).parents[2] / "recipes" / "data" / "malay" / "audio"
    from librosa.effects import time_stretch

    from qrecipe.data.audio import load

    one, other = (load(data / f"ms_dev_000{i}.ogg", 30.0).samples for i in (1, 2))
    slower = np.asarray(time_stretch(one, rate=0.8), dtype=np.float32)
    for metric, apart in ((sound.f0_correlation, 0.2), (sound.energy_correlation, 0.05)):
        same, wrong = metric(sample(slower, recording=one)), metric(sample(other, recording=one))
        assert same is not None
        assert same > 0.8
        assert wrong is None or wrong < same - apart
    assert sound.f0_correlation(sample(one)) is None
