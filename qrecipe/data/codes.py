"""Codes and x-vectors by the base's own encoders, cached by content and shared between runs.

The key of an entry is the hash of the recording, its folder is named by those of the encoder and of the preparation.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from qrecipe.data import audio
from qrecipe.data.audio import MAX_REFERENCE, Audio, AudioProblem
from qrecipe.data.likeness import Fingerprint
from qrecipe.data.reading import PreparedAudio, Recording, prepared_ahead
from qrecipe.files import cache_dir, digest
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import LocalBase
from qrecipe.model.batcher import AdaptiveBatcher, out_of_memory, recording_too_large
from qrecipe.model.load import LoadedBase
from qrecipe.phases import each, phase
from qrecipe.qwen3 import SAMPLE_RATE
from qrecipe.shards import ShardStore

PREPARATION = 3
"""Raised whenever the same recording would be prepared in another way."""
HEARD = ("fingerprint", "speech")
"""Tensors of a recording by which the same sound is known in another file."""
BATCH_SECONDS = 240.0
"""Audio that a GPU encodes at once, padding included."""
WAITING_SECONDS = 960.0
"""Audio that is held until it is sorted by length and encoded."""
VoicesProgress = Callable[[int, int], None]
"""Called with (done, of)."""


@dataclass(frozen=True)
class Encoded:
    """A recording as codes."""

    codes: torch.Tensor
    """[frames, codebooks] int64."""
    seconds: float
    """Of the recording before trimming."""
    trimmed: float
    """Seconds taken away."""
    heard: Fingerprint | None = None
    """Fingerprint of the sound and the seconds of its speech; None of codes without a recording."""


@dataclass(frozen=True)
class Voice:
    """A reference as the talker knows it."""

    x_vector: torch.Tensor
    """[hidden] float32."""
    heard: Fingerprint


class Encoder:
    """Encodes recordings through a base, remembering results in the user's cache."""

    def __init__(self, opened: LoadedBase, info: LocalBase, hashes: FileHashes, cache: Path | None = None) -> None:
        self.opened = opened
        self.hashes = hashes
        cache = cache or cache_dir()
        folder = opened.folder / "speech_tokenizer"
        parts = {f.name: hashes.sha256(f) for f in sorted(folder.glob("*")) if f.suffix in {".json", ".safetensors"}}
        self._codes = cache / "codes" / digest([PREPARATION, parts])[:16]
        self._stores: dict[str, ShardStore] = {}
        self._x_vectors = ShardStore(cache / "x-vectors" / digest([PREPARATION, info.identity])[:16], "x_vector", *HEARD)

    def codes(
        self,
        recordings: Sequence[Recording],
        progress: Callable[[int], None] | None = None,
    ) -> list[Encoded | AudioProblem]:
        """Codes of recordings, in order; an `AudioProblem` in place of one that cannot be used.

        Recordings that are not cached are encoded in batches sorted by length. `progress` is called with the number of
        recordings that are done. Raises `UserError` for one that does not fit into the GPU's memory.
        """
        world = self.opened.world
        if not world.alone:  # each rank encodes its share into the cache, and then reads the others' from there
            mine = range(len(recordings))[world.rank :: world.size]
            self._codes_here([recordings[i] for i in mine], progress and (lambda done: progress(min(done * world.size, len(recordings)))))
            world.wait("encoding recordings")
        return self._codes_here(recordings, progress if world.alone else None)

    def _codes_here(self, recordings: Sequence[Recording], progress: Callable[[int], None] | None) -> list[Encoded | AudioProblem]:
        results: dict[int, Encoded | AudioProblem] = {}

        def add(i: int, result: Encoded | AudioProblem) -> None:
            results[i] = result
            if progress is not None:
                progress(len(results))

        stores = {id(store): store for store in map(self._store, recordings)}.values()
        for store in stores:
            store.refresh()
        for i, recording in enumerate(recordings):
            cached = self._load(recording)
            if cached is not None:
                add(i, cached)
        missing = [i for i in range(len(recordings)) if i not in results]
        try:
            with closing(self._made([recordings[i] for i in missing])) as made:
                for i, result in made:
                    add(missing[i], result)
        finally:
            with phase("storing codes"):
                for store in stores:
                    store.flush()
        return [results[i] for i in range(len(recordings))]

    def _made(self, recordings: Sequence[Recording]) -> Generator[tuple[int, Encoded | AudioProblem]]:
        """(index, codes) of recordings that are not cached, which then are, in the order in which they are ready."""
        waiting: dict[int, PreparedAudio] = {}
        batcher: AdaptiveBatcher[int] = AdaptiveBatcher(
            BATCH_SECONDS,
            lambda batch: len(batch) * max(len(waiting[i].samples) for i in batch) / SAMPLE_RATE,
            lambda i: recording_too_large(str(recordings[i].path)),
        )

        def encode() -> Iterator[tuple[int, Encoded]]:
            by_length = sorted(waiting, key=lambda i: (len(waiting[i].samples), i))
            for part, codes in batcher.run(by_length, lambda part: self._encoded([waiting[i].samples for i in part])):
                for i, c in zip(part, codes, strict=True):
                    clip = waiting[i]
                    yield i, self._save(recordings[i], Encoded(c, clip.seconds, clip.trimmed, clip.heard))
            waiting.clear()

        with closing(prepared_ahead(recordings, self._cores_are_free)) as clips:
            for i, clip in enumerate(each("reading recordings", clips)):
                if isinstance(clip, AudioProblem):
                    yield i, clip
                    continue
                waiting[i] = clip
                # samples take memory: they are encoded before they are many, and many at once are sorted by length
                if sum(len(c.samples) for c in waiting.values()) / SAMPLE_RATE > WAITING_SECONDS:
                    yield from encode()
            yield from encode()

    @phase("encoding recordings")
    def _encoded(self, audios: list[Audio]) -> list[torch.Tensor]:
        return self.opened.encode(audios)

    def voices(
        self, paths: Sequence[Path], max_seconds: float = MAX_REFERENCE, progress: VoicesProgress | None = None
    ) -> dict[Path, Voice | AudioProblem]:
        """References, as the talker knows them, or why they cannot be used. Ranks share them out, so all must come here.

        `progress` is called with the number of those that are read, and with that of all that were not known.
        Raises `UserError` for one that does not fit into the GPU's memory.
        """
        distinct, world = list(dict.fromkeys(paths)), self.opened.world
        if not world.alone:
            self._voices_here(world.share(distinct), max_seconds, progress)
            world.wait("reading voices")
        return self._voices_here(distinct, max_seconds, progress)

    def voice(self, path: Path, max_seconds: float = MAX_REFERENCE) -> Voice:
        """One reference, read by this rank. Raises `AudioProblem` for what a row's own recording would be refused for."""
        voice = self._voices_here([path], max_seconds)[path]
        if isinstance(voice, AudioProblem):
            raise voice
        return voice

    def _voices_here(
        self, paths: Sequence[Path], max_seconds: float, progress: VoicesProgress | None = None
    ) -> dict[Path, Voice | AudioProblem]:
        self._x_vectors.refresh()
        voices: dict[Path, Voice | AudioProblem] = {}
        for path in paths:
            cached = self._x_vectors.get(self.hashes.sha256(path))
            if cached is not None:
                voices[path] = _voice(cached, max_seconds)
        missing = [path for path in paths if path not in voices]
        recordings = [Recording(path, False, max_seconds) for path in missing]
        try:
            with closing(prepared_ahead(recordings, self._cores_are_free)) as clips:
                for done, (path, clip) in enumerate(zip(missing, each("reading recordings", clips), strict=True), start=1):
                    voices[path] = clip if isinstance(clip, AudioProblem) else self._made_voice(path, clip, max_seconds)
                    if progress is not None:
                        progress(done, len(missing))
        finally:
            with phase("storing codes"):
                self._x_vectors.flush()
        return voices

    def _made_voice(self, path: Path, clip: PreparedAudio, max_seconds: float) -> Voice | AudioProblem:
        try:
            with phase("reading voices"):
                vector = self.opened.x_vector(clip.samples)
        except torch.OutOfMemoryError:
            raise out_of_memory("this reference", str(path), "a shorter one does; or take a larger GPU") from None
        tensors = {"x_vector": vector, **_tensors(clip.heard)}
        return _voice(self._x_vectors.put(self.hashes.sha256(path), tensors), max_seconds)

    @property
    def _cores_are_free(self) -> bool:
        return self.opened.device.type != "cpu"

    def _store(self, recording: Recording) -> ShardStore:
        preparation = f"trim-{recording.max_seconds:g}" if recording.trim else "whole"
        if preparation not in self._stores:
            self._stores[preparation] = ShardStore(self._codes / preparation, "codes", "seconds", *HEARD)
        return self._stores[preparation]

    def _load(self, recording: Recording) -> Encoded | None:
        cached = self._store(recording).get(self.hashes.sha256(recording.path))
        if cached is None:
            return None
        seconds, trimmed = cached["seconds"].tolist()
        return Encoded(cached["codes"].to(torch.int64), seconds, trimmed, _from_tensors(cached))

    def _save(self, recording: Recording, encoded: Encoded) -> Encoded:
        times = torch.tensor([encoded.seconds, encoded.trimmed], dtype=torch.float64)
        assert encoded.heard is not None, "a recording was encoded"
        tensors = {"codes": encoded.codes.to(torch.int16).contiguous(), "seconds": times, **_tensors(encoded.heard)}
        self._store(recording).put(self.hashes.sha256(recording.path), tensors)
        return encoded


def _voice(tensors: dict[str, torch.Tensor], max_seconds: float) -> Voice | AudioProblem:
    """A voice from its entry, unless it says too little or too much."""
    heard = _from_tensors(tensors)
    try:
        audio.require_length(heard[1], max_seconds, " of a reference")
    except AudioProblem as e:
        return e
    return Voice(tensors["x_vector"], heard)


def _tensors(heard: Fingerprint) -> dict[str, torch.Tensor]:
    return dict(zip(HEARD, (torch.from_numpy(heard[0]), torch.tensor(heard[1], dtype=torch.float64)), strict=True))


def _from_tensors(tensors: dict[str, torch.Tensor]) -> Fingerprint:
    return tensors[HEARD[0]].numpy(), float(tensors[HEARD[1]])
