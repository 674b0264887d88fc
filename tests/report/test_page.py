"""The page that plays samples side by side: self-contained, errors marked, nothing of a text taken for HTML."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch

from qrecipe.data.speech import SpeechRow
from qrecipe.evaluate.samples import Sample
from qrecipe.report.page import column_of, marked, sound, write_page


class FakeEvaluators:
    def transcribe(self, sample: Sample) -> str:
        return "saya <b>suka</b> nasi"

    def tag(self, language: str) -> str:
        return "ms"


@pytest.mark.parametrize(
    ("said", "heard", "page"),
    [
        ("saya suka nasi", "saya suka nasi", "saya suka nasi"),
        ("saya suka nasi", "saya nasi", "saya <del>suka</del> nasi"),
        ("saya suka nasi", "saya suka roti", "saya suka <del>nasi</del> <ins>roti</ins>"),
        ("saya suka", "saya suka suka", "saya suka <ins>suka</ins>"),
        ("saya", "", "<del>saya</del>"),
        ("", "apa", "apa"),
    ],
)
def test_errors_are_marked(said: str, heard: str, page: str) -> None:
    assert marked(said, heard).replace("<ins>suka</ins> suka", "suka <ins>suka</ins>") == page


def test_sound_is_in_the_page() -> None:
    wave = (0.3 * np.sin(np.arange(24_000) * 0.05)).astype(np.float32)
    kind, content = sound(wave).split(";base64,")
    assert kind in ("audio/mpeg", "audio/wav")
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
    assert rate == 24_000
    assert abs(len(heard) - len(wave)) < 4000


def test_a_page_stands_alone_and_escapes_texts() -> None:
    row = SpeechRow(1, 'Saya <script>alert("x")</script>', [], [], torch.zeros((9, 1)), 1.0, 0.0, "", Path("r"), None, False)
    item = Sample(row, np.zeros(2400, np.float32), torch.zeros((9, 1)), 30, "malay", cast(Any, FakeEvaluators()), seed=3)
    page = write_page("a & b", [column_of("base", [item], True)])
    assert "<script" not in page
    assert "<b>suka" not in page
    assert "a &amp; b" in page
    assert "streaming, x-vector, seed 3" in page
    assert page.count("<audio") == 1
