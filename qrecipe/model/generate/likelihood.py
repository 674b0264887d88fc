"""Log-probabilities of codes that were drawn: those of the sampling's own distribution, so with all that it bars or scales."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qrecipe.model.forward import SpeechLogits
from qrecipe.model.generate.sampling import CONTROL_ROWS, MIN_FRAMES, Draw, Sampling
from qrecipe.model.prompt import SpeechBatch


def plain(temperature: float) -> Sampling:
    """Sampling that nothing but a temperature shapes: no top-k, no top-p, no penalty. The end is barred where stock bars it."""
    draw = Draw(temperature=temperature, top_k=0)
    return Sampling(draw, draw, repetition_penalty=1.0)


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities of the codes of a batch, nats."""

    talker: torch.Tensor | None
    """[labels] of code 0, the ends included."""
    predictor: torch.Tensor | None
    """[frames, G - 1] of the other codes."""

    def detach(self) -> LogProbs:
        """The same without gradients."""
        return LogProbs(*(None if t is None else t.detach() for t in (self.talker, self.predictor)))


def log_probs(logits: SpeechLogits, batch: SpeechBatch, rows: list[int], end: int, temperature: float) -> LogProbs:
    """Log-probabilities under `plain(temperature)` of the codes that the batch holds.

    Args:
        logits: of the batch; terms that were not computed have no log-probabilities.
        rows: labels of each row, in order.
        end: the code that ends speech.
    """
    talker = predictor = None
    if logits.talker is not None:
        scores = logits.talker.float() / temperature
        codes = torch.arange(scores.shape[1], device=scores.device)
        barred = (codes >= len(codes) - CONTROL_ROWS) & (codes != end)
        frame = torch.cat([torch.arange(n) for n in rows]).to(scores.device)
        early = (frame < MIN_FRAMES).unsqueeze(1) & (codes == end)
        scores = scores.masked_fill(barred | early, -torch.inf)
        talker = torch.log_softmax(scores, 1).gather(1, batch.labels.unsqueeze(1)).squeeze(1)
    if logits.predictor is not None:
        scores = logits.predictor.float() / temperature
        predictor = torch.log_softmax(scores, 2).gather(2, batch.frame_codes[:, 1:].unsqueeze(2)).squeeze(2)
    return LogProbs(talker, predictor)
