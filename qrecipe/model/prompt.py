"""Prompt layouts: which text token, codec row, speaker vector and frame stand at which position of the talker's input.

One builder for training, evaluation and tests. It reproduces what stock `Qwen3TTSForConditionalGeneration.generate`
feeds the talker (modeling_qwen3_tts.py, `generate` and `generate_icl_prompt`), position by position: the sum of a
projected text token, a codec row, the speaker vector, or a frame (the sum of the tables of all its codes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from qrecipe.qwen3 import Layout

NONE = -1


@dataclass(frozen=True)
class ControlIds:
    """Token ids and codec rows with a meaning of their own, read from a base's config."""

    tts_pad: int
    tts_bos: int
    tts_eos: int
    pad: int
    bos: int
    eos: int
    think: int
    nothink: int
    think_bos: int
    think_eos: int

    @classmethod
    def of(cls, config: Any) -> ControlIds:
        """The ids of a stock config."""
        talker = config.talker_config
        return cls(
            tts_pad=config.tts_pad_token_id,
            tts_bos=config.tts_bos_token_id,
            tts_eos=config.tts_eos_token_id,
            pad=talker.codec_pad_id,
            bos=talker.codec_bos_id,
            eos=talker.codec_eos_token_id,
            think=talker.codec_think_id,
            nothink=talker.codec_nothink_id,
            think_bos=talker.codec_think_bos_id,
            think_eos=talker.codec_think_eos_id,
        )

    def prefix(self, language: int | None, speaker: bool) -> list[int]:
        """Codec rows before the text; `NONE` where the speaker vector stands.

        Args:
            language: the language's row of the codec embedding; None for the automatic prefix.
            speaker: whether there is a speaker vector.
        """
        thinking = [self.nothink, self.think_bos, self.think_eos]
        if language is not None:
            thinking = [self.think, self.think_bos, language, self.think_eos]
        return [*thinking, *([NONE] if speaker else []), self.pad]


@dataclass(frozen=True)
class Reference:
    """The part that in-context cloning adds to the prompt."""

    body: list[int]
    """Tokens of the reference's text."""
    frames: int
    """Frames of the reference."""


@dataclass(frozen=True)
class Positions:
    """One row of the talker's input. All lists have one entry a position; `NONE` where a part is absent."""

    text: list[int]
    """Token of the text embedding, projected; no position is without one."""
    codec: list[int]
    """Row of the codec embedding."""
    frame: list[int]
    """Frame whose codes are summed: index into the reference's frames followed by the row's own."""
    speaker: int
    """Position of the speaker vector, or `NONE`."""
    first: int
    """Position that predicts the row's frame 0; the next ones predict the later frames and then the end."""

    def __len__(self) -> int:
        return len(self.text)


def build(
    ids: ControlIds,
    text: tuple[list[int], list[int]],
    frames: int,
    *,
    layout: Layout,
    prefix: list[int],
    reference: Reference | None = None,
) -> Positions:
    """Lays out one row.

    Args:
        text: the template's first three tokens, and those of the text, at least one (`TextTokenizer.assistant`).
        frames: frames of speech that follow; 0 gives the prompt of a generation.
        layout: `streaming` (one text token a frame) or `non_streaming` (all text first).
        prefix: codec rows between role and text (`ControlIds.prefix`).
        reference: for in-context cloning.
    """
    role, body = text
    assert body, "a text has at least one token"

    # Role tokens stand alone; the prefix is summed with padding, its last row with the beginning of the text.
    tokens = [*role, *[ids.tts_pad] * (len(prefix) - 1), ids.tts_bos]
    codec = [*[NONE] * len(role), *prefix]
    frame = [NONE] * len(tokens)
    at_speaker = len(role) + prefix.index(NONE) if NONE in prefix else NONE

    offset = 0
    if reference is not None:
        # Text and frames of the reference come first, as if the row went on where the reference ends.
        offset = reference.frames
        spoken = [*reference.body, *body, ids.tts_eos]
        heard = 1 + reference.frames
        if layout == "non_streaming":
            tokens += [*spoken, *[ids.tts_pad] * heard]
            codec += [ids.pad] * len(spoken)
            frame += [NONE] * len(spoken)
        else:
            tokens += _filled(spoken, heard, ids.tts_pad)
        codec += [ids.bos, *[NONE] * reference.frames]
        frame += [NONE, *range(reference.frames)]
        trailing = spoken[heard:] if layout == "streaming" else []
    elif layout == "non_streaming":
        tokens += [*body, ids.tts_eos, ids.tts_pad]
        codec += [*[ids.pad] * (len(body) + 1), ids.bos]
        frame += [NONE] * (len(body) + 2)
        trailing = []
    else:
        tokens.append(body[0])
        codec.append(ids.bos)
        frame.append(NONE)
        trailing = [*body[1:], ids.tts_eos]

    # From the last position of the prompt on, each position predicts a frame and the next one holds it.
    first = len(tokens) - 1
    tokens += _filled(trailing, frames, ids.tts_pad)
    codec += [NONE] * frames
    frame += range(offset, offset + frames)
    return Positions(tokens, codec, frame, at_speaker, first)


def _filled(tokens: list[int], length: int, pad: int) -> list[int]:
    """The first `length` tokens, filled up."""
    return [*tokens[:length], *[pad] * (length - len(tokens))]


