"""The aligned forward pass and its losses.

The position before frame k predicts code 0 of frame k (the end after the last frame); its hidden state, not the
frame's own, feeds the predictor. Each cross-entropy is computed here, shifted exactly once, as a sum over labels.
The weights are those of the stock modules, nothing of which is patched; `layers` calls them without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from qrecipe.model import attention, layers
from qrecipe.model.kernels import fused
from qrecipe.model.prompt import NONE, SpeechBatch
from qrecipe.qwen3 import CODEC_TABLE, TEXT_TABLE


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

    def replace(self, ids: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """`found` [..., width] looked up by `ids` [...], with the subset's rows in place of the table's."""
        at = self.index[ids]
        mine = F.embedding(at.clamp(min=0), self.values).to(embeddings.dtype)  # whose derivative has one order of summation
        return torch.where((at >= 0).unsqueeze(-1), mine, embeddings)


@dataclass
class Tables:
    """Embedding look-ups that see row subsets in place of the frozen rows."""

    talker: Any
    subsets: dict[str, list[RowSubset]] = field(default_factory=dict)
    """By tensor name."""
    recompute: bool = False
    """Whether layers are computed again in the backward pass, for a stage that would not fit into memory otherwise."""

    def _look_up(self, name: str, weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = F.embedding(ids, weight)
        for subset in self.subsets.get(name, ()):
            embeddings = subset.replace(ids, embeddings)
        return embeddings

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
    """Logits and hidden states of a batch, in the number format that the model computes in."""

    talker: torch.Tensor | None
    """[labels, codec vocabulary], or None if it was not asked for."""
    predictor: torch.Tensor | None
    """[frames, G - 1, codebook size], or None if it was not asked for."""


def input_embeddings(tables: Tables, batch: SpeechBatch, dtype: torch.dtype) -> torch.Tensor:
    """The talker's input, rows end to end: [N, hidden]. Every distinct text token is projected once; sums are float32."""
    return summed_embeddings(tables, batch, tables.talker.text_projection(tables.text(batch.tokens)), dtype)


def summed_embeddings(tables: Tables, batch: SpeechBatch, projected: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`input_embeddings` of text tokens that are projected already, [distinct, hidden]."""
    x = F.embedding(batch.text, projected.float())
    x.index_add_(0, batch.codec_at, tables.codec(batch.codec).float())
    if batch.frames.shape[0]:
        first, *others = tables.codes(batch.frames)
        heard = first.float()
        for embedded in others:
            heard = heard + embedded
        x.index_add_(0, batch.frame_at, heard)
    if batch.speaker_at.numel():
        x.index_add_(0, batch.speaker_at, batch.x_vectors)
    return x.to(dtype)


def label_hidden(tables: Tables, batch: SpeechBatch, dtype: torch.dtype) -> torch.Tensor:
    """Hidden states of the positions that predict labels: [labels, hidden]."""
    x = input_embeddings(tables, batch, dtype) if batch.entering is None else batch.entering
    rows = attention.PackedRows(batch.lengths, x.device)
    return layers.decode(tables.talker.model, x, rows, lambda t: t[batch.label_at], slice(batch.first_layer, None), tables.recompute)


def predictor_logits(tables: Tables, hidden: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Logits of codes 1 to G-1 of frames, [frames, G - 1, codebook size].

    `hidden` [frames, hidden] are the states that predicted the frames; `codes` [frames, G] are the frames. The input
    is the hidden state, then code 0, then codes 1 to G-2; output i+1 predicts code i+1 through head i.
    """
    predictor = tables.talker.code_predictor
    count, groups = codes.shape
    embedded = tables.codes(codes)[:-1]
    x = torch.stack([hidden, *(e.to(hidden.dtype) for e in embedded)], dim=1).flatten(0, 1)
    x = predictor.small_to_mtp_projection(x)
    read = layers.decode(
        predictor.model,
        x,
        attention.PackedRows((groups,) * count, x.device, fixed=True),
        lambda t: t.view(count, groups, -1)[:, 1:].flatten(0, 1),
        recompute=tables.recompute,
    ).view(count, groups - 1, -1)
    if all(type(head) is torch.nn.Linear for head in predictor.lm_head):
        weight = torch.stack([head.weight for head in predictor.lm_head])
        return torch.bmm(read.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)
    return torch.stack([head(read[:, i]) for i, head in enumerate(predictor.lm_head)], dim=1)


def speech_logits(
    tables: Tables, batch: SpeechBatch, dtype: torch.dtype, with_predictor: bool = True, with_talker: bool = True
) -> SpeechLogits:
    """Runs talker and predictor over a batch with the recording's own codes as history."""
    hidden = label_hidden(tables, batch, dtype)
    talker = tables.talker.codec_head(hidden) if with_talker else None
    predictor = predictor_logits(tables, hidden[batch.frame_label], batch.frame_codes) if with_predictor else None
    return SpeechLogits(talker, predictor)


def talker_nll(logits: SpeechLogits, batch: SpeechBatch) -> torch.Tensor:
    """Negative log-likelihood of every label of codebook 0, over the whole vocabulary: [labels] float32, nats."""
    assert logits.talker is not None
    return fused.nll(logits.talker, batch.labels)


def predictor_nll(logits: SpeechLogits, batch: SpeechBatch) -> torch.Tensor:
    """Negative log-likelihood of codes 1 to G-1 of every frame: [frames, G - 1] float32, nats."""
    assert logits.predictor is not None
    return codes_nll(logits.predictor, batch.frame_codes)


def codes_nll(logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of codes 1 to G-1: [frames, G - 1, codebook size] and [frames, G] -> [frames, G - 1] float32, nats."""
    return fused.nll(logits.flatten(0, 1), codes[:, 1:].flatten()).view(len(codes), -1)
