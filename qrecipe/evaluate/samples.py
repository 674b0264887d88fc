"""Speech to be judged: spoken by a model and stored batch by batch, or the recordings in its place.

A prompt's text, voice and seed fix what it says, whatever is spoken beside it. The stored sound is what is judged: it is rounded to 16 bits before anything listens.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch

from qrecipe import phases
from qrecipe.data.audio import Audio, encoded, load, read, resample
from qrecipe.data.speech import OnProgress, SpeechData, SpeechRow
from qrecipe.errors import Place
from qrecipe.files import new_folder, read_sealed, sealed, write_json
from qrecipe.hashes import sha256
from qrecipe.model import speak
from qrecipe.model.generate import speech
from qrecipe.model.load import LoadedBase
from qrecipe.plan.fingerprints import GENERATION
from qrecipe.qwen3 import SAMPLE_RATE, Layout, PromptKind
from qrecipe.recipe.gate import Length
from qrecipe.recipe.recipe import Evaluation
from qrecipe.store import Store, key_of
from qrecipe.world import World

if TYPE_CHECKING:
    from qrecipe.evaluate.evaluators import EvaluatorSet

MIN_CAP = 25
"""Frames below which generation is never cut (two seconds)."""
BATCH = "batch.json"
DECODED_AT_ONCE = 16
"""Utterances whose sound is computed together."""


@dataclass
class Sample:
    """One utterance with what it is compared to: generated speech, or a recording in its place."""

    row: SpeechRow
    audio: Audio
    """[samples] float32, mono at 24 kHz."""
    codes: torch.Tensor
    """[frames, codebooks]."""
    cap: int
    """Frames at which generation was cut."""
    language: str
    """Name of the language that the text is in."""
    evaluators: EvaluatorSet
    layout: Layout = "streaming"
    prompt: PromptKind = "x_vector"
    """Whether the model had the voice as an x-vector or as a recording with its text."""
    seed: int | None = None
    """None for a recording."""
    file: Path | None = None
    """Where the sound is stored."""

    @property
    def frames(self) -> int:
        """Frames of the sample."""
        return int(self.codes.shape[0])

    @property
    def tag(self) -> str:
        """BCP 47 tag of the language."""
        return self.evaluators.tag(self.language)

    @property
    def transcript(self) -> str:
        """Transcript by the recipe's recogniser."""
        return self.evaluators.transcribe(self)

    @cached_property
    def recording(self) -> Audio | None:
        """[samples] of the row's own recording, trimmed; None if the row has codes alone."""
        return None if self.row.audio is None else load(self.row.audio, math.inf).samples

    @cached_property
    def reference(self) -> Audio | None:
        """[samples] of the recording that gave the voice."""
        return None if self.row.reference is None else read(self.row.reference)

    @cached_property
    def key(self) -> str:
        """Content of the sound."""
        return sound_key(self.audio)


def sound_key(audio: Audio) -> str:
    """SHA-256 of [samples] float32, in hex: what names a sound in stores and journals."""
    return hashlib.sha256(np.ascontiguousarray(audio).tobytes()).hexdigest()


def heard_inputs(recogniser: dict[str, Any], sound: str) -> list[Any]:
    """Inputs of a transcript: the recogniser as verdicts describe it, and a `sound_key`."""
    return ["heard", recogniser, sound]


def cap_of(row: SpeechRow, settings: Evaluation) -> int:
    """Frames at which the generation of a row is cut."""
    return max(MIN_CAP, int(settings.frame_cap * row.frames))


def spoken_rows(data: SpeechData, settings: Evaluation) -> list[SpeechRow]:
    """The rows that are spoken, those of a like length together: a batch lasts as long as its longest."""
    rows = [r for r in data.rows if r.reference is not None][: settings.prompts]
    return sorted(rows, key=lambda r: (r.frames, r.line))


