"""Utterances to codes and sound: what evaluation, synthetic speech and `say` ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qrecipe.errors import DataError, Place, Problem, Problems, suggest
from qrecipe.model.generate import Prompt, Sampling, numbered, stream
from qrecipe.model.load import LoadedBase
from qrecipe.model.speak import Utterance
from qrecipe.model.speak import sound as decoded
from qrecipe.model.threads import each_on_one
from qrecipe.qwen3 import Layout


@dataclass(frozen=True)
class Request:
    """An utterance and how it is to be spoken."""

    utterance: Utterance
    layout: Layout
    seed: int
    max_frames: int | None = None
    """Frames at which it is cut; None for the checkpoint's own limit."""
    place: Place = field(default_factory=lambda: Place("TEXT"), compare=False)
    """Where a person finds the text, for problems."""


@dataclass(frozen=True)
class Script:
    """Requests of a whole task, ready to be spoken in any parts."""

    requests: Sequence[Request]
    prompts: Sequence[Prompt]
    """Of the requests; equal ones are numbered, so that they say different things."""
    sampling: Sampling


def prepare(opened: LoadedBase, requests: Sequence[Request], **settings: Any) -> Script:
    """Lays out all requests of a task, once for however many parts they are spoken in.

    `settings` override the checkpoint's sampling, by the names of stock `generate_voice_clone`.
    Raises `DataError` with every text, language, voice and length that the model cannot speak.
    """
    sampling = Sampling.of(opened.wrapper, **settings)
    prompts, problems = [], Problems()
    for request in requests:
        result = _prompt(opened, request, sampling)
        if isinstance(result, Problem):
            problems.append(result)
        else:
            prompts.append(result)
    problems.raise_any(DataError)
    return Script(requests, numbered(prompts), sampling)


def speak(opened: LoadedBase, script: Script, only: Sequence[int] | None = None) -> Iterator[tuple[int, torch.Tensor]]:
    """(Index of a request, its codes [frames, groups] int64 on the CPU), each as soon as it is done.

    `only` are the requests that are wanted, by default all. The others change nothing.
    """
    wanted = range(len(script.prompts)) if only is None else only
    for i, codes in stream(opened, [script.prompts[i] for i in wanted], script.sampling, task=len(script.prompts)):
        yield wanted[i], codes


def _prompt(opened: LoadedBase, request: Request, sampling: Sampling) -> Prompt | Problem:
    """A request as the model reads it, or why the model cannot speak it."""
    u, config = request.utterance, opened.config.talker_config
    why = opened.tokenizer.text_problem(u.text)
    if why is None and u.in_context:
        why = opened.tokenizer.text_problem(u.reference_text or "")
    if why is not None:
        return Problem("QR042", why, request.place)
    if u.language != "auto" and u.language not in config.codec_language_id:
        help_ = suggest(u.language, config.codec_language_id)
        return Problem("QR020", f"the model has no row for `{u.language}`", request.place, help_)
    if tuple(u.x_vector.shape) != (config.hidden_size,):
        message = f"the voice has {u.x_vector.numel()} numbers, and the model reads {config.hidden_size}"
        return Problem("QR045", message, request.place, "take the x-vector with the speaker encoder of this base")

    reference = opened.tokenizer.reference(u.reference_text) if u.in_context and u.reference_text is not None else None
    codes = u.reference_codes if u.in_context else None
    role, body = opened.tokenizer.assistant(u.text)
    row, cut = opened.language_row(u.language), request.max_frames
    prompt = Prompt(role, body, row, request.layout, u.x_vector, reference, codes, request.seed, max_frames=cut)

    # rotations are known for so many positions
    positions = prompt.length + min(sampling.max_frames, cut or sampling.max_frames)
    if positions > config.max_position_embeddings:
        message = f"prompt and speech take {positions:,} positions, and the model has {config.max_position_embeddings:,}"
        return Problem("QR042", message, request.place, "shorten the text or its reference")
    return prompt


@torch.inference_mode()
def sound(opened: LoadedBase, codes: Sequence[torch.Tensor], utterances: Sequence[Utterance]) -> list[tuple[NDArray[np.float32], int]]:
    """([samples], Hz) of every utterance's codes, as stock `generate_voice_clone` decodes them: behind a reference's frames.

    On a CPU each alone and on one thread, so that a sound does not depend on what is decoded beside it.
    """
    heads = [u.reference_codes if u.in_context else None for u in utterances]
    whole = [c if h is None else torch.cat([h.to(c.device), c]) for h, c in zip(heads, codes, strict=True)]
    if opened.device.type == "cpu":
        audios = [audio for (audio,) in each_on_one(lambda c: decoded(opened, [c]), whole)]
    else:
        audios = decoded(opened, whole)
    sounds = []
    for (audio, rate), head, c in zip(audios, heads, whole, strict=True):
        start = 0 if head is None else int(len(head) / max(len(c), 1) * len(audio))
        sounds.append((np.asarray(audio[start:], dtype=np.float32), rate))
    return sounds
