"""The objective `text_lm`: rows of the text embedding learn from text alone, through the frozen talker.

The talker reads role, language prefix and the text body as it would before speaking. A temporary linear map takes its
hidden states back to the text embedding's space; the next token is predicted among the seen rows by their embeddings.
The map is fitted first, with the embedding fixed, and thrown away afterwards. An anchor keeps rows near the base's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from qrecipe.data.batches import Item, Micro
from qrecipe.data.text import TextData
from qrecipe.model import attention, forward, layers, prompt
from qrecipe.model.load import LoadedBase
from qrecipe.recipe.stage import TextLmStage
from qrecipe.train.objectives.objective import Objective, ObjectiveInputs
from qrecipe.train.observer import Observer


class TextLmObjective(Objective):
    """Next-token prediction over the seen rows."""

    def __init__(
        self, stage: TextLmStage, opened: LoadedBase, tables: forward.Tables, data: dict[str, TextData], seen: list[int], seed: int
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

    @classmethod
    def build(cls, stage: TextLmStage, inputs: ObjectiveInputs) -> TextLmObjective:
        """Predicts the tokens of texts in the recipe's own languages, but for those of the template."""
        own = [d for d in inputs.text.values() if d.language in inputs.languages]
        special = set(inputs.opened.tokenizer.special.values())
        seen = sorted({t for d in own for body in d.bodies for t in body} - special)
        return cls(stage, inputs.opened, inputs.tables, dict(inputs.text), seen, inputs.seed)

    def lengths(self) -> dict[str, list[int]]:
        """Text tokens by dataset."""
        return {name: [len(b) for b in d.bodies] for name, d in self.data.items()}

    def count_labels(self, batch: Sequence[Micro]) -> dict[str, int]:
        """Tokens that have one before them and are among the seen rows."""
        bodies = [self.data[i.dataset].bodies[i.index] for micro in batch for i in micro]
        return {"text": sum(t in self._seen_ids for body in bodies for t in body[1:])}

    def loss_sums(self, micro: Micro, step: int) -> dict[str, torch.Tensor]:
        """Sum of the cross-entropy over a micro-batch."""
        hidden, labels = self._hidden(micro)
        logits = self._logits(hidden)
        return {"text": F.cross_entropy(logits, labels, reduction="sum")}

    def anchor(self) -> torch.Tensor:
        """Mean squared distance to the base's rows over their mean squared norm, times its weight."""
        moved = self.tables.text(self.seen).float() - self._base
        anchor: torch.Tensor = self.stage.anchor * moved.pow(2).sum(1).mean() / self._scale
        return anchor

    def fit(self, batches: Iterator[list[Micro]], observer: Observer) -> None:
        """Fits the temporary map with the embedding fixed, on the first micro-batch of each batch."""
        optimizer = torch.optim.AdamW([self.map, self.bias], lr=self.stage.fit_lr, weight_decay=0.0)
        last = float("nan")
        for step in range(self.stage.fit_steps):
            with torch.no_grad(), self.opened.autocast():
                hidden, labels = self._hidden(next(batches)[0])
            if labels.numel() == 0:
                continue
            loss = F.cross_entropy(self._logits(hidden), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
            optimizer.step()
            last = float(loss.detach())
            observer.progress("fitting", step=step + 1, of=self.stage.fit_steps, loss=last)
        self._fix()
        observer.event("fitted", loss=last)

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
        text: list[int] = []
        codec: list[int] = []
        at: list[int] = []
        predicted: list[int] = []
        lengths = []
        for item in micro:
            data = self.data[item.dataset]
            body = data.bodies[item.index]
            row = self.opened.language_row(data.language)
            positions = prompt.build(self.ids, (role, body), 0, layout="non_streaming", prefix=self.ids.prefix(row, speaker=False))
            end = len(positions) - 2  # the end of the text and the start of speech are not read
            at += range(len(text) + end - len(body), len(text) + end - 1)
            predicted += body[1:]
            text += positions.text[:end]
            codec += positions.codec[:end]
            lengths.append(end)
        device = self.opened.device
        labels = self._class[torch.tensor(predicted, dtype=torch.int64, device=device)]
        known = labels >= 0
        read = torch.tensor(at, dtype=torch.int64, device=device)[known]
        tokens, which = torch.unique(torch.tensor(text), return_inverse=True)
        rows = torch.tensor(codec)
        codec_at = torch.nonzero(rows != prompt.NONE).squeeze(-1)
        x = F.embedding(which.to(device), self.opened.talker.text_projection(self.tables.text(tokens.to(device))).float())
        x.index_add_(0, codec_at.to(device), self.tables.codec(rows[codec_at].to(device)).float())
        x = x.to(self.opened.compute_dtype)
        return layers.decode(self.opened.talker.model, x, attention.PackedRows(lengths, device), lambda t: t[read]), labels[known]
