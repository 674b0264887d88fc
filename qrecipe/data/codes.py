"""Codes and x-vectors by the base's own encoders, cached by content and shared between runs.

An entry is named by the hash of the recording, its folder by those of the encoder and of the preparation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from qrecipe.data import audio
from qrecipe.data.audio import MAX_REFERENCE, AudioProblem
from qrecipe.data.likeness import Heard
from qrecipe.data.reading import Prepared, Recording, prepared, prepared_ahead
from qrecipe.files import FileHashes, cache_dir, digest
from qrecipe.inputs.bases import LocalBase
from qrecipe.model.batcher import AdaptiveBatcher, out_of_memory, recording_too_large
from qrecipe.model.load import LoadedBase
from qrecipe.phases import each, phase
from qrecipe.qwen3 import SAMPLE_RATE
from qrecipe.store import TensorStore

PREPARATION = 3
"""Raised whenever the same recording would be prepared in another way."""
HEARD = ("fingerprint", "speech")
"""Tensors of a recording by which the same sound is known in another file."""
BATCH_SECONDS = 240.0
"""Audio that a GPU encodes at once, padding included."""
WAITING_SECONDS = 960.0
"""Audio that is held until it is sorted by length and encoded."""


@dataclass(frozen=True)
class Encoded:
    """A recording as codes."""

    codes: torch.Tensor
    """[frames, codebooks] int64."""
    seconds: float
    """Of the recording before trimming."""
    trimmed: float
    """Seconds taken away."""
    heard: Heard | None = None
    """Fingerprint of the sound and the seconds of its speech; None of codes without a recording."""


@dataclass(frozen=True)
class Voice:
    """A reference as the talker knows it."""

    x_vector: torch.Tensor
    """[hidden] float32."""
    heard: Heard


class Encoder:
    """Encodes recordings through a base, remembering results in the user's cache."""

    def __init__(self, opened: LoadedBase, info: LocalBase, hashes: FileHashes, cache: Path | None = None) -> None:
        self.opened = opened
        self.hashes = hashes
        cache = cache or cache_dir()
        folder = opened.folder / "speech_tokenizer"
        parts = {f.name: hashes.sha256(f) for f in sorted(folder.glob("*")) if f.suffix in {".json", ".safetensors"}}
        self._codes = cache / "codes" / digest([PREPARATION, parts])[:16]
        self._x_vectors = TensorStore(cache / "x-vectors" / digest([PREPARATION, info.identity])[:16], "x_vector", *HEARD)

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

        for i, recording in enumerate(recordings):
            cached = self._load(recording)
            if cached is not None:
                add(i, cached)
        missing = [i for i in range(len(recordings)) if i not in results]
        for i, result in self._made([recordings[i] for i in missing]):
            add(missing[i], result)
        return [results[i] for i in range(len(recordings))]

    def _made(self, recordings: Sequence[Recording]) -> Iterator[tuple[int, Encoded | AudioProblem]]:
        """(index, codes) of recordings that are not cached, which then are, in the order in which they are ready."""
        waiting: dict[int, Prepared] = {}
        batcher: AdaptiveBatcher[int] = AdaptiveBatcher(
            BATCH_SECONDS,
            lambda batch: len(batch) * max(len(waiting[i].samples) for i in batch) / SAMPLE_RATE,
            lambda i: recording_too_large(str(recordings[i].path)),
        )

        def encode() -> Iterator[tuple[int, Encoded]]:
            by_length = sorted(waiting, key=lambda i: (len(waiting[i].samples), i))
            for part, codes in batcher.run(by_length, lambda part: self.opened.encode([waiting[i].samples for i in part])):
                for i, c in zip(part, codes, strict=True):
                    clip = waiting[i]
                    yield i, self._save(recordings[i], Encoded(c, clip.seconds, clip.trimmed, clip.heard))
            waiting.clear()

        with closing(prepared_ahead(recordings, self.opened.device.type != "cpu")) as clips:
            for i, clip in enumerate(each("reading recordings", clips)):
                if isinstance(clip, AudioProblem):
                    yield i, clip
                    continue
                waiting[i] = clip
                # samples take memory: they are encoded before they are many, and many at once are sorted by length
                if sum(len(c.samples) for c in waiting.values()) / SAMPLE_RATE > WAITING_SECONDS:
                    yield from encode()
            yield from encode()

    def voice(self, path: Path, max_seconds: float = MAX_REFERENCE) -> Voice:
        """A reference, as the talker knows it. Raises `AudioProblem` for what a row's own recording would be refused for."""
        key = self.hashes.sha256(path)
        cached = self._x_vectors.get(key)
        if cached is None:
            clip = prepared(Recording(path, False, max_seconds))
            if isinstance(clip, AudioProblem):
                raise clip
            try:
                vector = self.opened.x_vector(clip.samples)
            except torch.OutOfMemoryError:
                raise out_of_memory("this reference", str(path), "a shorter one does; or take a larger GPU") from None
            cached = self._x_vectors.put(key, {"x_vector": vector, **_tensors(clip.heard)})
        heard = _from_tensors(cached)
        audio.require_length(heard[1], max_seconds, " of a reference")
        return Voice(cached["x_vector"], heard)

    def share_voices(self, paths: Sequence[Path], max_seconds: float = MAX_REFERENCE) -> None:
        """Reads references into the cache, shared out among the ranks; nothing where there is one rank."""
        if self.opened.world.alone:
            return
        for path in self.opened.world.share(list(dict.fromkeys(paths))):
            with suppress(AudioProblem):  # raised where the reference is used
                self.voice(path, max_seconds)
        self.opened.world.wait("reading voices")

    def _store(self, recording: Recording) -> TensorStore:
        preparation = f"trim-{recording.max_seconds:g}" if recording.trim else "whole"
        return TensorStore(self._codes / preparation, "codes", "seconds", *HEARD)

    def _load(self, recording: Recording) -> Encoded | None:
        cached = self._store(recording).get(self.hashes.sha256(recording.path))
        if cached is None:
            return None
        seconds, trimmed = cached["seconds"].tolist()
        return Encoded(cached["codes"].to(torch.int64), seconds, trimmed, _from_tensors(cached))

    @phase("storing codes")
    def _save(self, recording: Recording, encoded: Encoded) -> Encoded:
        times = torch.tensor([encoded.seconds, encoded.trimmed], dtype=torch.float64)
        assert encoded.heard is not None, "a recording was encoded"
        tensors = {"codes": encoded.codes.to(torch.int16).contiguous(), "seconds": times, **_tensors(encoded.heard)}
        self._store(recording).put(self.hashes.sha256(recording.path), tensors)
        return encoded


def _tensors(heard: Heard) -> dict[str, torch.Tensor]:
    return dict(zip(HEARD, (torch.from_numpy(heard[0]), torch.tensor(heard[1], dtype=torch.float64)), strict=True))


def _from_tensors(tensors: dict[str, torch.Tensor]) -> Heard:
    return tensors[HEARD[0]].numpy(), float(tensors[HEARD[1]])
