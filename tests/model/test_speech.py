"""Requests that a model cannot speak end before anything is spoken, each with its code and its row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from qrecipe.errors import DataError, Place
from qrecipe.model import generate
from qrecipe.model.generate import speech
from qrecipe.model.load import LoadedBase
from qrecipe.model.speak import Utterance


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoke(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("something was spoken")

    monkeypatch.setattr(generate.Decoder, "step", spoke)


@pytest.mark.usefixtures("silent")
def test_every_bad_request_is_named_before_anything_is_spoken(opened: LoadedBase) -> None:
    width = int(opened.config.talker_config.hidden_size)
    good = Utterance("Hola.", "spanish", torch.zeros(width))
    bad = {
        2: ("QR042", "the text is empty", replace(good, text="")),
        3: ("QR042", "no letter", replace(good, text="...!")),
        4: ("QR020", "no row for `klingon`", replace(good, language="klingon")),
        5: ("QR045", f"has 7 numbers, and the model reads {width}", replace(good, x_vector=torch.zeros(7))),
        6: ("QR042", "positions, and the model has", replace(good, text="hola" + " hola" * 40_000)),
        7: ("QR042", "the text is empty", replace(good, reference_text="", reference_codes=torch.zeros((3, opened.groups)).long())),
    }
    requests = [speech.Request(good, "non_streaming", 0, 5, Place("dev", 1))]
    requests += [speech.Request(u, "non_streaming", 0, 5, Place("dev", line)) for line, (_, _, u) in bad.items()]
    with pytest.raises(DataError) as caught:
        next(speech.speak(opened, speech.prepare(opened, requests)))
    reported = {p.place.line: p for p in caught.value.problems}
    assert reported.keys() == bad.keys()
    for line, (code, words, _) in bad.items():
        assert reported[line].code == code
        assert words in reported[line].message
