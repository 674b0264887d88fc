"""Codes and x-vectors by the base's own encoders, cached by content and shared between runs.

An entry is named by the hash of the recording, its folder by those of the encoder and of the preparation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from qrecipe.data import audio
from qrecipe.data.audio import AudioProblem, Clip, read
from qrecipe.files import FileHashes, cache_dir, digest
from qrecipe.inputs.bases import LocalBase
from qrecipe.model.batcher import AdaptiveBatcher, out_of_memory, recording_too_large
from qrecipe.model.load import LoadedBase
from qrecipe.qwen3 import SAMPLE_RATE
from qrecipe.store import TensorStore

PREPARATION = 3
"""Raised whenever the same recording would be prepared in another way."""
BATCH_SECONDS = 60.0
"""Audio that is encoded at once, padding included."""


@dataclass(frozen=True)
class Encoded:
    """A recording as codes."""

    codes: torch.Tensor
    """[frames, codebooks] int64."""
    seconds: float
    """Of the recording before trimming."""
    trimmed: float
    """Seconds taken away."""


@dataclass(frozen=True)
class Recording:
    """A recording to be encoded."""

    path: Path
    trim: bool
    """Training and judging data are trimmed; references are heard as stock qwen_tts hears them."""
    max_seconds: float = 60.0

    def clip(self) -> Clip:
        """Its samples. Raises `AudioProblem`."""
        if self.trim:
            return audio.load(self.path, self.max_seconds)
        samples = read(self.path, self.max_seconds)
        return Clip(samples, len(samples) / SAMPLE_RATE, 0.0)


class Encoder:
    """Encodes recordings through a base, remembering results in the user's cache."""

    def __init__(self, opened: LoadedBase, info: LocalBase, hashes: FileHashes, cache: Path | None = None) -> None:
        self.opened = opened
        self.hashes = hashes
        cache = cache or cache_dir()
        folder = opened.folder / "speech_tokenizer"
        parts = {f.name: hashes.sha256(f) for f in sorted(folder.glob("*")) if f.suffix in {".json", ".safetensors"}}
        self._codes = cache / "codes" / digest([PREPARATION, parts])[:16]
        self._x_vectors = TensorStore(cache / "x-vectors" / digest([PREPARATION, info.identity])[:16], "x_vector")

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
        waiting: dict[int, Clip] = {}
        batcher: AdaptiveBatcher[int] = AdaptiveBatcher(
            BATCH_SECONDS,
            lambda batch: len(batch) * max(len(waiting[i].samples) for i in batch) / SAMPLE_RATE,
            lambda i: recording_too_large(str(recordings[i].path)),
        )

        def report() -> None:
            if progress is not None:
                progress(len(results))

        def encode() -> None:
            by_length = sorted(waiting, key=lambda i: (len(waiting[i].samples), i))
            for part, codes in batcher.run(by_length, lambda part: self.opened.encode([waiting[i].samples for i in part])):
                for i, c in zip(part, codes, strict=True):
                    results[i] = self._save(recordings[i], Encoded(c, waiting[i].seconds, waiting[i].trimmed))
                report()
            waiting.clear()

        for i, recording in enumerate(recordings):
            try:
                cached = self._load(recording)
                if cached is None:
                    waiting[i] = recording.clip()
                else:
                    results[i] = cached
                    report()
            except AudioProblem as e:
                results[i] = e
                report()
            # samples take memory: they are encoded before they are many, and many at once are sorted by length
            if sum(len(clip.samples) for clip in waiting.values()) / SAMPLE_RATE > 16 * BATCH_SECONDS:
                encode()
        encode()
        return [results[i] for i in range(len(recordings))]

    def x_vector(self, path: Path) -> torch.Tensor:
        """Speaker vector of a reference, [hidden] float32. Raises `AudioProblem`."""
        key = self.hashes.sha256(path)
        cached = self._x_vectors.get(key)
        if cached is not None:
            return cached["x_vector"]
        try:
            vector = self.opened.x_vector(read(path))
        except torch.OutOfMemoryError:
            raise out_of_memory("this reference", str(path), "a shorter one does; or take a larger GPU") from None
        return self._x_vectors.put(key, {"x_vector": vector})["x_vector"]

    def x_vectors(self, paths: Sequence[Path]) -> dict[Path, torch.Tensor | AudioProblem]:
        """Speaker vectors of references, shared out among the ranks; an `AudioProblem` in place of one that cannot be read."""
        distinct = list(dict.fromkeys(paths))
        if not self.opened.world.alone:
            for path in self.opened.world.share(distinct):
                self._x_vector(path)
            self.opened.world.wait("reading voices")
        return {path: self._x_vector(path) for path in distinct}

    def _x_vector(self, path: Path) -> torch.Tensor | AudioProblem:
        try:
            return self.x_vector(path)
        except AudioProblem as e:
            return e

    def _store(self, recording: Recording) -> TensorStore:
        preparation = f"trim-{recording.max_seconds:g}" if recording.trim else "whole"
        return TensorStore(self._codes / preparation, "codes", "seconds")

    def _load(self, recording: Recording) -> Encoded | None:
        cached = self._store(recording).get(self.hashes.sha256(recording.path))
        if cached is None:
            return None
        seconds, trimmed = cached["seconds"].tolist()
        return Encoded(cached["codes"].to(torch.int64), seconds, trimmed)

    def _save(self, recording: Recording, encoded: Encoded) -> Encoded:
        times = torch.tensor([encoded.seconds, encoded.trimmed], dtype=torch.float64)
        tensors = {"codes": encoded.codes.to(torch.int16).contiguous(), "seconds": times}
        self._store(recording).put(self.hashes.sha256(recording.path), tensors)
        return encoded
