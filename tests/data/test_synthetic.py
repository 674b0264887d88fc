"""The base as a teacher: its distributions are those that generation drew from, and its speech is kept batch by batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qrecipe.data import synthetic
from qrecipe.data.codes import Encoder
from qrecipe.data.synthetic import synthesize
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import LocalBase
from qrecipe.model.generate import sampling
from qrecipe.model.load import LoadedBase
from qrecipe.plan.synthetic import Sentence, SyntheticDataset
from qrecipe.recipe.teacher import Teacher
from tests.support import audio

TEXTS = ("Hola.", "Hace sol.", "Muy bien.", "Dos casas.", "Si.")
QUICK = Teacher(batch=2, slowest=30.0)
"""A second and a few frames for every sentence."""


@pytest.fixture
def encoder(opened: LoadedBase, mini: LocalBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.setenv("QRECIPE_CACHE", str(tmp_path / "cache"))
    return Encoder(opened, mini, FileHashes())


def spanish(folder: Path, texts: tuple[str, ...] = TEXTS, language: str = "spanish") -> SyntheticDataset:
    voices = tuple(audio.write(folder / f"voice{i}.wav", audio.speech(i, 1.0)) for i in range(2))
    return SyntheticDataset("text", "malay", language, tuple(Sentence(i + 1, t, t) for i, t in enumerate(texts)), voices, "x")


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is spoken and not taken from the cache."""
    spoken: list[list[str]] = []
    real = synthetic.speech.speak

    def speak(opened: LoadedBase, script: Any, only: list[int]) -> Any:
        if len(spoken) == 2 and spoken[-1] != ["go on"]:
            spoken.append(["go on"])
            raise KeyboardInterrupt
        spoken.append([script.requests[i].utterance.text for i in only])
        return real(opened, script, only)

    monkeypatch.setattr(synthetic.speech, "speak", speak)
    return spoken


def test_what_was_interrupted_goes_on_and_nothing_is_said_twice(
    opened: LoadedBase, mini: LocalBase, encoder: Encoder, tmp_path: Path, batches: list[list[str]]
) -> None:
    assert mini.identity is not None
    todo = spanish(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        synthesize(opened, encoder, mini.identity, todo, QUICK)
    assert len(batches) == 3, "two batches and the interruption"
    first = synthesize(opened, encoder, mini.identity, todo, QUICK)
    said = [t for b in batches for t in b if t != "go on"]
    assert sorted(said) == sorted(TEXTS)
    again = synthesize(opened, encoder, mini.identity, todo, QUICK)
    assert [t for b in batches for t in b if t != "go on"] == said, "all of it came from the cache"
    for i, (a, b) in enumerate(zip(first.rows, again.rows, strict=True)):
        assert torch.equal(a.codes, b.codes)
        assert torch.equal(a.soft_targets.logs, b.soft_targets.logs)
        assert torch.equal(a.soft_targets.codes, b.soft_targets.codes)
        assert a.codes.shape[0] <= todo.cap(i, QUICK.slowest)
        assert a.soft_targets.codes.shape[0] == a.codes.shape[0] + (not a.cut)


def test_the_distribution_is_what_generation_drew_from(
    opened: LoadedBase, mini: LocalBase, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores of code 0 are caught while the base speaks, one position after the other; `tests/model/test_generate.py` holds them to stock's."""
    assert mini.identity is not None
    steps: list[torch.Tensor] = []
    real = sampling.penalize

    def catch(scores: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
        steps.append(scores.clone())
        return real(scores, seen, penalty)

    monkeypatch.setattr(sampling, "penalize", catch)
    said = synthesize(opened, encoder, mini.identity, spanish(tmp_path, ("Hace sol.", "Hace mucho frio hoy.")), QUICK)
    for row, sentence in enumerate(reversed(said.rows)):  # the longest is spoken in the first row
        frames = sentence.codes.shape[0]
        drawn = torch.log_softmax(torch.stack([s[row] for s in steps[:frames]]), 1)
        assert torch.allclose(drawn.gather(1, sentence.soft_targets.codes[:frames]), sentence.soft_targets.logs[:frames], atol=2e-3)
        top = drawn.topk(synthetic.TOP, dim=1).values
        assert torch.allclose(top, sentence.soft_targets.logs[:frames], atol=2e-3)


def test_a_broken_entry_is_made_again(opened: LoadedBase, mini: LocalBase, encoder: Encoder, tmp_path: Path) -> None:
    assert mini.identity is not None
    todo = spanish(tmp_path, ("Hola.",))
    before = synthesize(opened, encoder, mini.identity, todo, QUICK)
    (file,) = (tmp_path / "cache" / synthetic.FOLDER).rglob("*.sealed")
    file.write_bytes(file.read_bytes()[:-9] + b"123456789")
    after = synthesize(opened, encoder, mini.identity, todo, QUICK)
    assert torch.equal(before.rows[0].codes, after.rows[0].codes)
