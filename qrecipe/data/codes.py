"""Codes and x-vectors by the base's own encoders, cached by content and shared between runs.

A cache entry is named by the hash of the recording, of the encoder and of the preparation.
Entries are written whole or not at all, so several runs may share the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from qrecipe.data import audio, sealed
from qrecipe.data.audio import Audio, AudioProblem, read
from qrecipe.files import FileHashes, cache_dir, digest
from qrecipe.model.opened import Opened
from qrecipe.model.room import Room, no_room
from qrecipe.plan.bases import LocalBase
from qrecipe.qwen3 import SAMPLE_RATE

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
class Request:
    """A recording to be encoded."""

    path: Path
    trim: bool
    """Training and judging data are trimmed; references are heard as stock qwen_tts hears them."""
    max_seconds: float = 60.0


_Waiting = tuple[int, Path, Audio, float]
"""Number of the request, its cache file, [samples], seconds before trimming."""


class Encoder:
    """Encodes recordings through a base, remembering results in the user's cache."""

    def __init__(self, opened: Opened, info: LocalBase, hashes: FileHashes, cache: Path | None = None) -> None:
        self.opened = opened
        self.hashes = hashes
        self._cache = cache or cache_dir()
        folder = opened.folder / "speech_tokenizer"
        parts = {f.name: hashes.sha256(f) for f in sorted(folder.glob("*")) if f.suffix in {".json", ".safetensors"}}
        self._tokenizer = digest([PREPARATION, parts])[:16]
        self._speaker = digest([PREPARATION, info.identity])[:16]

    def codes(self, requests: Sequence[Request], progress: Callable[[int], None] | None = None) -> list[Encoded | AudioProblem]:
        """Codes of recordings, in order; an `AudioProblem` in place of one that cannot be used.

        Recordings that are not cached are encoded in batches sorted by length. `progress` is told how many of the
        requests are done.
        """
        results: list[Encoded | AudioProblem | None] = [None] * len(requests)
        done = 0
        waiting: list[_Waiting] = []
        room: Room[_Waiting] = Room(
            BATCH_SECONDS,
            lambda part: len(part) * max(len(samples) for _, _, samples, _ in part) / SAMPLE_RATE,
            lambda w: str(requests[w[0]].path),
        )
        pending = 0.0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            if progress is not None:
                progress(done)

        def flush() -> None:
            nonlocal waiting, pending
            by_length = sorted(waiting, key=lambda x: (len(x[2]), x[0]))
            for batch, encoded in room.compute(by_length, lambda part: self.opened.encode([samples for _, _, samples, _ in part])):
                for (i, file, samples, seconds), codes in zip(batch, encoded, strict=True):
                    result = Encoded(codes, seconds, seconds - len(samples) / SAMPLE_RATE)
                    self._store_codes(file, result)
                    results[i] = result
                advance(len(batch))
            waiting, pending = [], 0.0

        for i, request in enumerate(requests):
            file = self._code_file(request)
            cached = self._load_codes(file)
            if cached is not None:
                results[i] = cached
                advance(1)
                continue
            try:
                if request.trim:
                    clip = audio.load(request.path, request.max_seconds)
                    waiting.append((i, file, clip.samples, clip.seconds))
                else:
                    samples = read(request.path, request.max_seconds)
                    waiting.append((i, file, samples, len(samples) / SAMPLE_RATE))
            except AudioProblem as e:
                results[i] = e
                advance(1)
                continue
            pending += len(waiting[-1][2]) / SAMPLE_RATE
            if pending > 16 * BATCH_SECONDS:
                flush()
        flush()
        return [r for r in results if r is not None]

    def x_vector(self, path: Path) -> torch.Tensor:
        """Speaker vector of a reference, [hidden] float32. Raises `AudioProblem`."""
        file = self._cache / "x-vectors" / self._speaker / f"{self.hashes.sha256(path)}.sealed"
        found = sealed.recall(file, "x_vector")
        if found is not None:
            return found["x_vector"]
        try:
            vector = self.opened.x_vector(read(path))
        except torch.OutOfMemoryError:
            raise no_room("this reference", str(path), "a shorter one does; or take a larger GPU") from None
        sealed.store(file, {"x_vector": vector})
        return vector

    def _code_file(self, request: Request) -> Path:
        kind = f"trim-{request.max_seconds:g}" if request.trim else "whole"
        return self._cache / "codes" / self._tokenizer / kind / f"{self.hashes.sha256(request.path)}.sealed"

    def _load_codes(self, file: Path) -> Encoded | None:
        found = sealed.recall(file, "codes", "seconds")
        if found is None:
            return None
        return Encoded(found["codes"].to(torch.int64), float(found["seconds"][0]), float(found["seconds"][1]))

    def _store_codes(self, file: Path, encoded: Encoded) -> None:
        times = torch.tensor([encoded.seconds, encoded.trimmed], dtype=torch.float64)
        sealed.store(file, {"codes": encoded.codes.to(torch.int16).contiguous(), "seconds": times})
