"""The objective `text_lm`: rows of the text embedding learn from text alone, through the frozen talker.

The talker reads role, language prefix and the text body as it would before speaking. A temporary linear map takes its
hidden states back to the text embedding's space; the next token is predicted among the seen rows by their embeddings.
The map is fitted first, with the embedding fixed, and thrown away afterwards. An anchor keeps rows near the base's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from qrecipe.data.batches import Item, Micro
from qrecipe.model import forward, prompt
from qrecipe.model.opened import Opened
from qrecipe.recipe.stage import TextLmStage
from qrecipe.train.objective import Losses


@dataclass(frozen=True)
class TextData:
    """A text dataset ready to train."""

    name: str
    language: str
    """Lower-case name."""
    bodies: list[list[int]]
    """Tokens of every text."""
    lines: list[int] = field(default_factory=list)
    """Line of the manifest of every text."""


class TextLmObjective:
    """Next-token prediction over the seen rows."""

    def __init__(
        self, stage: TextLmStage, opened: Opened, tables: forward.Tables, data: dict[str, TextData], seen: list[int], seed: int
    ) -> None:
        """`seen` are the rows of the text embedding that are predicted."""
        self.stage = stage
        self.opened = opened
        self.tables = tables
        self.data = data
        self.weights = {"text": 1.0}
        self.ids = prompt.ControlIds.of(opened.config)
        device = opened.device
        self.seen = torch.tensor(seen, dtype=torch.int64, device=device)
        self._seen_ids = set(seen)
        self._class = torch.full((opened.talker.model.text_embedding.weight.shape[0],), -100, dtype=torch.int64, device=device)
        self._class[self.seen] = torch.arange(len(seen), device=device)
        weight = opened.talker.model.text_embedding.weight.detach()
        self._base = weight[self.seen].float().clone()
        self._scale = self._base.pow(2).sum(1).mean()
        hidden = int(opened.config.talker_config.hidden_size)
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"text_lm:{seed}".encode()).digest()[:4], "big"))
        initial = torch.randn(weight.shape[1], hidden, generator=generator) * hidden**-0.5
        self.map = torch.nn.Parameter(initial.to(device))
        self.bias = torch.nn.Parameter(torch.zeros(len(seen), device=device))

    def lengths(self) -> dict[str, list[int]]:
        """Text tokens by dataset."""
        return {name: [len(b) for b in d.bodies] for name, d in self.data.items()}

    def labels(self, micro: Micro, step: int) -> dict[str, int]:
        """Tokens that have one before them and are among the seen rows."""
        return {"text": sum(t in self._seen_ids for i in micro for t in self.data[i.dataset].bodies[i.index][1:])}

    def losses(self, micro: Micro, step: int) -> Losses:
        """Sum of the cross-entropy over a micro-batch."""
        hidden, labels = self._hidden(micro)
        logits = self._logits(hidden)
        return Losses({"text": F.cross_entropy(logits, labels, reduction="sum")})

    def extra(self) -> torch.Tensor:
        """The anchor: mean squared distance to the base's rows over their mean squared norm."""
        moved = self.tables.text(self.seen).float() - self._base
        anchor: torch.Tensor = self.stage.anchor * moved.pow(2).sum(1).mean() / self._scale
        return anchor

    def fit(self, batches: Callable[[], Micro], progress: Callable[[int, float], None] | None = None) -> float:
        """Fits the temporary map with the embedding fixed; returns its last loss, nats per token."""
        optimizer = torch.optim.AdamW([self.map, self.bias], lr=self.stage.fit_lr, weight_decay=0.0)
        last = float("nan")
        for step in range(self.stage.fit_steps):
            with torch.no_grad(), self.opened.autocast():
                hidden, labels = self._hidden(batches())
            if labels.numel() == 0:
                continue
            loss = F.cross_entropy(self._logits(hidden), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
            optimizer.step()
            last = float(loss.detach())
            if progress is not None:
                progress(step + 1, last)
        self._fix()
        return last

    def name(self, item: Item) -> str:
        """`DATASET:LINE`."""
        lines = self.data[item.dataset].lines
        return f"{item.dataset}:{lines[item.index] if lines else item.index + 1}"

    def state(self) -> dict[str, torch.Tensor]:
        """The temporary map, as it was fitted."""
        return {"map": self.map, "bias": self.bias}

    @torch.no_grad()
    def set_state(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over a map that was fitted before."""
        self.map.copy_(state["map"].to(self.map.device))
        self.bias.copy_(state["bias"].to(self.bias.device))
        self._fix()

    def _fix(self) -> None:
        self.map.requires_grad_(False)
        self.bias.requires_grad_(False)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        rows = self.tables.text(self.seen).float()
        logits: torch.Tensor = (hidden.float() @ self.map.T) @ rows.T / self._scale.sqrt() + self.bias
        return logits

    def _hidden(self, micro: Micro) -> tuple[torch.Tensor, torch.Tensor]:
        """States that predict a token, [labels, hidden], and the tokens' numbers among the seen rows, [labels]."""
        role = self.opened.tokenizer.assistant("a")[0]
        laid = []
        for item in micro:
            data = self.data[item.dataset]
            body = data.bodies[item.index]
            row = self.opened.language_row(data.language)
            positions = prompt.build(self.ids, role, body, 0, layout="non_streaming", language=row, speaker=False)
            laid.append((positions, len(positions) - len(body) - 2, body))
        length = max(start + len(body) for _, start, body in laid)
        text = torch.full((len(laid), length), prompt.NONE)
        codec = text.clone()
        rows: list[int] = []
        at: list[int] = []
        tokens: list[int] = []
        for b, (positions, start, body) in enumerate(laid):
            n = start + len(body)
            text[b, :n] = torch.tensor(positions.text[:n])
            codec[b, :n] = torch.tensor(positions.codec[:n])
            rows += [b] * (len(body) - 1)
            at += range(start, n - 1)
            tokens += body[1:]
        device = self.opened.device
        text, codec = text.to(device), codec.to(device)
        has_text, has_codec = (text != prompt.NONE).unsqueeze(-1), (codec != prompt.NONE).unsqueeze(-1)
        x = self.opened.talker.text_projection(self.tables.text(text.clamp(min=0))) * has_text
        x = x + self.tables.codec(codec.clamp(min=0)) * has_codec
        states = self.opened.talker.model(inputs_embeds=x.to(self.opened.compute_dtype), use_cache=False).last_hidden_state
        labels = self._class[torch.tensor(tokens, dtype=torch.int64, device=device)]
        known = labels >= 0
        picked = states[torch.tensor(rows, dtype=torch.int64, device=device), torch.tensor(at, dtype=torch.int64, device=device)]
        return picked[known], labels[known]
