"""Speech datasets ready to train and to judge: rows with codes, references and x-vectors, and a report of what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from qrecipe.data.audio import AudioProblem, rate_problem
from qrecipe.data.codes import Encoded, Encoder, Recording
from qrecipe.errors import DataError, Place, Problem
from qrecipe.inputs.manifest import Manifest, Row
from qrecipe.inputs.tokenizer import TextTokenizer
from qrecipe.model.prompt import Example
from qrecipe.qwen3 import FRAMES_PER_SECOND, SAMPLE_RATE, Layout, PromptKind
from qrecipe.recipe.dataset import SpeechDataset

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


@dataclass(frozen=True)
class Requirements:
    """Which rows of a dataset can be used, and the voice of those that name none."""

    reference: Path | None = None
    """The dataset's own reference."""
    streaming_only: bool = False
    """Rows with more text tokens than frames cannot be used."""
    need_reference: bool = True
    """Rows without any reference recording cannot be used; otherwise they have no speaker."""


def prepare(
    name: str,
    dataset: SpeechDataset,
    manifest: Manifest,
    encoder: Encoder,
    requirements: Requirements,
    progress: OnProgress | None = None,
) -> SpeechData:
    """Encodes and checks a dataset.

    Raises `DataError` with every row's problem if `on_bad_row` is `stop`, or if no row can be used.
    """
    data = SpeechData(name, dataset.language, [])
    data.skipped = problems = list(manifest.problems)
    data.unshown = manifest.bad_rows - len(problems)
    recordings = [Recording(r.audio, True, dataset.max_seconds) for r in manifest.rows if r.codes is None and r.audio is not None]
    tell = (lambda done: progress(name, done, len(recordings))) if progress is not None else None
    results = iter(encoder.codes(recordings, tell))

    # a row keeps its own reference for now; which clips can stand in is known when all rows are
    for row in manifest.rows:
        result = next(results) if row.codes is None else _from_codes(row.codes, encoder)
        place = Place(dataset.path, row.line, 1)
        ready = _speech_row(row, result, encoder.opened.tokenizer, place, requirements.streaming_only)
        if isinstance(ready, SpeechRow):
            data.rows.append(ready)
        else:
            problems.append(ready)
    references = _References(data.rows, requirements.reference, dataset.reference_text, requirements.need_reference)
    data.rows = [references.added(i) for i in range(len(data.rows))]

    if requirements.need_reference:
        message = "no reference recording: no other clip of this speaker, and the dataset has no `reference`"
        problems += [Problem("QR045", message, Place(dataset.path, r.line, 1)) for r in data.rows if r.reference is None]
        data.rows = [r for r in data.rows if r.reference is not None]
    _read_references(data, encoder, dataset.path)
    if problems and (dataset.on_bad_row == "stop" or not data.rows):
        raise DataError(problems)
    if not data.rows:
        raise DataError(Problem("QR041", f"`{name}` has no usable row", Place(dataset.path)))
    return data


def _from_codes(frames: Sequence[Sequence[int]], encoder: Encoder) -> Encoded | str:
    """Codes that the manifest itself holds, or why they are not the base's."""
    codes = torch.tensor(frames, dtype=torch.int64)
    groups, size = encoder.opened.groups, encoder.opened.codebook_size
    if codes.shape[1] != groups:
        return f"`audio_codes` has {codes.shape[1]} codebooks, the base has {groups}"
    highest = int(codes[:, 1:].max())
    if highest >= size:
        return f"`audio_codes` has code {highest}, the base's codebooks end at {size - 1}"
    return Encoded(codes, codes.shape[0] * encoder.opened.samples_per_frame / SAMPLE_RATE, 0.0)


def _speech_row(
    row: Row, result: Encoded | AudioProblem | str, tokenizer: TextTokenizer, place: Place, streaming_only: bool
) -> SpeechRow | Problem:
    """A row with its codes, or why it cannot be used."""
    if isinstance(result, str):
        return Problem("QR041", result, place)
    if isinstance(result, AudioProblem):
        return Problem("QR043", f"{row.audio.name if row.audio else 'the recording'}: {result}", place)
    role, body = tokenizer.assistant(row.text)
    why = rate_problem(row.text, result.seconds - result.trimmed)
    if why is not None:
        return Problem("QR044", why, place)
    frames = result.codes.shape[0]
    if streaming_only and len(body) > frames:
        message = f"{len(body)} text tokens and {frames} frames: the speech ends before its text arrives under `layout: streaming`"
        return Problem("QR044", message, place, "use `layout: non_streaming` or `mixed`")
    return SpeechRow(
        line=row.line,
        text=row.text,
        role=role,
        body=body,
        codes=result.codes,
        seconds=result.seconds,
        trimmed=result.trimmed,
        speaker=row.speaker or "",
        reference=row.reference,
        reference_text=row.reference_text,
        cut=row.cut,
        audio=row.audio,
    )


class _References:
    """The reference of every row: its own, else the dataset's, else the next clip of the same speaker, never itself."""

    def __init__(self, rows: Sequence[SpeechRow], reference: Path | None, reference_text: str | None, never_itself: bool) -> None:
        self._rows = rows
        self._default = (reference, reference_text)
        self._never_itself = never_itself
        self._by_speaker: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            if row.audio is not None:
                self._by_speaker.setdefault(row.speaker, []).append(i)

    def added(self, i: int) -> SpeechRow:
        """A row with its reference, if there is one."""
        row = self._rows[i]
        path, text = row.reference, row.reference_text
        if self._never_itself and path is not None and row.audio is not None and path.resolve() == row.audio.resolve():
            path, text = None, None  # a clip that is its own voice would teach copying
        if path is None and self._default[0] is not None and self._default[0] != row.audio:
            path, text = self._default
        if path is None:
            others = [j for j in self._by_speaker.get(row.speaker, []) if j != i and self._rows[j].audio != row.audio]
            if others:
                other = self._rows[next((j for j in others if j > i), others[0])]
                path, text = other.audio, other.text
        return replace(row, reference=path, reference_text=text)


def _read_references(data: SpeechData, encoder: Encoder, shown: str) -> None:
    """Adds x-vectors and codes of the references; rows without a usable one are skipped."""
    bad: set[Path] = set()
    vectors = encoder.x_vectors([r.reference for r in data.rows if r.reference is not None])
    for row in data.rows:
        if row.reference is None or row.reference in data.x_vectors or row.reference in bad:
            continue
        vector = vectors[row.reference]
        if isinstance(vector, AudioProblem):
            bad.add(row.reference)
            data.skipped.append(Problem("QR043", f"the reference {row.reference.name}: {vector}", Place(shown, row.line, 1)))
        else:
            data.x_vectors[row.reference] = vector
    data.rows = [r for r in data.rows if r.reference not in bad]
    spoken = sorted({r.reference for r in data.rows if r.reference is not None and r.reference_text is not None})
    for path, encoded in zip(spoken, encoder.codes([Recording(p, False) for p in spoken]), strict=True):
        if isinstance(encoded, AudioProblem):
            data.skipped.append(Problem("QR043", f"the reference {path.name}: {encoded}", Place(shown)))
            data.rows = [r for r in data.rows if r.reference != path]
        else:
            data.reference_codes[path] = encoded.codes
