"""From corpus shards and their codes to the fixed-size tensors that talker.py trains on.

Layouts come from qrecipe.model.prompt, the builder that stock inference is tested against: nothing of them is repeated here.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from talker_net import NONE, Rows
from torch import Tensor

from qrecipe.inputs.tokenizer import TextTokenizer
from qrecipe.model import prompt

MOST_FRAMES = 80
MOST_TOKENS = 46
PAIR_FRAMES = 136
"""Frames of a reference and a row together."""
PAIR_TOKENS = 76
AUTO = 0.1
"""Share of rows under the automatic prefix."""
POOL = 64
"""Clips of a voice whose speaker vectors a row may be given: never its own alone."""


@dataclass(frozen=True)
class Spoken:
    """One clip of the corpus."""

    text: str
    voice: int
    language: int
    codes: NDArray[np.uint16]
    """[frames, G]."""
    char: NDArray[np.int16]
    """[frames]."""
    phoneme: NDArray[np.uint8]
    """[frames, 2]."""


def read(corpus: Path, codes: Path, kind: str = "shard") -> Iterator[Spoken]:
    """The clips of all shards of a kind, in the order of their names."""
    for path in sorted(corpus.glob(f"{kind}-*.npz")):
        if not (codes / f"codes-{path.name}").exists():
            continue
        with np.load(path) as shard, np.load(codes / f"codes-{path.name}") as coded:
            table = {name: shard[name] for name in ("voice", "language", "char", "phoneme")}
            texts = shard["texts"].tobytes().decode().split("\n")
            frames, rows = coded["frames"], coded["codes"]
        ends = np.cumsum(frames)
        for k, (text, stop) in enumerate(zip(texts, ends, strict=True)):
            part = slice(stop - frames[k], stop)
            yield Spoken(text, int(table["voice"][k]), int(table["language"][k]), rows[part], table["char"][part], table["phoneme"][part])


@dataclass(frozen=True)
class Base:
    """What laying out needs to know of a base; small enough to travel to worker processes."""

    folder: str
    ids: prompt.ControlIds
    role: tuple[int, ...]
    languages: tuple[int, ...]
    """Codec rows of the corpus's languages."""


_tokenizer: TextTokenizer | None = None
_bytes: dict[int, int] = {}


def _open(folder: str) -> None:
    global _tokenizer
    _tokenizer = TextTokenizer.of_folder(Path(folder))
    vocabulary: dict[str, int] = json.loads((Path(folder) / "vocab.json").read_text(encoding="utf-8"))
    _bytes.update({number: len(token) for token, number in vocabulary.items()})  # a byte-level token has a letter a byte


def _encode(texts: list[str]) -> list[tuple[list[int], list[int]]]:
    """Token ids of texts, and for every character the token that it lies in (the one where it begins)."""
    assert _tokenizer is not None
    out = []
    for text in texts:
        ids = _tokenizer.assistant(text)[1]
        owner = [k for k, token in enumerate(ids) for _ in range(_bytes[token])]
        starts = np.cumsum([0] + [len(c.encode()) for c in text])[:-1]
        out.append((ids, [owner[b] for b in starts]))
    return out


def tokenized(base: Base, texts: list[str], workers: int) -> list[tuple[list[int], list[int]]]:
    """Ids of every text, and the token of every character."""
    parts = [texts[k : k + 4000] for k in range(0, len(texts), 4000)]
    with multiprocessing.get_context("spawn").Pool(min(workers, len(parts)), _open, (base.folder,)) as pool:
        return [one for part in pool.map(_encode, parts) for one in part]


def _laid(
    job: tuple[Base, list[tuple[list[int], int, int, bool, list[int] | None, int]], str, int],
) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int16]]:
    base, rows, layout, length = job
    text = np.full((len(rows), length), NONE, np.int16)
    codec, scalars = text.copy(), np.zeros((len(rows), 3), np.int16)
    for k, (body, frames, language, auto, other, heard) in enumerate(rows):
        laid = prompt.build(
            base.ids,
            (list(base.role), body),
            frames,
            layout=layout,  # type: ignore[arg-type]
            prefix=base.ids.prefix(None if auto else base.languages[language], speaker=True),
            reference=None if other is None else prompt.Reference(other, heard),
        )
        text[k, : len(laid)], codec[k, : len(laid)] = laid.text, laid.codec
        scalars[k] = laid.speaker, laid.first, laid.first + 1 - heard
    return text, codec, scalars


