"""Speech datasets ready to train and to judge: rows with codes, references and x-vectors, and a report of what they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from qrecipe.data.audio import AudioProblem, rate_problem
from qrecipe.data.codes import Encoded, Encoder, Request
from qrecipe.data.taught import Guide
from qrecipe.errors import DataError, Place, Problem
from qrecipe.model.prompt import Example
from qrecipe.plan.manifest import Manifest, Row
from qrecipe.plan.tokenizer import TextTokenizer
from qrecipe.qwen3 import SAMPLE_RATE, Layout, PromptKind
from qrecipe.recipe.dataset import SpeechDataset

Progress = Callable[[str, int, int], None]
"""Told (dataset, done, of)."""


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
    guide: Guide | None = None
    """What the base thought of every frame, for a row that the base itself spoke."""

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
    """Problems of the rows that were left out."""
    x_vectors: dict[Path, torch.Tensor] = field(default_factory=dict)
    """By reference."""
    reference_codes: dict[Path, torch.Tensor] = field(default_factory=dict)
    """By reference, for in-context prompts."""

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


def prepare(
    name: str,
    dataset: SpeechDataset,
    manifest: Manifest,
    encoder: Encoder,
    tokenizer: TextTokenizer,
    *,
    reference: Path | None,
    streaming_only: bool = False,
    need_reference: bool = True,
    progress: Progress | None = None,
) -> SpeechData:
    """Encodes and checks a dataset.

    Args:
        reference: the dataset's own reference.
        streaming_only: rows with more text tokens than frames cannot be used.
        need_reference: rows without any reference recording cannot be used; otherwise they have no speaker.

    Raises `DataError` with every row's problem if `on_bad_row` is `stop`, or if no row is left.
    """
    shown = dataset.path
    problems = list(manifest.problems)
    requests = [Request(r.audio, True, dataset.max_seconds) for r in manifest.rows if r.codes is None and r.audio is not None]
    tell = (lambda done: progress(name, done, len(requests))) if progress is not None else None
    encoded = iter(encoder.codes(requests, tell))
    rows: list[tuple[Row, Encoded]] = []
    groups = encoder.opened.groups
    for row in manifest.rows:
        place = Place(shown, row.line, 1)
        if row.codes is not None:
            codes = torch.tensor(row.codes, dtype=torch.int64)
            if codes.shape[1] != groups:
                problems.append(Problem("QR041", f"`audio_codes` has {codes.shape[1]} codebooks, the base has {groups}", place))
                continue
            highest = int(codes[:, 1:].max())
            if highest >= encoder.opened.codebook_size:
                message = f"`audio_codes` has code {highest}, the base's codebooks end at {encoder.opened.codebook_size - 1}"
                problems.append(Problem("QR041", message, place))
                continue
            result: Encoded | AudioProblem = Encoded(codes, codes.shape[0] * encoder.opened.samples_per_frame / SAMPLE_RATE, 0.0)
        else:
            result = next(encoded)
        if isinstance(result, AudioProblem):
            problems.append(Problem("QR043", f"{row.audio.name if row.audio else 'the recording'}: {result}", place))
            continue
        tokens, frames = len(tokenizer.assistant(row.text)[1]), result.codes.shape[0]
        why, help_ = rate_problem(row.text, result.seconds - result.trimmed), None
        if why is None and streaming_only and tokens > frames:
            why = f"{tokens} text tokens and {frames} frames: the speech ends before its text arrives under `layout: streaming`"
            help_ = "use `layout: non_streaming` or `mixed`"
        if why is not None:
            problems.append(Problem("QR044", why, place, help_))
            continue
        rows.append((row, result))
    data = SpeechData(name, dataset.language, [])
    data.rows = _with_references(rows, dataset, reference, tokenizer, problems, shown, need_reference)
    _read_references(data, encoder, problems, shown)
    if problems and (dataset.on_bad_row == "stop" or not data.rows):
        raise DataError(problems)
    data.skipped = problems
    if not data.rows:
        raise DataError(Problem("QR041", f"`{name}` has no usable row", Place(shown)))
    return data


def _with_references(
    rows: list[tuple[Row, Encoded]],
    dataset: SpeechDataset,
    reference: Path | None,
    tokenizer: TextTokenizer,
    problems: list[Problem],
    shown: str,
    need_reference: bool,
) -> list[SpeechRow]:
    """Gives every row its reference: its own, else the dataset's, else the next clip of the same speaker, never itself."""
    by_speaker: dict[str, list[int]] = {}
    for i, (row, _) in enumerate(rows):
        if row.audio is not None:
            by_speaker.setdefault(row.speaker or "", []).append(i)
    found = []
    for i, (row, encoded) in enumerate(rows):
        path, text = row.reference, row.reference_text
        if need_reference and path is not None and row.audio is not None and path.resolve() == row.audio.resolve():
            path, text = None, None  # a clip that is its own voice would teach copying
        if path is None and reference is not None and reference != row.audio:
            path, text = reference, dataset.reference_text
        if path is None:
            others = [j for j in by_speaker.get(row.speaker or "", []) if j != i and rows[j][0].audio != row.audio]
            if others:
                other = rows[next((j for j in others if j > i), others[0])][0]
                path, text = other.audio, other.text
        if path is None and need_reference:
            message = "no reference recording: no other clip of this speaker, and the dataset has no `reference`"
            problems.append(Problem("QR045", message, Place(shown, row.line, 1)))
            continue
        role, body = tokenizer.assistant(row.text)
        found.append(
            SpeechRow(
                line=row.line,
                text=row.text,
                role=role,
                body=body,
                codes=encoded.codes,
                seconds=encoded.seconds,
                trimmed=encoded.trimmed,
                speaker=row.speaker or "",
                reference=path,
                reference_text=text,
                cut=row.cut,
                audio=row.audio,
            )
        )
    return found


def _read_references(data: SpeechData, encoder: Encoder, problems: list[Problem], shown: str) -> None:
    bad: set[Path] = set()
    for row in data.rows:
        if row.reference is None or row.reference in data.x_vectors or row.reference in bad:
            continue
        try:
            data.x_vectors[row.reference] = encoder.x_vector(row.reference)
        except AudioProblem as e:
            bad.add(row.reference)
            problems.append(Problem("QR043", f"the reference {row.reference.name}: {e}", Place(shown, row.line, 1)))
    data.rows = [r for r in data.rows if r.reference not in bad]
    spoken = sorted({r.reference for r in data.rows if r.reference is not None and r.reference_text is not None})
    for path, encoded in zip(spoken, encoder.codes([Request(p, False) for p in spoken]), strict=True):
        if isinstance(encoded, AudioProblem):
            problems.append(Problem("QR043", f"the reference {path.name}: {encoded}", Place(shown)))
            data.rows = [r for r in data.rows if r.reference != path]
        else:
            data.reference_codes[path] = encoded.codes
