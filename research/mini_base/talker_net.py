"""The talker's and the predictor's forward pass for training from scratch: static shapes, plain tensors, one CUDA graph.

It computes what qrecipe.model.forward computes (research/tests holds both to the same losses) and adds what only a model
that cannot read yet needs: guided attention and a phoneme head. Adapting a base that reads needs neither, which is why
they are here and not among the recipe's objectives.

Names: B rows, T positions, F frames that are learned at most, R frames of a reference at most, G codebooks, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from voices import PHONEMES

NONE = -1
AHEAD = 2
"""Frames of which the phoneme head speaks: this one and the next, at a quarter and at three quarters of each."""


@dataclass(frozen=True)
class Rows:
    """A batch whose shapes never change."""

    text: Tensor
    """[B, T] token or NONE."""
    codec: Tensor
    """[B, T] codec row or NONE."""
    speaker: Tensor
    """[B] position of the speaker vector."""
    x_vector: Tensor
    """[B, H]."""
    start: Tensor
    """[B] position of the first frame that is heard (of the reference, if there is one)."""
    first: Tensor
    """[B] position that predicts frame 0."""
    heard: Tensor
    """[B, R + F, G] codes as heard: the reference's frames, then the row's own; noise may have changed them."""
    keep: Tensor
    """[B, R + F] which frames are heard at all."""
    codes: Tensor
    """[B, F, G] codes to be predicted."""
    frames: Tensor
    """[B] how many of them there are."""
    places: Tensor
    """[B, F] position of the text token that each frame speaks, or NONE."""
    phonemes: Tensor
    """[B, F, 2] at a quarter and at three quarters of each frame; 0 where unknown."""


@dataclass
class Sums:
    """Sums of losses with their counts."""

    talker: Tensor
    labels: Tensor
    predictor: Tensor
    codes: Tensor
    guide: Tensor
    phoneme: Tensor


Layer = Callable[..., tuple[Tensor, Tensor, Tensor]]


def rotary(length: int, width: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary positions, [1, 1, length, width]."""
    rate = theta ** -(torch.arange(0, width, 2, device=device).float() / width)
    angle = torch.arange(length, device=device).float()[:, None] * rate
    angle = torch.cat([angle, angle], -1)
    return angle.cos()[None, None], angle.sin()[None, None]


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def decoder_layer(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    w: tuple[Tensor, ...],
    heads: int,
    groups: int,
    width: int,
    eps: float,
    drop: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """One Qwen3 decoder layer on plain tensors; also the first head's rotated queries and keys [B, T, width]."""
    norm1, wq, wk, wv, normq, normk, wo, norm2, gate, up, down = w
    size, length, _ = x.shape

    def norm(z: Tensor, scale: Tensor) -> Tensor:
        return F.rms_norm(z.float(), (z.shape[-1],), scale, eps)

    y = norm(x, norm1)
    q = norm(F.linear(y, wq).view(size, length, heads, width), normq).transpose(1, 2)
    k = norm(F.linear(y, wk).view(size, length, groups, width), normk).transpose(1, 2)
    v = F.linear(y, wv).view(size, length, groups, width).transpose(1, 2).to(dtype)
    q, k = _turned(q, cos, sin).to(dtype), _turned(k, cos, sin).to(dtype)
    query, key = q[:, 0], k[:, 0]
    if groups != heads:
        k, v = k.repeat_interleave(heads // groups, 1), v.repeat_interleave(heads // groups, 1)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(size, length, heads * width)
    out = F.linear(out, wo)
    x = x + (F.dropout(out, drop) if drop else out)
    y = norm(x, norm2)
    out = F.linear(F.silu(F.linear(y, gate)) * F.linear(y, up), down)
    return x + (F.dropout(out, drop) if drop else out), query, key


class Net(torch.nn.Module):
    """The stock talker with its predictor, driven by `decoder_layer`."""

    def __init__(self, talker: Any, guided: tuple[int, ...], layer: Layer = decoder_layer) -> None:
        """`talker` is a stock Qwen3TTSTalkerForConditionalGeneration; `guided` are layers whose first head is guided."""
        super().__init__()
        self.talker = talker
        self.guided = guided
        self.layer = layer
        self.groups: int = talker.config.num_code_groups
        self.eos: int = talker.config.codec_eos_token_id
        self.phoneme_head = torch.nn.Linear(talker.config.hidden_size, 2 * AHEAD * PHONEMES)
        self._rotary: dict[tuple[int, int, str], tuple[Tensor, Tensor]] = {}

    def _stack(self, model: Any, config: Any, x: Tensor, drop: float, watch: Callable[[Tensor, Tensor], None] | None) -> Tensor:
        width, length = config.head_dim, x.shape[1]
        place = (length, width, str(x.device))
        if place not in self._rotary:
            self._rotary[place] = rotary(length, width, config.rope_theta, x.device)
        dtype = torch.bfloat16 if x.is_cuda else x.dtype
        for number, block in enumerate(model.layers):
            a, m = block.self_attn, block.mlp
            modules = (block.input_layernorm, a.q_proj, a.k_proj, a.v_proj, a.q_norm, a.k_norm, a.o_proj)
            modules += (block.post_attention_layernorm, m.gate_proj, m.up_proj, m.down_proj)
            weights = tuple(module.weight for module in modules)
            eps = block.input_layernorm.variance_epsilon
            x, query, key = self.layer(
                x, *self._rotary[place], weights, config.num_attention_heads, config.num_key_value_heads, width, eps, drop, dtype
            )
            if watch is not None and number in self.guided:
                watch(query, key)
        return F.rms_norm(x.float(), (x.shape[-1],), model.norm.weight.float(), model.norm.variance_epsilon)

    def _tables(self) -> list[Any]:
        return [self.talker.model.codec_embedding, *self.talker.code_predictor.model.codec_embedding]

    def inputs(self, rows: Rows) -> Tensor:
        """The talker's input [B, T, H], float32."""
        model = self.talker.model
        x = self.talker.text_projection(model.text_embedding(rows.text.clamp(min=0))).float() * (rows.text >= 0)[..., None]
        x = x + model.codec_embedding(rows.codec.clamp(min=0)) * (rows.codec >= 0)[..., None]
        frames = torch.stack([table(rows.heard[..., g]) for g, table in enumerate(self._tables())]).sum(0) * rows.keep[..., None]
        at = torch.arange(rows.text.shape[1], device=x.device)[None]
        k = at - rows.start[:, None]
        present = (k >= 0) & (k < (rows.first - rows.start + 1 + rows.frames)[:, None])
        index = k.clamp(0, frames.shape[1] - 1)[..., None].expand(-1, -1, frames.shape[-1])
        x = x + torch.gather(frames, 1, index) * present[..., None]
        return x + rows.x_vector[:, None] * (at == rows.speaker[:, None])[..., None]

    def forward(self, rows: Rows, drop: float = 0.0, guide: bool = False, phonemes: bool = False, predicted: int = 0) -> Sums:
        """Sums of all losses.

        Args:
            guide, phonemes: whether those terms are wanted.
            predicted: frames of the batch (drawn at random) that the predictor learns; 0 for all.
        """
        device = rows.text.device
        size, most = rows.codes.shape[:2]
        step = torch.arange(most + 1, device=device)[None]
        at = (rows.first[:, None] + step).clamp(max=rows.text.shape[1] - 1)  # what lies behind a row's end is never learned
        zero = torch.zeros((), device=device)
        guides: list[Tensor] = []

        def watch(query: Tensor, key: Tensor) -> None:
            asked = torch.gather(query, 1, at[..., None].expand(-1, -1, query.shape[-1]))
            score = asked.float() @ key.float().transpose(1, 2) / query.shape[-1] ** 0.5
            later = torch.arange(score.shape[-1], device=device)[None, None] > at[..., None]
            log = score.masked_fill(later, -1e9).log_softmax(-1)[:, :most]
            # a token that has not been heard yet cannot be attended to
            known = (rows.places >= 0) & (step[:, :most] < rows.frames[:, None]) & (rows.places <= at[:, :most])
            loss = -torch.gather(log, 2, rows.places.clamp(min=0)[..., None])[..., 0]
            guides.append((loss * known).sum() / known.sum().clamp(min=1))

        hidden = self._stack(self.talker.model, self.talker.config, self.inputs(rows), drop, watch if guide else None)
        hidden = torch.gather(hidden, 1, at[..., None].expand(-1, -1, hidden.shape[-1]))
        logits = self.talker.codec_head(hidden).float()
        code0 = F.pad(rows.codes[..., 0], (0, 1))
        label = torch.where(step < rows.frames[:, None], code0, torch.where(step == rows.frames[:, None], self.eos, -100))
        talker = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), label.reshape(-1), ignore_index=-100, reduction="sum")
        mine = step[:, :most] < rows.frames[:, None]

        phoneme = zero
        if phonemes:
            score = self.phoneme_head(hidden[:, :most]).float().view(size, most, 2 * AHEAD, PHONEMES)
            wanted = torch.cat([torch.roll(rows.phonemes, -k, 1) for k in range(AHEAD)], 2)
            inside = torch.stack([step[:, :most] + k < rows.frames[:, None] for k in range(AHEAD)], 2).repeat_interleave(2, 2)
            wanted = torch.where(inside & (wanted > 0), wanted, -100)
            phoneme = F.cross_entropy(score.reshape(-1, PHONEMES), wanted.reshape(-1), ignore_index=-100, reduction="sum")
            phoneme = phoneme / (wanted >= 0).sum().clamp(min=1)

        flat, codes, real = hidden[:, :most].reshape(size * most, -1), rows.codes.reshape(size * most, -1), mine.reshape(-1)
        if predicted and predicted < len(real):
            chosen = (torch.rand(len(real), device=device) * real).topk(predicted).indices
            flat, codes, real = flat[chosen], codes[chosen], real[chosen]
        return Sums(
            talker,
            (label >= 0).sum(),
            self._predictor(flat, codes, real),
            real.sum() * (self.groups - 1),
            torch.stack(guides).mean() if guides else zero,
            phoneme,
        )

    def _predictor(self, hidden: Tensor, codes: Tensor, real: Tensor) -> Tensor:
        """Cross-entropy of codes 1 to G-1, summed over the real frames."""
        predictor = self.talker.code_predictor
        parts = [hidden.float(), *(table(codes[:, g]).float() for g, table in enumerate(self._tables()[:-1]))]
        out = self._stack(predictor.model, predictor.model.config, predictor.small_to_mtp_projection(torch.stack(parts, 1)), 0.0, None)
        total = torch.zeros((), device=hidden.device)
        for g, head in enumerate(predictor.lm_head):
            label = torch.where(real, codes[:, g + 1], -100)
            total = total + F.cross_entropy(head(out[:, g + 1]).float(), label, ignore_index=-100, reduction="sum")
        return total


