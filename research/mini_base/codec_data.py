"""Clips for the speech tokenizer's training, from shards that another process may still be writing.

A shard is an uncompressed npz file that appears whole under its name: `audio` int16 (the samples of all clips, 24 kHz,
mono), `samples` int64 and `voice` int16 (one value a clip), `phoneme` uint8 ``[frames of all clips, 2]`` (what sounds at a
quarter and at three quarters of a frame, or `voices.UNKNOWN`). Every clip is a whole number of frames. Clips of files named
`shard-*.npz`, `babble-*.npz` and `people-*.npz` are trained on, those of `held-*.npz` and `heldpeople-*.npz` are only measured on.
"""

from __future__ import annotations

import math
import queue
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from codec_vary import filtered, noise
from numpy.typing import NDArray
from torch import Tensor
from voices import FRAME, RATE

LABEL = FRAME // 2
"""Samples that a phoneme's label stands for."""
PASSING = 100
"""Voices from this number on pass by: nothing has to speak as they do, so they are varied further when they are drawn."""
TRAINED, MEASURED = ("shard", "babble", "people"), ("held", "heldpeople")
"""What the names of the two sorts of files begin with."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class Shard:
    """One file in memory."""

    name: str
    audio: NDArray[np.int16]
    samples: NDArray[np.int64]
    voice: NDArray[np.int16]
    phoneme: NDArray[np.uint8]


def read_shard(path: Path) -> Shard:
    """Read and check one file.

    Raises:
        ValueError: it is no shard, or breaks a rule of this module's docstring; the message says which.
    """
    try:
        with np.load(path) as content:
            audio, samples, voice, phoneme = (content[name] for name in ("audio", "samples", "voice", "phoneme"))
    except (OSError, KeyError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as a shard: {error}") from error
    if audio.dtype != np.int16 or audio.ndim != 1:
        raise ValueError(f"{path}: audio must be one row of int16, not {audio.dtype} {audio.shape}")
    if len(samples) != len(voice) or samples.sum() != len(audio):
        raise ValueError(f"{path}: {len(samples)} lengths of {samples.sum()} samples, {len(voice)} voices, {len(audio)} samples")
    if ((samples <= 0) | (samples % FRAME != 0)).any():
        raise ValueError(f"{path}: a clip is not a whole number of frames of {FRAME} samples")
    if phoneme.dtype != np.uint8 or phoneme.shape != (len(audio) // FRAME, 2):
        raise ValueError(f"{path}: phoneme must be two uint8 a frame, not {phoneme.dtype} {phoneme.shape}")
    return Shard(path.stem, audio, samples.astype(np.int64), voice.astype(np.int16), phoneme)


class Reader(threading.Thread):
    """Reads training shards in the background, as they appear, in random order among those that are there."""

    def __init__(self, folder: Path, log: Log, seed: int) -> None:
        super().__init__(daemon=True)
        self.ready: queue.Queue[Shard] = queue.Queue(maxsize=4)
        self._folder, self._log, self._random = folder, log, random.Random(seed)
        self._stopped = threading.Event()

    def run(self) -> None:
        """Runs until `stop`."""
        seen: set[Path] = set()
        while not self._stopped.is_set():
            fresh = sorted({path for kind in TRAINED for path in self._folder.glob(f"{kind}-*.npz")} - seen)
            if not fresh:
                self._stopped.wait(0.5)
                continue
            path = self._random.choice(fresh)
            seen.add(path)
            try:
                shard = read_shard(path)
            except ValueError as error:
                self._log(f"skipped: {error}")
                continue
            while not self._stopped.is_set():
                try:
                    self.ready.put(shard, timeout=0.5)
                    break
                except queue.Full:
                    continue

    def stop(self) -> None:
        """Ends the thread soon; what it has read is dropped."""
        self._stopped.set()


class Crops(NamedTuple):
    """What a step trains on: B clips, S samples, T frames."""

    heard: Tensor
    """What is encoded: `audio`, with noise where a passing voice has some. ``[B, S]``, fp32."""
    audio: Tensor
    """What shall be decoded, ``[B, S]``, fp32 within [-1, 1]."""
    phonemes: Tensor
    """``[B, T, 2]``, int64."""


class Buffer:
    """Clips in one tensor on the device, drawn without a wait for the GPU.

    The tensors never move or change their shape, so a captured graph sees clips that are added between its replays.

    Args:
        hours: room for audio; 3,600 clips an hour at most.
        device: where the audio lies, as int16.
    """

    def __init__(self, hours: float, device: torch.device) -> None:
        self.clips, self.filled, self.full = 0, 0, False
        room = max(1, int(hours * 3600))
        self._audio = torch.zeros(room * RATE, dtype=torch.int16, device=device)
        self._phoneme = torch.zeros(-(-room * RATE // LABEL), dtype=torch.uint8, device=device)
        self._offset = torch.zeros(room, dtype=torch.int64, device=device)
        self._length = torch.zeros(room, dtype=torch.int64, device=device)
        self._cumulative = torch.zeros(room, dtype=torch.float64, device=device)
        self._passing = torch.zeros(room, dtype=torch.bool, device=device)
        self._lengths = np.zeros(room, dtype=np.int64)
        self._voices = np.zeros(room, dtype=np.int16)

    @property
    def hours(self) -> float:
        """Hours of audio in the buffer."""
        return self.filled / RATE / 3600

    def hours_by_voice(self) -> dict[int, float]:
        """Hours of audio of each voice."""
        lengths, voices = self._lengths[: self.clips], self._voices[: self.clips]
        return {int(voice): float(lengths[voices == voice].sum()) / RATE / 3600 for voice in np.unique(voices)}

    def add(self, shard: Shard) -> None:
        """Append as many clips of a shard as there is room for."""
        ends = np.cumsum(shard.samples)
        fits = int(np.searchsorted(ends, len(self._audio) - self.filled, side="right"))
        count = min(fits, len(self._lengths) - self.clips)
        self.full = self.full or count < len(ends)
        if not count:
            return
        size, new = int(ends[count - 1]), slice(self.clips, self.clips + count)
        # Not blocking: ordinary memory is staged before the call returns, and the steps already queued are not waited for.
        self._audio[self.filled : self.filled + size].copy_(torch.from_numpy(shard.audio[:size]), non_blocking=True)
        labels = torch.from_numpy(np.ascontiguousarray(shard.phoneme[: size // FRAME]).reshape(-1))
        self._phoneme[self.filled // LABEL : (self.filled + size) // LABEL].copy_(labels, non_blocking=True)
        self._offset[new].copy_(torch.from_numpy(self.filled + ends[:count] - shard.samples[:count]), non_blocking=True)
        self._length[new].copy_(torch.from_numpy(shard.samples[:count]), non_blocking=True)
        self._passing[new].copy_(torch.from_numpy(shard.voice[:count] >= PASSING), non_blocking=True)
        self._lengths[new], self._voices[new] = shard.samples[:count], shard.voice[:count]
        self.clips, self.filled = self.clips + count, self.filled + size
        self._weigh()

    def _weigh(self) -> None:
        """A voice is drawn by the square root of its hours, a clip within its voice by its length."""
        lengths, voices = self._lengths[: self.clips], self._voices[: self.clips]
        weight = lengths.astype(np.float64)
        for voice in np.unique(voices):
            mine = voices == voice
            weight[mine] /= np.sqrt(weight[mine].sum())
        cumulative = np.full(len(self._lengths), weight.sum())
        cumulative[: self.clips] = np.cumsum(weight)
        self._cumulative.copy_(torch.from_numpy(cumulative), non_blocking=True)

    def draw(self, clips: int, samples: int) -> Crops:
        """A random crop of each of several clips at a random level (-9 to +3 dB, never clipped).

        A clip that is shorter than the crop is taken from its start and followed by silence. Half of the clips of passing
        voices are played faster or slower (pitch and all, by up to a sixth), half through a random filter, half are heard with noise.
        """
        device = self._audio.device
        point = torch.rand(clips, dtype=torch.float64, device=device) * self._cumulative[-1]
        clip = torch.searchsorted(self._cumulative, point, right=True).clamp(max=len(self._cumulative) - 1)
        length, offset, passing = self._length[clip], self._offset[clip], self._passing[clip]
        tempo = torch.exp((torch.rand(clips, dtype=torch.float64, device=device) * 2 - 1) * math.log(7 / 6))
        tempo = torch.where(passing & self._half(clips), tempo, torch.ones_like(tempo))
        slack = (length - (samples * tempo).long()).clamp(min=0)
        start = torch.minimum((torch.rand(clips, device=device) * (slack + 1)).long(), slack)
        audio = self._played(offset, start, length, tempo, samples)
        audio = torch.where((passing & self._half(clips))[:, None], filtered(audio), audio)
        gain = torch.exp((torch.rand(clips, device=device) * 12 - 9) * (math.log(10) / 20))
        room = 0.99 / audio.abs().amax(dim=1).clamp(min=1e-4)
        audio = audio * torch.minimum(gain, room)[:, None]
        heard = torch.where((passing & self._half(clips))[:, None], audio + noise(audio), audio)
        middle = start[:, None] + (torch.arange(LABEL // 2, samples, LABEL, device=device) * tempo[:, None]).long()
        label = self._phoneme[((offset[:, None] + middle) // LABEL).clamp(max=len(self._phoneme) - 1)].long() * (middle < length[:, None])
        return Crops(heard, audio, label.view(clips, -1, 2))

    def _half(self, clips: int) -> Tensor:
        return torch.rand(clips, device=self._audio.device) < 0.5

    def _played(self, offset: Tensor, start: Tensor, length: Tensor, tempo: Tensor, samples: int) -> Tensor:
        """Samples `tempo` apart, by cubic interpolation; zeros beyond the end of a clip."""
        position = torch.arange(samples, device=offset.device) * tempo[:, None]
        whole = position.floor()
        share = (position - whole).float()
        place = start[:, None] + whole.long()
        near = []
        for step in (-1, 0, 1, 2):
            at = (place + step).clamp(min=0)
            sample = self._audio[(offset[:, None] + at).clamp(max=len(self._audio) - 1)].float() / 32768
            near.append(sample * (at < length[:, None]))
        before, one, two, after = near
        slope = (two - before) / 2
        bend = before - 2.5 * one + 2 * two - after / 2
        turn = (after - before) / 2 + 1.5 * (one - two)
        return one + share * (slope + share * (bend + share * turn))


@dataclass(frozen=True)
class Held:
    """Clips that are only measured on: `audio` fp32 ``[N, samples]`` on the CPU, `voice` ``[N]``."""

    audio: Tensor
    voice: Tensor


def held_out(folder: Path, each: int, samples: int) -> Held | None:
    """The start of up to `each` held-out clips of every voice, ending in silence where they are shorter.

    Returns:
        None while there is no such file.

    Raises:
        ValueError: as `read_shard`.
    """
    rows: dict[int, list[NDArray[np.float32]]] = {}
    for path in sorted(path for kind in MEASURED for path in folder.glob(f"{kind}-*.npz")):
        shard = read_shard(path)
        for end, size, voice in zip(np.cumsum(shard.samples), shard.samples, shard.voice, strict=True):
            mine = rows.setdefault(int(voice), [])
            if len(mine) < each:
                row = np.zeros(samples, dtype=np.float32)
                kept = min(samples, int(size))
                row[:kept] = shard.audio[end - size : end - size + kept] / np.float32(32768)
                mine.append(row)
    if not rows:
        return None
    voices = [voice for voice in sorted(rows) for _ in rows[voice]]
    return Held(torch.from_numpy(np.stack([row for voice in sorted(rows) for row in rows[voice]])), torch.tensor(voices))
