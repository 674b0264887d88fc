"""From a manifest to a speech dataset: recordings are encoded, rows are checked and given the recording of their voice."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from qrecipe.data.audio import AudioProblem, rate_problem
from qrecipe.data.codes import Encoded, Encoder, Voice, VoicesProgress
from qrecipe.data.likeness import is_one_sound
from qrecipe.data.reading import Recording
from qrecipe.data.speech import OnProgress, SpeechData, SpeechRow, same_sound
from qrecipe.errors import DataError, Place, Problem
from qrecipe.inputs.codes import Codes
from qrecipe.inputs.manifest import Manifest
from qrecipe.inputs.row_table import Row
from qrecipe.inputs.tokenizer import TextTokenizer
from qrecipe.qwen3 import SAMPLE_RATE
from qrecipe.recipe.dataset import SpeechDataset


@dataclass(frozen=True)
class Requirements:
    """Which rows of a dataset can be used, and the voice of those that name none."""

    reference: Path | None = None
    """The dataset's own reference."""
    streaming_only: bool = False
    """Rows with more text tokens than frames cannot be used."""
    need_reference: bool = True
    """Rows without any reference recording cannot be used; otherwise they have no speaker."""
    in_context: bool = True
    """References whose text is known are encoded, for in-context prompts."""
    lead: int = 0
    """Frames of silence that these rows will begin with."""


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
    rows = manifest.rows
    paths = (rows.path(audio) for i, audio in enumerate(rows.column("audio")) if not rows.codes.has(i))
    recordings = [Recording(path, True, dataset.max_seconds) for path in paths if path is not None]
    tell = (lambda done: progress(name, done, len(recordings))) if progress is not None else None
    results = iter(encoder.codes(recordings, tell))

    # a row keeps its own reference for now; which clips can stand in is known when all rows are
    for row in rows:
        result = next(results) if row.codes is None else _from_codes(row.codes, encoder)
        place = Place(dataset.path, row.line, 1)
        ready = _speech_row(row, result, encoder.opened.tokenizer, place, requirements)
        if isinstance(ready, SpeechRow):
            data.rows.append(ready)
        else:
            problems.append(ready)
    voices = _Voices(encoder, dataset.max_seconds, progress and partial(progress, f"voices of {name}"))
    voices.read([requirements.reference, *(r.reference for r in data.rows)])
    references = _References(data.rows, voices, requirements.reference, dataset.reference_text, requirements.need_reference)
    data.rows = [references.added(i) for i in range(len(data.rows))]

    if requirements.need_reference:
        message = "no reference recording: no other clip of this speaker, and the dataset has no `reference`"
        problems += [Problem("QR045", message, Place(dataset.path, r.line, 1)) for r in data.rows if r.reference is None]
        data.rows = [r for r in data.rows if r.reference is not None]
    _read_voices(data, voices, dataset)
    if requirements.in_context:
        _encode_references(data, encoder, dataset.max_seconds, progress)
    if problems and (dataset.on_bad_row == "stop" or not data.rows):
        raise DataError(problems)
    if not data.rows:
        raise DataError(Problem("QR041", f"`{name}` has no usable row", Place(dataset.path)))
    return data


def _from_codes(frames: Codes, encoder: Encoder) -> Encoded | str:
    """Codes that the manifest itself holds, or why they are not the base's."""
    codes = torch.tensor(frames.tolist(), dtype=torch.int64)
    groups, size = encoder.opened.groups, encoder.opened.codebook_size
    if codes.shape[1] != groups:
        return f"`audio_codes` has {codes.shape[1]} codebooks, the base has {groups}"
    highest = int(codes[:, 1:].max())
    if highest >= size:
        return f"`audio_codes` has code {highest}, the base's codebooks end at {size - 1}"
    return Encoded(codes, codes.shape[0] * encoder.opened.samples_per_frame / SAMPLE_RATE, 0.0)


def _speech_row(
    row: Row, result: Encoded | AudioProblem | str, tokenizer: TextTokenizer, place: Place, requirements: Requirements
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
    frames = result.codes.shape[0] + requirements.lead
    if requirements.streaming_only and len(body) > frames:
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
        heard=result.heard,
    )


