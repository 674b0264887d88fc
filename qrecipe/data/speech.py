"""Speech datasets ready to train and to judge: rows with codes, references and x-vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from qrecipe.data.likeness import Fingerprint, is_one_sound
from qrecipe.errors import Problem
from qrecipe.inputs.texts import near_key
from qrecipe.inputs.tokenizer import TextTokenizer
from qrecipe.model.prompt import Example
from qrecipe.qwen3 import FRAMES_PER_SECOND, Layout, PromptKind

OnProgress = Callable[[str, int, int], None]
"""Called with (dataset or activity, done, of)."""


@dataclass(frozen=True)
class SoftTargets:
    """The base's distribution of code 0 at every frame of one sentence and at its end."""

    codes: torch.Tensor
    """[labels, TOP] int64, the most likely first."""
    logs: torch.Tensor
    """[labels, TOP] float32, their log probabilities over the whole vocabulary, nats."""

    @property
    def left_over(self) -> torch.Tensor:
        """Probability of all other codes, [labels]."""
        return (1.0 - self.logs.double().exp().sum(1)).clamp(min=0.0).float()


@dataclass(frozen=True)
class SpeechRow:
    """A row of speech with everything that training and judging need."""

    line: int
    text: str
    role: list[int]
    body: list[int]
    codes: torch.Tensor
    """[frames, codebooks] int64."""
    seconds: float
    trimmed: float
    speaker: str
    reference: Path | None
    """The recording that gives the voice; None if the row has none."""
    reference_text: str | None
    cut: bool
    audio: Path | None = None
    soft_targets: SoftTargets | None = None
    """Of a row that the base itself spoke."""
    heard: Fingerprint | None = None
    """Of a row with a recording: its fingerprint and the seconds of its speech."""

    @classmethod
    def of_text(cls, line: int, text: str, role: list[int], body: list[int], frames: int, groups: int) -> SpeechRow:
        """A sentence that nobody has read: as many frames as readers usually take, without content, and no voice."""
        codes = torch.zeros((frames, groups), dtype=torch.int64)
        return cls(line, text, role, body, codes, frames / FRAMES_PER_SECOND, 0.0, "", None, None, True)

    @property
    def frames(self) -> int:
        """Frames of the row."""
        return int(self.codes.shape[0])


@dataclass
class SpeechData:
    """A prepared speech dataset."""

    name: str
    language: str
    """Lower-case name."""
    rows: list[SpeechRow]
    skipped: list[Problem] = field(default_factory=list)
    """Problems of the rows that cannot be used, the first ones of a kind."""
    unshown: int = 0
    """Rows that cannot be used beyond those in `skipped`."""
    x_vectors: dict[Path, torch.Tensor] = field(default_factory=dict)
    """By reference."""
    reference_codes: dict[Path, torch.Tensor] = field(default_factory=dict)
    """By reference, for in-context prompts."""

    @property
    def rows_skipped(self) -> int:
        """Rows that cannot be used."""
        return len(self.skipped) + self.unshown

    @property
    def seconds(self) -> float:
        """Speech after trimming."""
        return sum(r.seconds - r.trimmed for r in self.rows)

    def example(self, row: SpeechRow, language: int | None, layout: Layout, prompt: PromptKind | None, tokenizer: TextTokenizer) -> Example:
        """A row as an example. `prompt` None: in-context where the reference's text is known, else the x-vector."""
        in_context = prompt == "in_context" or (prompt is None and row.reference_text is not None)
        reference_body = reference_codes = None
        if in_context and row.reference is not None and row.reference_text is not None:
            reference_body = tokenizer.reference(row.reference_text)
            reference_codes = self.reference_codes[row.reference]
        return Example(
            role=row.role,
            body=row.body,
            codes=row.codes,
            x_vector=self.x_vectors[row.reference] if row.reference is not None else None,
            language=language,
            layout=layout,
            reference_body=reference_body,
            reference_codes=reference_codes,
            cut=row.cut,
        )


def same_sound(a: SpeechRow, b: SpeechRow) -> bool:
    """Whether two rows hold the same recording, in whatever file."""
    if a.heard is not None and b.heard is not None:
        return is_one_sound(a.heard, b.heard)
    return torch.equal(a.codes, b.codes)


def distinct(data: SpeechData) -> SpeechData:
    """Without rows that repeat the text and the sound of an earlier one: as prompts they would make intervals narrower than they are."""
    seen: dict[str, list[SpeechRow]] = {}
    rows = []
    for row in data.rows:
        alike = seen.setdefault(near_key(row.text), [])
        if not any(same_sound(row, other) for other in alike):
            rows.append(row)
            alike.append(row)
    return replace(data, rows=rows)
