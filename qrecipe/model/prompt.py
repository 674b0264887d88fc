"""Prompt layouts: which text token, codec row, speaker vector and frame stand at which position of the talker's input.

One builder for training, evaluation and tests. It reproduces what stock `Qwen3TTSForConditionalGeneration.generate`
feeds the talker (modeling_qwen3_tts.py, `generate` and `generate_icl_prompt`), position by position: the sum of a
projected text token, a codec row, the speaker vector, or a frame (the sum of the tables of all its codes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

Layout = Literal["streaming", "non_streaming"]
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


@dataclass(frozen=True)
class Reference:
    """What in-context cloning adds to the prompt."""

    body: list[int]
    """Tokens of the reference's text."""
    frames: int
    """Frames of the reference."""


@dataclass(frozen=True)
class Positions:
    """One row of the talker's input. All lists have one entry a position; `NONE` where a part is absent."""

    text: list[int]
    """Token of the text embedding, projected."""
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
    role: list[int],
    body: list[int],
    frames: int,
    *,
    layout: Layout,
    language: int | None,
    speaker: bool,
    reference: Reference | None = None,
) -> Positions:
    """Lays out one row.

    Args:
        role: the template's first three tokens.
        body: the text's tokens, at least one.
        frames: frames of speech that follow; 0 gives the prompt of a generation.
        layout: `streaming` (one text token a frame) or `non_streaming` (all text first).
        language: the language's row of the codec embedding; None for the automatic prefix.
        speaker: whether there is a speaker vector.
        reference: for in-context cloning.
    """
    assert body, "a text has at least one token"
    text: list[int] = list(role)
    codec: list[int] = [NONE] * len(role)
    thinking = [ids.nothink, ids.think_bos, ids.think_eos] if language is None else [ids.think, ids.think_bos, language, ids.think_eos]
    prefix = thinking + ([NONE] if speaker else []) + [ids.pad]
    at_speaker = len(text) + len(thinking) if speaker else NONE
    text += [ids.tts_pad] * (len(prefix) - 1) + [ids.tts_bos]
    codec += prefix
    frame: list[int] = [NONE] * len(text)

    def put(t: int, c: int = NONE, f: int = NONE) -> None:
        text.append(t)
        codec.append(c)
        frame.append(f)

    offset = 0
    if reference is not None:
        offset = reference.frames
        spoken = [*reference.body, *body, ids.tts_eos]
        heard: list[tuple[int, int]] = [(ids.bos, NONE), *((NONE, k) for k in range(reference.frames))]
        if layout == "non_streaming":
            for t in spoken:
                put(t, ids.pad)
            for c, f in heard:
                put(ids.tts_pad, c, f)
            trailing: list[int] = []
        else:
            for j, (c, f) in enumerate(heard):
                put(spoken[j] if j < len(spoken) else ids.tts_pad, c, f)
            trailing = spoken[len(heard) :]
    elif layout == "non_streaming":
        for t in [*body, ids.tts_eos]:
            put(t, ids.pad)
        put(ids.tts_pad, ids.bos)
        trailing = []
    else:
        put(body[0], ids.bos)
        trailing = [*body[1:], ids.tts_eos]
    first = len(text) - 1
    for k in range(frames):
        put(trailing[k] if k < len(trailing) else ids.tts_pad, NONE, offset + k)
    return Positions(text, codec, frame, at_speaker, first)


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
    """Rows laid out and padded on the right to the longest. B rows, T positions, F frames at most, G codebooks."""

    text: torch.Tensor
    """[B, T] token or NONE."""
    codec: torch.Tensor
    """[B, T] codec row or NONE."""
    frame: torch.Tensor
    """[B, T] index into `codes` or NONE."""
    speaker: torch.Tensor
    """[B] position or NONE."""
    x_vectors: torch.Tensor
    """[B, hidden] float32, zero where there is none."""
    codes: torch.Tensor
    """[B, F, G] reference frames followed by the row's own, zero-padded."""
    label_row: torch.Tensor
    """[labels] row of every label of codebook 0."""
    label_position: torch.Tensor
    """[labels] position that predicts it."""
    labels: torch.Tensor
    """[labels] code 0, or the end."""
    frame_label: torch.Tensor
    """[frames] index into the labels, for those that are frames and not the end."""
    frame_codes: torch.Tensor
    """[frames, G] codes of every frame that is predicted."""

    def to(self, device: torch.device) -> SpeechBatch:
        """The same batch on a device."""
        return SpeechBatch(**{k: v.to(device, non_blocking=True) for k, v in self.__dict__.items()})


def collate(examples: list[Example], ids: ControlIds) -> SpeechBatch:
    """Lays out examples and pads them to a batch."""
    laid = []
    for e in examples:
        reference = None
        if e.reference_body is not None and e.reference_codes is not None:
            reference = Reference(e.reference_body, e.reference_codes.shape[0])
        laid.append(
            build(
                ids,
                e.role,
                e.body,
                e.codes.shape[0],
                layout=e.layout,
                language=e.language,
                speaker=e.x_vector is not None,
                reference=reference,
            )
        )
    all_codes = [
        e.codes if e.reference_codes is None or e.reference_body is None else torch.cat([e.reference_codes, e.codes]) for e in examples
    ]
    size, length = len(examples), max(len(p) for p in laid)
    hidden = next((e.x_vector.shape[0] for e in examples if e.x_vector is not None), 1)
    groups = examples[0].codes.shape[1]
    text = torch.full((size, length), NONE)
    codec, frame = text.clone(), text.clone()
    codes = torch.zeros((size, max(c.shape[0] for c in all_codes), groups), dtype=torch.int64)
    x_vectors = torch.zeros((size, hidden))
    rows, positions, labels, frame_label, frame_codes = [], [], [], [], []
    count = 0
    for b, (e, p, c) in enumerate(zip(examples, laid, all_codes, strict=True)):
        text[b, : len(p)] = torch.tensor(p.text)
        codec[b, : len(p)] = torch.tensor(p.codec)
        frame[b, : len(p)] = torch.tensor(p.frame)
        codes[b, : c.shape[0]] = c
        if e.x_vector is not None:
            x_vectors[b] = e.x_vector
        n = e.codes.shape[0]
        rows += [b] * e.labels
        positions += list(range(p.first, p.first + e.labels))
        labels.append(e.codes[:, 0] if e.cut else torch.cat([e.codes[:, 0], torch.tensor([ids.eos])]))
        frame_label += list(range(count, count + n))
        frame_codes.append(e.codes)
        count += e.labels
    return SpeechBatch(
        text=text,
        codec=codec,
        frame=frame,
        speaker=torch.tensor([p.speaker for p in laid]),
        x_vectors=x_vectors,
        codes=codes,
        label_row=torch.tensor(rows),
        label_position=torch.tensor(positions),
        labels=torch.cat(labels),
        frame_label=torch.tensor(frame_label, dtype=torch.int64),
        frame_codes=torch.cat(frame_codes),
    )