def laid_out(
    base: Base, rows: list[tuple[list[int], int, int, bool, list[int] | None, int]], length: int, workers: int
) -> dict[str, Tensor]:
    """Both layouts of rows: `text`, `codec` [2, N, length] int16 and `scalars` [2, N, 3] (speaker, first, start)."""
    jobs = [(base, rows[k : k + 2000], layout, length) for layout in ("streaming", "non_streaming") for k in range(0, len(rows), 2000)]
    with multiprocessing.get_context("spawn").Pool(min(workers, len(jobs))) as pool:
        parts = pool.map(_laid, jobs)
    half = len(parts) // 2
    sides = [[np.concatenate([part[n] for part in parts[a:b]]) for n in range(3)] for a, b in ((0, half), (half, None))]
    return {name: torch.from_numpy(np.stack([side[n] for side in sides])) for n, name in enumerate(("text", "codec", "scalars"))}


def misread(clips: list[Spoken]) -> list[Spoken]:
    """The same clips with each other's texts, within a voice and a language, and no alignment: what a model that does not read cannot tell apart."""
    groups: dict[tuple[int, int], list[int]] = {}
    for k, clip in enumerate(clips):
        groups.setdefault((clip.voice, clip.language), []).append(k)
    out = list(clips)
    for members in groups.values():
        for k, other in zip(members, members[1:] + members[:1], strict=True):
            out[k] = replace(clips[k], text=clips[other].text, char=np.full_like(clips[k].char, NONE))
    return out


