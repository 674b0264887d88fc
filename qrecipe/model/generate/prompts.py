"""Utterances to generate, and the random numbers that belong to each."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from qrecipe.files import canonical_json
from qrecipe.model import prompt
from qrecipe.model.prompt import ControlIds, Example
from qrecipe.qwen3 import Layout


@dataclass(frozen=True)
class Prompt:
    """One utterance to be generated."""

    role: list[int]
    """The template's first three tokens."""
    body: list[int]
    """The text's tokens, at least one."""
    language: int | None
    """Row of the language; None for the automatic prefix."""
    layout: Layout
    x_vector: torch.Tensor | None
    """[hidden] float32; None for no speaker."""
    reference_body: list[int] | None = None
    reference_codes: torch.Tensor | None = None
    """[frames, codebooks] int64, with `reference_body`: in-context cloning."""
    seed: int = 0
    number: int = 0
    """Number among prompts of equal content and seed, see `numbered`."""
    max_frames: int | None = None
    """Frames at which this utterance is cut; None for the sampling's own limit."""

    @cached_property
    def content(self) -> str:
        """Hash of what is said and how, the seed included: what random numbers are keyed by."""
        fields = [self.role, self.body, self.language, self.layout, self.reference_body, self.seed]
        digest = hashlib.sha256(canonical_json(fields).encode())
        for tensor, kind in ((self.x_vector, np.float32), (self.reference_codes, np.int64)):
            digest.update(b"|" if tensor is None else np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=kind).tobytes())
        return digest.hexdigest()

    @cached_property
    def length(self) -> int:
        """Positions of the prompt."""
        return self._positions(0).first + 1

    def trailing(self, ids: ControlIds, frames: int) -> list[int]:
        """The text token that is added to each of the first `frames` frames."""
        laid = self._positions(frames, ids)
        return laid.text[laid.first + 1 :]

    def example(self, groups: int) -> Example:
        """The prompt as a row of speech without frames."""
        return Example(
            self.role,
            self.body,
            torch.zeros((0, groups), dtype=torch.int64),
            self.x_vector,
            self.language,
            self.layout,
            self.reference_body,
            None if self.reference_codes is None else self.reference_codes.cpu(),
        )

    def uniforms(self, frames: int, groups: int) -> NDArray[np.float32]:
        """[frames, groups] numbers in [0, 1): the same on every machine, in every batch, and for every number of frames."""
        key = hashlib.sha256(f"{self.content} {self.number}".encode()).digest()[:16]
        raw = np.random.Philox(key=int.from_bytes(key, "big")).random_raw(frames * groups)
        return ((raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)).reshape(frames, groups)

    def _positions(self, frames: int, ids: ControlIds | None = None) -> prompt.Positions:
        reference = None
        if self.reference_body is not None and self.reference_codes is not None:
            reference = prompt.Reference(self.reference_body, len(self.reference_codes))
        ids = ids or ControlIds(*[0] * 10)
        prefix = ids.prefix(self.language, self.x_vector is not None)
        return prompt.build(ids, (self.role, self.body), frames, layout=self.layout, prefix=prefix, reference=reference)


def numbered(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts with their number among equals, so that two of the same content do not say the same."""
    counts: Counter[str] = Counter()
    numbered = []
    for one in prompts:
        numbered.append(replace(one, number=counts[one.content]))
        counts[one.content] += 1
    return numbered
