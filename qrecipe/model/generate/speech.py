"""Utterances to codes and sound: what evaluation, synthetic speech and `say` ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qrecipe.model.generate import Prompt, Sampling, numbered, stream
from qrecipe.model.load import LoadedBase
from qrecipe.model.speak import Utterance
from qrecipe.qwen3 import Layout


@dataclass(frozen=True)
class Request:
    """An utterance and how it is to be spoken."""

    utterance: Utterance
    layout: Layout
    seed: int
    max_frames: int | None = None
    """Frames at which it is cut; None for the checkpoint's own limit."""


def speak(
    opened: LoadedBase, requests: Sequence[Request], *, only: Sequence[int] | None = None, **settings: Any
) -> Iterator[tuple[int, torch.Tensor]]:
    """(Index of a request, its codes [frames, groups] int64 on the CPU), each as soon as it is done.

    Args:
        requests: of a whole task; equal ones say different things.
        only: indices of those that are wanted, by default all. The others change nothing.
        settings: override the checkpoint's sampling, by the names of stock `generate_voice_clone`.
    """
    prompts = numbered([_prompt(opened, r) for r in requests])
    wanted = range(len(prompts)) if only is None else only
    sampling = Sampling.of(opened.wrapper, **settings)
    for i, codes in stream(opened, [prompts[i] for i in wanted], sampling, task=len(prompts)):
        yield wanted[i], codes


def _prompt(opened: LoadedBase, request: Request) -> Prompt:
    u = request.utterance
    reference = opened.tokenizer.reference(u.reference_text) if u.in_context and u.reference_text is not None else None
    codes = u.reference_codes if u.in_context else None
    language = opened.language_row(u.language)
    role, body = opened.tokenizer.assistant(u.text)
    return Prompt(role, body, language, request.layout, u.x_vector, reference, codes, request.seed, max_frames=request.max_frames)


@torch.inference_mode()
def sound(opened: LoadedBase, codes: Sequence[torch.Tensor], utterances: Sequence[Utterance]) -> list[tuple[NDArray[np.float32], int]]:
    """([samples], Hz) of every utterance's codes, as stock `generate_voice_clone` decodes them: behind a reference's frames.

    On a CPU one after the other, so that a sound does not depend on what is decoded beside it.
    """
    heads = [u.reference_codes if u.in_context else None for u in utterances]
    whole = [c if h is None else torch.cat([h.to(c.device), c]) for h, c in zip(heads, codes, strict=True)]
    parts = [whole] if opened.device.type == "cuda" else [[c] for c in whole]
    decoder = opened.net.speech_tokenizer
    audios = []
    for part in parts:
        decoded, rate = decoder.decode([{"audio_codes": c.to(opened.device)} for c in part])
        audios += [(audio, int(rate)) for audio in decoded]
    sounds = []
    for (audio, rate), head, c in zip(audios, heads, whole, strict=True):
        start = 0 if head is None else int(len(head) / max(len(c), 1) * len(audio))
        sounds.append((np.asarray(audio[start:], dtype=np.float32), rate))
    return sounds