class _References:
    """The reference of every row: its own, else the dataset's, else the next clip of the same speaker, never itself.

    A recording is itself in any file: a copy under another name or in another format would teach copying, too.
    """

    def __init__(
        self, rows: Sequence[SpeechRow], voices: _Voices, reference: Path | None, reference_text: str | None, never_itself: bool
    ) -> None:
        self._rows = rows
        self._voices = voices
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
        if self._never_itself and path is not None and self._is_itself(row, path):
            path, text = None, None
        if path is None and self._default[0] is not None and not self._is_itself(row, self._default[0]):
            path, text = self._default
        if path is None:
            clips = self._by_speaker.get(row.speaker, [])
            later = bisect_right(clips, i)
            others = (self._rows[j] for j in chain(clips[later:], clips[:later]))
            other = next((r for r in others if r is not row and not same_sound(r, row)), None)
            if other is not None:
                path, text = other.audio, other.text
        return replace(row, reference=path, reference_text=text)

    def _is_itself(self, row: SpeechRow, path: Path) -> bool:
        if row.audio is not None and path.resolve() == row.audio.resolve():
            return True
        if row.heard is None:  # ready codes
            return any(torch.equal(row.codes, codes) for codes in self._voices.codes(path))
        voice = self._voices.get(path)
        return isinstance(voice, Voice) and is_one_sound(row.heard, voice.heard)


class _Voices:
    """The references of a dataset, each read once."""

    def __init__(self, encoder: Encoder, max_seconds: float, progress: VoicesProgress | None) -> None:
        self._encoder = encoder
        self._progress = progress
        self._max_seconds = max_seconds
        self._read: dict[Path, Voice | AudioProblem] = {}
        self._codes: dict[Path, list[torch.Tensor]] = {}

    def read(self, paths: Iterable[Path | None]) -> None:
        """Reads references ahead, many at once. Ranks share them out, so all must come here."""
        missing = [p for p in paths if p is not None and p not in self._read]
        self._read |= self._encoder.voices(missing, self._max_seconds, self._progress)

    def get(self, path: Path) -> Voice | AudioProblem:
        """A reference that was read, or why it cannot be used."""
        return self._read[path]

    def codes(self, path: Path) -> list[torch.Tensor]:
        """Codes of a reference, trimmed and whole, as far as it can be used."""
        if path not in self._codes:
            encoded = self._encoder.codes([Recording(path, trim, self._max_seconds) for trim in (True, False)])
            self._codes[path] = [e.codes for e in encoded if isinstance(e, Encoded)]
        return self._codes[path]


def _read_voices(data: SpeechData, voices: _Voices, dataset: SpeechDataset) -> None:
    """Adds x-vectors of the references; rows without a usable one are skipped."""
    by_reference: dict[tuple[Path | None, str | None], list[SpeechRow]] = {}
    for row in data.rows:
        by_reference.setdefault((row.reference, row.reference_text), []).append(row)
    bad: set[int] = set()
    voices.read(path for path, _ in by_reference)
    for (path, text), rows in by_reference.items():
        if path is None:
            continue
        voice = voices.get(path)
        problem = _reference_problem(path, text, voice, Place(dataset.path, rows[0].line, 1))
        if problem is not None:
            data.skipped.append(problem)
            data.unshown += len(rows) - 1
            bad |= {row.line for row in rows}
        elif isinstance(voice, Voice):
            data.x_vectors[path] = voice.x_vector
    data.rows = [r for r in data.rows if r.line not in bad]


def _encode_references(data: SpeechData, encoder: Encoder, max_seconds: float, progress: OnProgress | None) -> None:
    """Adds codes of the references whose text is known: as long as the recordings themselves take."""
    spoken = sorted({r.reference for r in data.rows if r.reference is not None and r.reference_text is not None})
    recordings = [Recording(p, False, max_seconds) for p in spoken]
    tell = (lambda done: progress(f"references of {data.name}", done, len(spoken))) if progress is not None else None
    for path, encoded in zip(spoken, encoder.codes(recordings, tell), strict=True):
        assert isinstance(encoded, Encoded), "checked as a voice"
        data.reference_codes[path] = encoded.codes


def _reference_problem(path: Path, text: str | None, voice: Voice | AudioProblem, place: Place) -> Problem | None:
    """Why a reference cannot be used, or None: what a row's own recording and text would be refused for."""
    if isinstance(voice, AudioProblem):
        return Problem("QR043", f"the reference {path.name}: {voice}", place, "a few seconds of clear speech do")
    why = rate_problem(text, voice.heard[1]) if text is not None else None
    return Problem("QR044", f"the reference {path.name}: {why}", place) if why else None
