"""Speaking through stock `generate_voice_clone`, with the codes that it made.

Sampling follows the checkpoint's own generation_config. Transformers samples from one global generator, so that a
prompt's result depends on its batch-mates: a batch is the unit, seeded from its own content.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qrecipe.files import canonical_json
from qrecipe.model.load import LoadedBase
from qrecipe.model.stock import stock
from qrecipe.qwen3 import Layout


@dataclass(frozen=True)
class Utterance:
    """One thing to be said in one voice."""

    text: str
    language: str
    """Lower-case name, or `auto`."""
    x_vector: torch.Tensor
    """[hidden] float32."""
    reference_text: str | None = None
    reference_codes: torch.Tensor | None = None
    """[frames, codebooks], with `reference_text`: in-context cloning."""

    @property
    def in_context(self) -> bool:
        """Whether the reference's text and codes are part of the prompt."""
        return self.reference_codes is not None and self.reference_text is not None


@dataclass(frozen=True)
class Spoken:
    """One utterance as the model generated it."""

    codes: torch.Tensor
    """[frames, codebooks] int64 on the CPU, without the reference's."""
    audio: NDArray[np.float32]
    """[samples] at `rate`."""
    rate: int


def batch_seed(utterances: list[Utterance], layout: Layout, seed: int) -> int:
    """Seed of a batch: a hash of what is said, how, and the recipe's seed."""
    content = [[u.text, u.language, u.in_context] for u in utterances]
    digest = hashlib.sha256(canonical_json([content, layout, seed]).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def speak(
    opened: LoadedBase, utterances: list[Utterance], *, layout: Layout, seed: int, max_frames: int | None = None, **settings: Any
) -> list[Spoken]:
    """Speaks a batch. `max_frames` caps every utterance; `settings` override the checkpoint's sampling."""
    prompts = [
        stock().Prompt(
            ref_code=u.reference_codes.to(opened.device) if u.in_context and u.reference_codes is not None else None,
            ref_spk_embedding=u.x_vector.to(opened.device, opened.compute_dtype),
            x_vector_only_mode=not u.in_context,
            icl_mode=u.in_context,
            ref_text=u.reference_text if u.in_context else None,
        )
        for u in utterances
    ]
    if max_frames is not None:
        settings["max_new_tokens"] = max_frames + 1  # the last token's frame is never completed
    made: list[torch.Tensor] = []
    net = opened.net
    generate = net.generate

    def listening(**kwargs: Any) -> Any:
        codes, hidden = generate(**kwargs)
        made.extend(c.to("cpu", torch.int64) for c in codes)
        return codes, hidden

    opened.reset()
    net.generate = listening
    try:
        with torch.random.fork_rng(devices=[opened.device] if opened.device.type == "cuda" else []):
            torch.manual_seed(batch_seed(utterances, layout, seed))
            audios, rate = opened.wrapper.generate_voice_clone(
                text=[u.text for u in utterances],
                language=[u.language for u in utterances],
                voice_clone_prompt=prompts,
                non_streaming_mode=layout == "non_streaming",
                **settings,
            )
    finally:
        del net.generate  # the class's own method shows again
        opened.reset()
    return [Spoken(c, np.asarray(a, dtype=np.float32), int(rate)) for c, a in zip(made, audios, strict=True)]


@torch.inference_mode()
def sound(opened: LoadedBase, codes: list[torch.Tensor]) -> list[tuple[NDArray[np.float32], int]]:
    """Codes as waveforms, as stock `generate_voice_clone` decodes them: ([samples], rate) of each [frames, codebooks]."""
    audios, rate = opened.net.speech_tokenizer.decode([{"audio_codes": c.to(opened.device)} for c in codes])
    return [(np.asarray(a, dtype=np.float32), int(rate)) for a in audios]