class Corpus:
    """All rows as tensors on a device, and batches of them whose shapes never change."""

    def __init__(self, base: Base, clips: list[Spoken], vectors: Tensor, device: torch.device, workers: int, seed: int, pairs: int) -> None:
        """`vectors` is [voices, POOL, H]; `pairs` rows with a reference are drawn."""
        tokens = tokenized(base, [clip.text for clip in clips], workers)
        fits = [len(clip.codes) <= MOST_FRAMES and 0 < len(ids) <= MOST_TOKENS for clip, (ids, _) in zip(clips, tokens, strict=True)]
        self.clips = [clip for clip, ok in zip(clips, fits, strict=True) if ok]
        tokens = [pair for pair, ok in zip(tokens, fits, strict=True) if ok]
        self.device, self.vectors = device, vectors.to(device)
        draw = np.random.default_rng(seed)
        count, groups = len(self.clips), self.clips[0].codes.shape[1]
        codes = np.zeros((count, MOST_FRAMES, groups), np.int16)
        phonemes = np.zeros((count, MOST_FRAMES, 2), np.uint8)
        spoken = np.full((count, MOST_FRAMES), NONE, np.int16)
        for k, (clip, (_, owner)) in enumerate(zip(self.clips, tokens, strict=True)):
            n = len(clip.codes)
            codes[k, :n], phonemes[k, :n] = clip.codes, clip.phoneme
            spoken[k, :n] = np.where(clip.char >= 0, np.array(owner)[np.clip(clip.char, 0, len(owner) - 1)], NONE)
        self.frames = torch.tensor([len(clip.codes) for clip in self.clips], device=device)
        self.tokens = torch.tensor([len(ids) for ids, _ in tokens], device=device)
        self.codes, self.phonemes, self.spoken = (torch.from_numpy(a).to(device) for a in (codes, phonemes, spoken))
        self.voice = torch.tensor([clip.voice for clip in self.clips], device=device)
        self.language = torch.tensor([clip.language for clip in self.clips], device=device)
        auto = draw.random(count) < AUTO
        rows = [
            (ids, len(clip.codes), clip.language, bool(auto[k]), None, 0)
            for k, (clip, (ids, _)) in enumerate(zip(self.clips, tokens, strict=True))
        ]
        length = 9 + MOST_TOKENS + 2 + MOST_FRAMES
        self.plain = {name: value.to(device) for name, value in laid_out(base, rows, length, workers).items()}
        self.pair_rows, laid = self._pairs(base, tokens, auto, pairs, workers, draw) if pairs else (None, None)
        self.paired = laid

    def _pairs(
        self, base: Base, tokens: Any, auto: Any, count: int, workers: int, draw: np.random.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        frames = self.frames.cpu().numpy()
        voice = self.voice.cpu().numpy()
        by_voice = [np.flatnonzero(voice == v) for v in range(int(voice.max()) + 1)]
        kept: list[tuple[int, int]] = []
        while len(kept) < count:
            own = int(draw.integers(len(frames)))
            other = int(draw.choice(by_voice[voice[own]]))
            room = frames[own] + frames[other] <= PAIR_FRAMES and len(tokens[own][0]) + len(tokens[other][0]) <= PAIR_TOKENS
            if other != own and room:
                kept.append((own, other))
        rows = [(tokens[a][0], int(frames[a]), self.clips[a].language, bool(auto[a]), tokens[b][0], int(frames[b])) for a, b in kept]
        length = 9 + PAIR_TOKENS + 2 + PAIR_FRAMES
        laid = {name: value.to(self.device) for name, value in laid_out(base, rows, length, workers).items()}
        return torch.tensor(kept, device=self.device), laid

    def draw(self, size: int, pairs: bool = False) -> Tensor:
        """Row numbers [size], all alike: a small voice drawn more often is only memorised."""
        rows = self.pair_rows if pairs else self.frames
        assert rows is not None
        return torch.randint(0, len(rows), (size,), device=self.device)

    def batch(self, index: Tensor, streaming: Tensor, noise: float | Tensor = 0.0, masked: Tensor | None = None) -> Rows:
        """Plain rows. `noise`: share of heard frames whose codes are random; `masked`: largest share of unheard frames."""
        side = (~streaming).long()
        text, codec = (self.plain[name][side, index].long() for name in ("text", "codec"))
        scalars = self.plain["scalars"][side, index].long()
        codes = self.codes[index].long()
        heard, keep = self._distorted(codes, noise, masked)
        body = scalars[:, :1] + 2  # behind the speaker vector and the padding row
        spoken = self.spoken[index].long()
        return Rows(
            text=text,
            codec=codec,
            speaker=scalars[:, 0],
            x_vector=self._vectors(self.voice[index]),
            start=scalars[:, 2],
            first=scalars[:, 1],
            heard=heard,
            keep=keep,
            codes=codes,
            frames=self.frames[index],
            places=torch.where(spoken >= 0, spoken + body, NONE),
            phonemes=self.phonemes[index].long(),
        )

    def pair_batch(self, index: Tensor, streaming: Tensor, noise: float | Tensor = 0.0, masked: Tensor | None = None) -> Rows:
        """Rows behind a reference of the same voice."""
        assert self.pair_rows is not None
        assert self.paired is not None
        side = (~streaming).long()
        own, other = self.pair_rows[index].unbind(1)
        text, codec = (self.paired[name][side, index].long() for name in ("text", "codec"))
        scalars = self.paired["scalars"][side, index].long()
        codes, before = self.codes[own].long(), self.frames[other]
        step = torch.arange(PAIR_FRAMES, device=self.device)[None]
        from_own = (step - before[:, None]).clamp(0, MOST_FRAMES - 1)[..., None].expand(-1, -1, codes.shape[-1])
        from_other = step.clamp(max=MOST_FRAMES - 1)[..., None].expand_as(from_own)
        joined = torch.where(
            (step < before[:, None])[..., None], torch.gather(self.codes[other].long(), 1, from_other), torch.gather(codes, 1, from_own)
        )
        heard, keep = self._distorted(joined, noise, masked)
        return Rows(
            text=text,
            codec=codec,
            speaker=scalars[:, 0],
            x_vector=self._vectors(self.voice[own]),
            start=scalars[:, 2],
            first=scalars[:, 1],
            heard=heard,
            keep=keep | (step < before[:, None]),
            codes=codes,
            frames=self.frames[own],
            places=torch.full_like(codes[..., 0], NONE),
            phonemes=torch.zeros_like(codes[..., :2]),
        )

    def _vectors(self, voice: Tensor) -> Tensor:
        pick = torch.randint(0, self.vectors.shape[1], voice.shape, device=self.device)
        return self.vectors[voice, pick]

    def _distorted(self, codes: Tensor, noise: float | Tensor, masked: Tensor | None) -> tuple[Tensor, Tensor]:
        shape = codes.shape[:2]
        keep = torch.ones(shape, dtype=torch.bool, device=self.device)
        if masked is not None:
            keep = torch.rand(shape, device=self.device) >= torch.rand(shape[0], 1, device=self.device) * masked
        wrong = torch.rand(shape, device=self.device) < noise
        return torch.where(wrong[..., None], torch.randint(0, 512, codes.shape, device=self.device), codes), keep
