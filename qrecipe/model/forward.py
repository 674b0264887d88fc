"""The aligned forward pass and its losses.

The position before frame k predicts code 0 of frame k (the end after the last frame); its hidden state, not the
frame's own, feeds the predictor. Each cross-entropy is computed here, shifted exactly once, as a sum over labels.
The stock modules are called as they are; nothing of them is patched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from qrecipe.model.prompt import NONE, SpeechBatch
from qrecipe.plan.trainable import CODEC_TABLE, TEXT_TABLE


class RowSubset(torch.nn.Module):
    """Rows of an embedding table as a small parameter of their own; every other row stays in the frozen table."""

    def __init__(self, table: torch.Tensor, rows: Sequence[int]) -> None:
        """`table` is [height, width]; `rows` are distinct row numbers."""
        super().__init__()
        self.ids: torch.Tensor
        self.index: torch.Tensor
        self.register_buffer("ids", torch.tensor(list(rows), dtype=torch.int64, device=table.device))
        index = torch.full((table.shape[0],), NONE, dtype=torch.int64, device=table.device)
        index[self.ids] = torch.arange(len(rows), device=table.device)
        self.register_buffer("index", index)
        self.values = torch.nn.Parameter(table.detach()[self.ids].float())

    def replace(self, ids: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """`found` [..., width] looked up by `ids` [...], with the subset's rows in place of the table's."""
        at = self.index[ids]
        mine = self.values[at.clamp(min=0)].to(found.dtype)
        return torch.where((at >= 0).unsqueeze(-1), mine, found)


@dataclass
class Tables:
    """Embedding look-ups that see row subsets in place of the frozen rows."""

    talker: Any
    subsets: dict[str, list[RowSubset]] = field(default_factory=dict)
    """By tensor name."""

    def _look_up(self, name: str, weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = F.embedding(ids, weight)
        for subset in self.subsets.get(name, ()):
            found = subset.replace(ids, found)
        return found

    def text(self, ids: torch.Tensor) -> torch.Tensor:
        """Text embedding, before the projection: [...] -> [..., text hidden]."""
        return self._look_up(TEXT_TABLE, self.talker.model.text_embedding.weight, ids)

    def codec(self, ids: torch.Tensor) -> torch.Tensor:
        """Codec embedding: [...] -> [..., hidden]."""
        return self._look_up(CODEC_TABLE, self.talker.model.codec_embedding.weight, ids)

    def codes(self, codes: torch.Tensor) -> list[torch.Tensor]:
        """Embeddings of every codebook of frames: [..., G] -> G tensors [..., hidden]."""
        others = self.talker.code_predictor.model.codec_embedding
        return [self.codec(codes[..., 0])] + [table(codes[..., i + 1]) for i, table in enumerate(others)]


@dataclass(frozen=True)
class SpeechLogits:
    """What the model says about a batch."""

    talker: torch.Tensor
    """[labels, codec vocabulary] float32."""
    predictor: torch.Tensor | None
    """[frames, G - 1, codebook size] float32, or None if it was not asked for."""


def input_embeddings(tables: Tables, batch: SpeechBatch, dtype: torch.dtype) -> torch.Tensor:
    """The talker's input [B, T, hidden]. Text is masked after its projection, whose bias makes padding non-zero."""
    talker = tables.talker
    has_text = (batch.text != NONE).unsqueeze(-1)
    projected = talker.text_projection(tables.text(batch.text.clamp(min=0)))
    x = torch.where(has_text, projected, torch.zeros((), dtype=projected.dtype, device=projected.device))
    codec = tables.codec(batch.codec.clamp(min=0))
    x = x + torch.where((batch.codec != NONE).unsqueeze(-1), codec, torch.zeros((), dtype=codec.dtype, device=codec.device))
    frames = torch.stack(tables.codes(batch.codes)).sum(0)
    at = batch.frame.clamp(min=0).unsqueeze(-1).expand(-1, -1, frames.shape[-1])
    heard = torch.gather(frames, 1, at)
    x = x + torch.where((batch.frame != NONE).unsqueeze(-1), heard, torch.zeros((), dtype=heard.dtype, device=heard.device))
    rows = torch.nonzero(batch.speaker != NONE).squeeze(-1)
    if rows.numel():
        spoken = torch.zeros_like(x)
        spoken[rows, batch.speaker[rows]] = batch.x_vectors[rows].to(x.dtype)
        x = x + spoken
    return x.to(dtype)


def label_hidden(tables: Tables, batch: SpeechBatch, dtype: torch.dtype) -> torch.Tensor:
    """Hidden states of the positions that predict labels: [labels, hidden]."""
    x = input_embeddings(tables, batch, dtype)
    hidden: torch.Tensor = tables.talker.model(inputs_embeds=x, use_cache=False).last_hidden_state
    return hidden[batch.label_row, batch.label_position]


def predictor_logits(tables: Tables, hidden: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Logits of codes 1 to G-1 of frames, [frames, G - 1, codebook size] float32.

    `hidden` [frames, hidden] are the states that predicted the frames; `codes` [frames, G] are the frames. The input
    is the hidden state, then code 0, then codes 1 to G-2; output i+1 predicts code i+1 through head i.
    """
    predictor = tables.talker.code_predictor
    embedded = tables.codes(codes)[:-1]
    x = torch.stack([hidden, *(e.to(hidden.dtype) for e in embedded)], dim=1)
    out = predictor.model(inputs_embeds=predictor.small_to_mtp_projection(x), use_cache=False).last_hidden_state
    return torch.stack([head(out[:, i + 1]) for i, head in enumerate(predictor.lm_head)], dim=1).float()


def speech_logits(tables: Tables, batch: SpeechBatch, dtype: torch.dtype, with_predictor: bool = True) -> SpeechLogits:
    """Runs talker and predictor over a batch with the recording's own codes as history."""
    hidden = label_hidden(tables, batch, dtype)
    talker = tables.talker.codec_head(hidden).float()
    predictor = predictor_logits(tables, hidden[batch.frame_label], batch.frame_codes) if with_predictor else None
    return SpeechLogits(talker, predictor)


def talker_nll(logits: SpeechLogits, batch: SpeechBatch) -> torch.Tensor:
    """Negative log-likelihood of every label of codebook 0, over the whole vocabulary: [labels], nats."""
    return F.cross_entropy(logits.talker, batch.labels, reduction="none")


def predictor_nll(logits: SpeechLogits, batch: SpeechBatch) -> torch.Tensor:
    """Negative log-likelihood of codes 1 to G-1 of every frame: [frames, G - 1], nats."""
    assert logits.predictor is not None
    vocabulary = logits.predictor.shape[-1]
    flat = F.cross_entropy(logits.predictor.reshape(-1, vocabulary), batch.frame_codes[:, 1:].reshape(-1), reduction="none")
    return flat.view(batch.frame_codes.shape[0], -1)
