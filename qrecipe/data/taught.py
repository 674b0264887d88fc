"""What the untouched base says, ready to learn from: codes, and its own distribution of code 0 at every frame.

A batch is the unit, as sampling draws from one generator: it is spoken, read again by the base with its own codes as
history, and kept in the cache under a name made of everything that it depends on. Speaking that was interrupted goes on
with the first batch that is not there; processes that want the same lesson at once share its batches out.

Of the distribution the `TOP` most likely codes are kept; what is left over is one outcome more. The divergence over these
is a lower bound of the whole one, at a sixteenth of the room; what is left over is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from qrecipe.data import sealed
from qrecipe.data.codes import Encoder
from qrecipe.data.pieces import shared_out
from qrecipe.files import cache_dir, digest
from qrecipe.model import forward, prompt, speak
from qrecipe.model.opened import Opened
from qrecipe.plan.teaching import TEACHING, TOP, Lesson
from qrecipe.recipe.teacher import Teacher

FOLDER = "taught"


@dataclass(frozen=True)
class Guide:
    """The base's distribution of code 0 at every frame of one sentence and at its end."""

    codes: torch.Tensor
    """[labels, TOP] int64, the most likely first."""
    logs: torch.Tensor
    """[labels, TOP] float32, their log probabilities over the whole vocabulary, nats."""

    @property
    def left_over(self) -> torch.Tensor:
        """Probability of all other codes, [labels]."""
        return (1.0 - self.logs.double().exp().sum(1)).clamp(min=0.0).float()


@dataclass(frozen=True)
class Taught:
    """One sentence as the base said it."""

    codes: torch.Tensor
    """[frames, codebooks] int64."""
    guide: Guide
    cap: int
    """Frames at which it was cut."""

    @property
    def runaway(self) -> bool:
        """Whether the base did not come to an end."""
        return int(self.codes.shape[0]) >= self.cap


def speak_lesson(
    opened: Opened, encoder: Encoder, identity: str, lesson: Lesson, settings: Teacher, progress: Callable[[int], None] | None = None
) -> list[Taught]:
    """Has the base speak a lesson; what was said before comes from the cache. In the order of the sentences.

    Args:
        opened: the base; its modules must hold its own weights.
        encoder: gives the x-vectors of the voices. Raises `AudioProblem` for one that cannot be read.
        identity: content of the base.
        progress: told how many sentences are done.
    """
    vectors = {v: encoder.x_vector(v) for v in lesson.voices}
    names = {v: encoder.hashes.sha256(v) for v in lesson.voices}
    batches = list(lesson.batches(settings.batch))
    voices = [[lesson.voices[i % len(lesson.voices)] for i in b] for b in batches]
    caps = [[lesson.cap(lesson.sentences[i], settings.slowest) for i in b] for b in batches]

    def file(n: int) -> Path:
        about = [[lesson.sentences[i].spoken, names[v], cap] for i, v, cap in zip(batches[n], voices[n], caps[n], strict=True)]
        key = digest([TEACHING, TOP, identity, lesson.spoken_as, settings.layout, settings.seed, settings.sampling, about])
        return folder_of(identity) / f"{key[:40]}.sealed"

    files = [file(n) for n in range(len(batches))]

    def make(n: int) -> list[Taught]:
        texts = [lesson.sentences[i].spoken for i in batches[n]]
        said = _speak(opened, lesson, texts, [vectors[v] for v in voices[n]], caps[n], settings)
        _store(files[n], said)
        return said

    found: dict[int, Taught] = {}
    for n, said in shared_out(files, lambda n: _recall(files[n], caps[n]), make):
        found.update(zip(batches[n], said, strict=True))
        if progress is not None:
            progress(len(found))
    return [found[i] for i in range(len(lesson.sentences))]


def folder_of(identity: str) -> Path:
    """Where what a base says is kept."""
    return cache_dir() / FOLDER / digest(identity)[:16]


def _speak(
    opened: Opened, lesson: Lesson, texts: Sequence[str], vectors: Sequence[torch.Tensor], caps: Sequence[int], settings: Teacher
) -> list[Taught]:
    utterances = [speak.Utterance(t, lesson.spoken_as, v) for t, v in zip(texts, vectors, strict=True)]
    spoken = speak.speak(opened, utterances, layout=settings.layout, seed=settings.seed, max_frames=max(caps), **settings.sampling)
    codes = [s.codes[:cap] for s, cap in zip(spoken, caps, strict=True)]
    row = opened.language_row(lesson.spoken_as)
    examples = [
        prompt.Example(*opened.tokenizer.assistant(t), c, v, row, settings.layout, cut=len(c) >= cap)
        for t, c, v, cap in zip(texts, codes, vectors, caps, strict=True)
    ]
    return [Taught(e.codes, g, cap) for e, g, cap in zip(examples, guides(opened, examples), caps, strict=True)]


@torch.no_grad()
def guides(opened: Opened, examples: list[prompt.Example], top: int = TOP) -> list[Guide]:
    """The distributions of code 0 of examples, each read with its own codes as history."""
    batch = prompt.collate(examples, prompt.ControlIds.of(opened.config)).to(opened.device)
    opened.reset()
    with opened.autocast():
        logits = forward.speech_logits(forward.Tables(opened.talker), batch, opened.compute_dtype, with_predictor=False).talker
    opened.reset()
    assert logits is not None
    logs, codes = torch.log_softmax(logits.float(), 1).topk(min(top, logits.shape[1]), dim=1)
    sizes = [e.labels for e in examples]
    parts = zip(torch.split(codes.cpu(), sizes), torch.split(logs.cpu(), sizes), strict=True)
    return [Guide(c.clone(), p.clone()) for c, p in parts]


def _store(file: Path, said: list[Taught]) -> None:
    sealed.store(
        file,
        {
            "codes": torch.cat([s.codes for s in said]).to(torch.int16).contiguous(),
            "frames": torch.tensor([s.codes.shape[0] for s in said]),
            "labels": torch.tensor([s.guide.codes.shape[0] for s in said]),
            "likely": torch.cat([s.guide.codes for s in said]).to(torch.int16).contiguous(),
            "logs": torch.cat([s.guide.logs for s in said]).contiguous(),
        },
    )


def _recall(file: Path, caps: Sequence[int]) -> list[Taught] | None:
    found = sealed.recall(file, "codes", "frames", "labels", "likely", "logs")
    if found is None or len(found["frames"]) != len(caps):
        return None
    labels = found["labels"].tolist()
    codes = torch.split(found["codes"].to(torch.int64), found["frames"].tolist())
    likely, logs = torch.split(found["likely"].to(torch.int64), labels), torch.split(found["logs"], labels)
    return [Taught(c, Guide(i, p), cap) for c, i, p, cap in zip(codes, likely, logs, caps, strict=True)]