def lengths(rows: list[SpeechRow]) -> dict[int, Length]:
    """Line -> which third of the prompts by characters of text it belongs to."""
    order = sorted(rows, key=lambda r: (len(r.text), r.line))
    thirds: tuple[Length, Length, Length] = ("short", "medium", "long")
    return {r.line: thirds[i * 3 // len(order)] for i, r in enumerate(order)}


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that are stored together."""

    rows: list[SpeechRow]
    layout: Layout
    prompt: PromptKind
    seed: int


def batches(data: SpeechData, settings: Evaluation) -> list[PromptBatch]:
    """Every batch of an evaluation, in order."""
    todo = []
    for layout in settings.layouts:
        for kind in settings.kinds:
            by_kind: dict[PromptKind, list[SpeechRow]] = {}
            for row in spoken_rows(data, settings):
                if kind == "in_context" and settings.prompt == "both" and row.reference_text is None:
                    continue
                in_context = kind != "x_vector" and row.reference_text is not None
                by_kind.setdefault("in_context" if in_context else "x_vector", []).append(row)
            for actual, rows in by_kind.items():
                for seed in settings.seeds:
                    for start in range(0, len(rows), settings.batch):
                        todo.append(PromptBatch(rows[start : start + settings.batch], layout, actual, seed))
    return todo


@dataclass(frozen=True)
class Task:
    """Prompts for a model, and where its speech is stored."""

    data: SpeechData
    settings: Evaluation
    evaluators: EvaluatorSet
    speak_as: str | None = None
    """The language whose token the model gets instead of the dataset's."""
    folder: Path | None = None
    """Of stored batches; None stores nothing."""
    identity: Any = None
    """Content of the model and of the dataset; part of the key of a stored batch."""

    @property
    def label(self) -> str:
        """The dataset, and the language if it is not its own."""
        return self.data.name + (f" as {self.speak_as}" if self.speak_as else "")


SpokenBatch = list[tuple[Audio, torch.Tensor]]
"""Sound at 24 kHz and codes of every row of a batch."""


class SampleStore(Store[SpokenBatch]):
    """Speech of one batch: a folder with FLAC files, and codes in a manifest with the hashes of all files."""

    def __init__(self, folder: Path, batch: PromptBatch, language: str) -> None:
        super().__init__(folder)
        self._batch = batch
        self._language = language

    def put(self, key: str, value: SpokenBatch) -> SpokenBatch:
        """Writes the folder atomically, over one that is damaged."""
        shutil.rmtree(self.path(key), ignore_errors=True)
        with new_folder(self.path(key)) as temporary:
            self._write(temporary, value)
        return value

    def _read(self, path: Path) -> SpokenBatch:
        entries = read_sealed(path / BATCH)["samples"]
        files = [path / f"{e['line']}.flac" for e in entries]
        if any(sha256(f) != e["audio_sha256"] for f, e in zip(files, entries, strict=True)):
            raise ValueError("a sound was changed")
        codes = [torch.tensor(e["codes"], dtype=torch.int64).reshape(len(e["codes"]), -1) for e in entries]
        return [(soundfile.read(str(f), dtype="float32")[0], c) for f, c in zip(files, codes, strict=True)]

    def _write(self, path: Path, value: SpokenBatch) -> None:
        batch, entries = self._batch, []
        for row, (audio, codes) in zip(batch.rows, value, strict=True):
            file = path / f"{row.line}.flac"
            file.write_bytes(encoded(audio, SAMPLE_RATE, "FLAC", "PCM_16"))
            entries.append({"line": row.line, "text": row.text, "codes": codes.tolist(), "audio_sha256": sha256(file)})
        about = {"layout": batch.layout, "prompt": batch.prompt, "seed": batch.seed, "language": self._language}
        write_json(path / BATCH, sealed({**about, "samples": entries}))


Where = tuple[str, int, str, str, str, int]
"""(dataset, line, text, layout, prompt, seed) of a stored sample."""


def stored_samples(folder: Path) -> Iterator[tuple[Where, Path]]:
    """Every sample below `folder/DATASET`, with the file of its sound, without a model. Damaged batches are left out."""
    for file in sorted(folder.glob(f"*/*/{BATCH}")):
        yield from stored_batch(file)


def stored_batch(file: Path) -> list[tuple[Where, Path]]:
    """The samples of one batch, by its manifest `DATASET/KEY/batch.json`; none of one that is damaged."""
    samples: list[tuple[Where, Path]] = []
    with suppress(OSError, ValueError, KeyError, TypeError):
        batch = read_sealed(file)
        for entry in batch["samples"]:
            sound = file.parent / f"{entry['line']}.flac"
            if sound.is_file():
                where = file.parent.parent.name, entry["line"], entry["text"], batch["layout"], batch["prompt"], batch["seed"]
                samples.append((where, sound))
    return samples


def generated(opened: LoadedBase | None, task: Task, progress: OnProgress | None = None) -> Iterator[Sample]:
    """Speaks the prompts of a task with every seed in every layout. `opened` is the model; None: only what is stored.

    Ranks share the batches out, and read what the others spoke from the task's folder.
    """
    data, settings = task.data, task.settings
    todo = batches(data, settings)
    language = task.speak_as or data.language
    stores = [None if task.folder is None else SampleStore(task.folder, b, language) for b in todo]
    keys = [_key(task, language, batch) for batch in todo]
    world = World() if opened is None else opened.world
    assert world.alone or task.folder is not None, "ranks find one another's speech in a folder"
    spoken = _stored(stores, keys, world.share(range(len(todo))))
    if opened is not None:
        missing = [n for n in world.share(range(len(todo))) if n not in spoken]
        for n, value in _speak(opened, task, todo, missing, language):
            store = stores[n]
            spoken[n] = value if store is None else store.put(keys[n], value)
            if progress is not None:
                progress(f"speaking {task.label}", sum(len(todo[m].rows) for m in spoken), sum(len(b.rows) for b in world.share(todo)))
    world.wait(f"speaking {task.label}")
    spoken |= _stored(stores, keys, [n for n in range(len(todo)) if n not in spoken])
    for n, batch in enumerate(todo):
        store = stores[n]
        for row, (audio, codes) in zip(batch.rows, spoken.get(n, ()), strict=n in spoken):
            cap = cap_of(row, settings)
            file = None if store is None else store.path(keys[n]) / f"{row.line}.flac"
            yield Sample(row, audio, codes, cap, data.language, task.evaluators, batch.layout, batch.prompt, batch.seed, file)


def _stored(stores: Sequence[SampleStore | None], keys: Sequence[str], wanted: Sequence[int]) -> dict[int, SpokenBatch]:
    """Speech of the wanted batches that is stored, by their numbers."""
    values = ((n, store.get(keys[n])) for n in wanted if (store := stores[n]) is not None)
    return {n: value for n, value in values if value is not None}


def _key(task: Task, language: str, batch: PromptBatch) -> str:
    """Name of what is stored of a batch."""
    prompts = [[r.line, r.text, cap_of(r, task.settings)] for r in batch.rows]
    return key_of([GENERATION, task.identity, language, batch.layout, batch.prompt, batch.seed, prompts], 20)


def _speak(opened: LoadedBase, task: Task, todo: list[PromptBatch], missing: list[int], language: str) -> Iterator[tuple[int, SpokenBatch]]:
    """(Number of a batch, its speech) for those that are missing, each as soon as its last row is done."""
    data = task.data
    where = [(n, row) for n, batch in enumerate(todo) for row in batch.rows]
    requests = []
    for n, row in where:
        assert row.reference is not None
        in_context = todo[n].prompt == "in_context"
        utterance = speak.Utterance(
            text=row.text,
            language=language,
            x_vector=data.x_vectors[row.reference],
            reference_text=row.reference_text if in_context else None,
            reference_codes=data.reference_codes[row.reference] if in_context else None,
        )
        requests.append(speech.Request(utterance, todo[n].layout, todo[n].seed, cap_of(row, task.settings), Place(data.name, row.line)))
    ready: dict[int, dict[int, torch.Tensor]] = {n: {} for n in missing}
    wanted = [i for i, (n, _) in enumerate(where) if n in ready]
    script = speech.prepare(opened, requests)
    for i, codes in phases.each("speaking", speech.speak(opened, script, wanted)):
        n = where[i][0]
        ready[n][i] = codes
        if len(ready[n]) == len(todo[n].rows):
            order = sorted(ready[n])
            audios = sounds(opened, [ready[n][i] for i in order], [requests[i].utterance for i in order])
            yield n, [(audio, ready[n][i]) for i, audio in zip(order, audios, strict=True)]


def sounds(opened: LoadedBase, codes: Sequence[torch.Tensor], utterances: Sequence[speak.Utterance]) -> list[Audio]:
    """Codes as sound at 24 kHz, as it is judged: [samples] of each [frames, codebooks]."""
    audios = []
    for start in range(0, len(codes), DECODED_AT_ONCE):
        part = slice(start, start + DECODED_AT_ONCE)
        with phases.phase("decoding sound"):
            decoded = speech.sound(opened, codes[part], utterances[part])
        audios += [_rounded(resample(*audio)) for audio in decoded]
    return audios


def _rounded(audio: Audio) -> Audio:
    """Sound as a file of 16 bits holds it, a tenth of a second at least: encoders need a few frames."""
    if len(audio) < SAMPLE_RATE // 10:
        audio = np.pad(audio, (0, SAMPLE_RATE // 10 - len(audio)))
    rounded = np.round(np.clip(audio, -1.0, 1.0 - 2**-15) * 2**15).astype(np.float32) / np.float32(2**15)
    return rounded + np.float32(0.0)  # -0.0 becomes 0.0, as a file gives it back: the sample's key hashes the bytes


def recorded(data: SpeechData, settings: Evaluation, evaluators: EvaluatorSet) -> list[Sample]:
    """The recordings of the rows that are spoken, as if they had been generated: what a metric finds in real speech."""
    rows = [r for r in spoken_rows(data, settings) if r.audio is not None]
    samples = []
    for row in rows:
        assert row.audio is not None
        audio = load(row.audio, math.inf).samples
        samples.append(Sample(row, audio, row.codes, cap_of(row, settings), data.language, evaluators))
    return samples
