"""Synthetic speech: sentences spoken by the untouched base, with its own distribution of code 0 at every frame.

A batch is spoken, read again by the base with its own codes as history, and stored by everything that it depends on. Speaking that was interrupted resumes with the first batch that
is not stored; processes that want the same dataset at once share its batches out.

Of a distribution the `TOP` most likely codes are stored; all others are one outcome more. The divergence over these
outcomes is a lower bound of the whole one, at a sixteenth of the size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from qrecipe.data.codes import Encoder
from qrecipe.data.speech import SoftTargets, SpeechData, SpeechRow
from qrecipe.errors import Place
from qrecipe.files import cache_dir
from qrecipe.model import forward, prompt, speak
from qrecipe.model.generate import speech
from qrecipe.model.load import LoadedBase
from qrecipe.phases import phase
from qrecipe.plan.fingerprints import GENERATION
from qrecipe.plan.synthetic import GPU_BATCH, SYNTHESIS, TOP, SyntheticDataset
from qrecipe.qwen3 import FRAMES_PER_SECOND
from qrecipe.recipe.teacher import Teacher
from qrecipe.store import TensorStore, key_of

FOLDER = "taught"
"""Folder of the cache."""
TEACHER_FORCED = 64
"""Sentences that the base reads again at once."""
_TENSORS = ("codes", "frames", "labels", "likely", "logs")


def folder_of(identity: str) -> Path:
    """Where the speech of a base, named by its content, is stored."""
    return cache_dir() / FOLDER / key_of(identity, 16)


def synthesize(
    opened: LoadedBase,
    encoder: Encoder,
    identity: str,
    dataset: SyntheticDataset,
    settings: Teacher,
    progress: Callable[[int], None] | None = None,
) -> SpeechData:
    """Has the base speak a dataset, except for batches that are stored. Rows are in the order of the sentences.

    A row that did not end before its cap is `cut`. Raises `AudioProblem` for a voice that cannot be read.

    Args:
        opened: the base; its modules must hold its own weights.
        encoder: gives the x-vectors of the voices.
        identity: content of the base.
        progress: called with the number of sentences that are spoken.
    """
    vectors = {v: encoder.voice(v).x_vector for v in dataset.voices}
    voice_hashes = {v: encoder.hashes.sha256(v) for v in dataset.voices}
    size = max(settings.batch, GPU_BATCH) if opened.device.type == "cuda" else settings.batch
    batches = list(dataset.batches(size))
    requests = [
        speech.Request(
            speak.Utterance(s.spoken, dataset.spoken_as, vectors[dataset.voice(i)]),
            settings.layout,
            settings.seed,
            dataset.cap(i, settings.slowest),
            Place(dataset.name, s.line),
        )
        for i, s in enumerate(dataset.sentences)
    ]

    # a batch is stored by all that its speech depends on: engine, base, settings, and its own sentences
    def key(batch: list[int]) -> str:
        sentences = [[dataset.sentences[i].spoken, voice_hashes[dataset.voice(i)], dataset.cap(i, settings.slowest)] for i in batch]
        inputs = [SYNTHESIS, GENERATION, TOP, identity, dataset.spoken_as, settings.layout, settings.seed, settings.sampling, sentences]
        return key_of(inputs, 40)

    @cache
    def script() -> speech.Script:  # for all batches, once one is missing
        return speech.prepare(opened, requests, **settings.sampling)

    def make(n: int) -> dict[str, torch.Tensor]:
        return _speak(opened, script(), batches[n])

    # processes that want the same batches share them out, so they are ready in any order
    rows: dict[int, SpeechRow] = {}
    store = TensorStore(folder_of(identity), *_TENSORS)
    for n, tensors in store.get_or_make([key(b) for b in batches], make):
        codes = torch.split(tensors["codes"].to(torch.int64), tensors["frames"].tolist())
        labels = tensors["labels"].tolist()
        targets = zip(torch.split(tensors["likely"].to(torch.int64), labels), torch.split(tensors["logs"], labels), strict=True)
        for i, c, t in zip(batches[n], codes, targets, strict=True):
            rows[i] = _row(dataset, i, c, SoftTargets(*t), len(c) >= dataset.cap(i, settings.slowest), opened)
        if progress is not None:
            progress(len(rows))
    return SpeechData(dataset.name, dataset.language, [rows[i] for i in range(len(rows))], x_vectors=vectors)


def _speak(opened: LoadedBase, script: speech.Script, batch: list[int]) -> dict[str, torch.Tensor]:
    """Speech of one batch of a dataset's script, and the distributions that it was drawn from."""
    with phase("speaking"):
        spoken = dict(speech.speak(opened, script, batch))
    codes = [spoken[i] for i in batch]
    examples = []
    for i, c in zip(batch, codes, strict=True):
        p = script.prompts[i]
        cut = p.max_frames is not None and len(c) >= p.max_frames
        examples.append(prompt.Example(p.role, p.body, c, p.x_vector, p.language, p.layout, cut=cut))
    parts = [examples[i : i + TEACHER_FORCED] for i in range(0, len(examples), TEACHER_FORCED)]
    with phase("likelihood"):
        targets = [t for part in parts for t in soft_targets(opened, part)]
    return {
        "codes": torch.cat(codes).to(torch.int16).contiguous(),
        "frames": torch.tensor([len(c) for c in codes]),
        "labels": torch.tensor([len(t.codes) for t in targets]),
        "likely": torch.cat([t.codes for t in targets]).to(torch.int16).contiguous(),
        "logs": torch.cat([t.logs for t in targets]).contiguous(),
    }


@torch.no_grad()
def soft_targets(opened: LoadedBase, examples: list[prompt.Example], top: int = TOP) -> list[SoftTargets]:
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
    return [SoftTargets(c.clone(), p.clone()) for c, p in parts]


def _row(dataset: SyntheticDataset, i: int, codes: torch.Tensor, targets: SoftTargets, cut: bool, opened: LoadedBase) -> SpeechRow:
    """A sentence as the student reads it, with the speech of the base."""
    sentence, voice = dataset.sentences[i], dataset.voice(i)
    role, body = opened.tokenizer.assistant(sentence.text)
    return SpeechRow(
        line=sentence.line,
        text=sentence.text,
        role=role,
        body=body,
        codes=codes,
        seconds=len(codes) / FRAMES_PER_SECOND,
        trimmed=0.0,
        speaker=voice.name,
        reference=voice,
        reference_text=None,
        cut=cut,
        soft_targets=targets,
    )
