"""Recordings are encoded and codes decoded to the same bits on any number of threads, and torch has its own again afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Barrier

import numpy as np
import pytest
import torch

from qrecipe.model import load
from qrecipe.model.generate import speech
from qrecipe.model.generate.decoder import Decoder
from qrecipe.model.load import LoadedBase
from qrecipe.model.speak import Utterance
from qrecipe.model.threads import each_on_one
from tests.support import audio


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_items_are_beside_one_another_and_each_on_one_thread() -> None:
    barrier = Barrier(2, timeout=20)  # broken, if one item waits for the other

    def work(item: int) -> tuple[int, int, bool]:
        barrier.wait()
        return item, torch.get_num_threads(), torch.is_inference_mode_enabled()

    assert each_on_one(work, [1, 2, 3, 4]) == [(n, 1, True) for n in (1, 2, 3, 4)]
    assert torch.get_num_threads() == 2


def test_the_first_error_is_raised_and_the_rest_is_left() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        raise ValueError(item)

    with pytest.raises(ValueError, match=r"^0$"):
        each_on_one(work, range(1000))
    assert len(begun) < 1000
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("count", [1, 3])
def test_a_small_model_speaks_on_one_thread_each(count: int, opened: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    step, threads = Decoder.step, set[int]()

    def counted(decoder: Decoder) -> None:
        threads.add(torch.get_num_threads())
        step(decoder)

    monkeypatch.setattr(Decoder, "step", counted)
    voice = opened.x_vector(audio.speech(0, 0.7))
    request = speech.Request(Utterance("Hello.", "english", voice), "streaming", 0, max_frames=3)
    assert len(dict(speech.speak(opened, speech.prepare(opened, [request] * count)))) == count
    assert threads == {1}
    assert torch.get_num_threads() == 2


def test_a_large_one_keeps_its_threads(opened: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "SMALL", 1)
    with opened.small_products():
        assert torch.get_num_threads() == 2


def test_what_is_spoken_does_not_depend_on_threads(opened: LoadedBase) -> None:
    voice = opened.x_vector(audio.speech(0, 0.7))
    requests = [speech.Request(Utterance(f"Hello {'again ' * n}.", "english", voice), "streaming", n, max_frames=9 + n) for n in range(19)]
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(dict(speech.speak(opened, speech.prepare(opened, requests))))
    assert all(torch.equal(codes, other[n]) for other in results[1:] for n, codes in results[0].items())
    assert [len(results[1]), len(results[2])] == [19, 19]


def test_codes_and_sounds_do_not_depend_on_threads(opened: LoadedBase) -> None:
    clips = [audio.speech(seed, seconds) for seed, seconds in ((0, 0.7), (1, 1.3), (2, 0.9))]
    utterances = [Utterance("a", "auto", torch.zeros(1)) for _ in clips]
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        codes = opened.encode(clips)
        results.append((codes, [samples for samples, _ in speech.sound(opened, codes, utterances)]))
    (one, alone), (two, beside) = results
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(alone, beside, strict=True))