@dataclass(frozen=True)
class Example:
    """One row of speech, ready to be laid out."""

    role: list[int]
    body: list[int]
    codes: torch.Tensor
    """[frames, codebooks] int64."""
    x_vector: torch.Tensor | None
    """[hidden] float32; None for a prompt without a speaker."""
    language: int | None
    """Row of the language; None for the automatic prefix."""
    layout: Layout
    reference_body: list[int] | None = None
    reference_codes: torch.Tensor | None = None
    """[frames of the reference, codebooks] int64, with `reference_body`: in-context cloning."""
    cut: bool = False
    """The recording ends before the sentence does: the end is not learned."""

    @property
    def labels(self) -> int:
        """Labels of codebook 0: the frames, and the end unless the recording is cut."""
        return self.codes.shape[0] + (0 if self.cut else 1)


@dataclass(frozen=True)
class SpeechBatch:
    """Rows laid out and put end to end: N positions in all, G codebooks. Nothing is padded."""

    lengths: tuple[int, ...]
    """Positions of every row."""
    tokens: torch.Tensor
    """[distinct] text tokens that stand anywhere."""
    text: torch.Tensor
    """[N] index into `tokens`."""
    codec_at: torch.Tensor
    """Positions that hold a codec row."""
    codec: torch.Tensor
    """Which row that is."""
    frame_at: torch.Tensor
    """Positions that hold a frame."""
    frames: torch.Tensor
    """[frames heard, G] its codes."""
    speaker_at: torch.Tensor
    """Positions that hold a speaker vector."""
    x_vectors: torch.Tensor
    """[speakers, hidden] float32."""
    label_at: torch.Tensor
    """[labels] position that predicts each label of codebook 0."""
    labels: torch.Tensor
    """[labels] code 0, or the end."""
    frame_label: torch.Tensor
    """[frames] index into the labels, for those that are frames and not the end."""
    frame_codes: torch.Tensor
    """[frames, G] codes of every frame that is predicted."""
    entering: torch.Tensor | None = None
    """[N, hidden] what enters layer `first_layer`, where that is known already."""
    first_layer: int = 0
    """The layer that the batch starts at."""

    def pinned(self) -> SpeechBatch:
        """The same batch in memory that a GPU copies from while it computes."""
        return self._each(torch.Tensor.pin_memory)

    def to(self, device: torch.device) -> SpeechBatch:
        """The same batch on a device."""
        return self if device.type == "cpu" else self._each(lambda t: t.to(device, non_blocking=True))

    def _each(self, do: Callable[[torch.Tensor], torch.Tensor]) -> SpeechBatch:
        made: dict[str, Any] = {k: do(v) for k, v in self.__dict__.items() if isinstance(v, torch.Tensor)}
        return replace(self, **made)


def collate(examples: list[Example], ids: ControlIds) -> SpeechBatch:
    """Lays out examples and puts them end to end."""
    # Lists of numbers grow here, several times as fast as tensors would: one entry a position, a row or a label.
    lengths: list[int] = []
    text: list[int] = []
    codec: list[int] = []
    frame: list[int] = []
    before: list[int] = []
    speaker_at: list[int] = []
    label_at: list[int] = []
    frame_label: list[int] = []
    codes, x_vectors, labels = [], [], []
    heard = count = 0
    end = torch.tensor([ids.eos])
    for e in examples:
        reference = None
        if e.reference_body is not None and e.reference_codes is not None:
            reference = Reference(e.reference_body, e.reference_codes.shape[0])
            codes.append(e.reference_codes)
        n = e.codes.shape[0]
        prefix = ids.prefix(e.language, e.x_vector is not None)
        laid = build(ids, (e.role, e.body), n, layout=e.layout, prefix=prefix, reference=reference)
        start = len(text)
        lengths.append(len(laid))
        text += laid.text
        codec += laid.codec
        frame += laid.frame
        before.append(heard)
        codes.append(e.codes)
        heard += n + (reference.frames if reference is not None else 0)
        if e.x_vector is not None:
            speaker_at.append(start + laid.speaker)
            x_vectors.append(e.x_vector)
        label_at += range(start + laid.first, start + laid.first + e.labels)
        labels.append(e.codes[:, 0] if e.cut else torch.cat([e.codes[:, 0], end]))
        frame_label += range(count, count + n)
        count += e.labels

    # Every distinct text token is projected once; frames are numbered through all examples.
    tokens, which = torch.unique(_numbers(text), return_inverse=True)
    rows, shown = _numbers(codec), _numbers(frame)
    codec_at, frame_at = (torch.nonzero(t != NONE).squeeze(-1) for t in (rows, shown))
    shown = shown + _numbers(before).repeat_interleave(_numbers(lengths))
    return SpeechBatch(
        lengths=tuple(lengths),
        tokens=tokens,
        text=which,
        codec_at=codec_at,
        codec=rows[codec_at],
        frame_at=frame_at,
        frames=torch.cat(codes)[shown[frame_at]],
        speaker_at=_numbers(speaker_at),
        x_vectors=torch.stack(x_vectors) if x_vectors else torch.zeros((0, 1)),
        label_at=_numbers(label_at),
        labels=torch.cat(labels),
        frame_label=_numbers(frame_label),
        frame_codes=torch.cat([e.codes for e in examples]),
    )


def _numbers(values: list[int]) -> torch.Tensor:
    """A list as int64, several times as fast as torch makes one: batches are laid out beside what a GPU waits for."""
    return torch.from_numpy(np.fromiter(values, dtype=np.int64, count=len(values)))