def scale_init(talker: Any, codes: int) -> None:
    """Starts every part of the talker's input at the same loudness: text, codec rows and whole frames.

    Stock initialisation leaves projected text 20 times quieter than a codec row, and a talker learns late that it is there.

    Args:
        talker: a stock talker, changed in place.
        codes: entries of a codebook.
    """
    model, predictor, projection = talker.model, talker.code_predictor, talker.text_projection
    groups = talker.config.num_code_groups
    with torch.no_grad():
        text = model.text_embedding.weight.normal_(0, 1.0)
        for linear in (projection.linear_fc1, projection.linear_fc2):
            linear.weight.normal_(0, linear.in_features**-0.5)
            linear.bias.zero_()
        projection.linear_fc2.weight.mul_(0.5 / projection(text).std())
        model.codec_embedding.weight.normal_(0, 0.5)
        model.codec_embedding.weight[:codes].mul_(groups**-0.5)
        for table in predictor.model.codec_embedding:
            table.weight.normal_(0, 0.5 * groups**-0.5)
        for stack in (model, predictor.model):
            for block in stack.layers:
                a, m = block.self_attn, block.mlp
                for linear in (a.q_proj, a.k_proj, a.v_proj, m.gate_proj, m.up_proj):
                    linear.weight.normal_(0, linear.in_features**-0.5)
                for linear in (a.o_proj, m.down_proj):
                    linear.weight.normal_(0, linear.in_features**-0.5 * (2 * len(stack.layers)) ** -0.5)
        narrowing = predictor.small_to_mtp_projection
        if hasattr(narrowing, "weight"):
            narrowing.weight.normal_(0, narrowing.in_features**-0.5)
