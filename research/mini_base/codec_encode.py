"""Codes of whole shards, by the weights that are shipped: those of the exported folder, in fp32.

The clips of a shard are sorted by length and padded with silence to that of the longest of a batch. The encoder is causal
and clips are whole frames, so neither changes a code; the books are the stock ones.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from codec_data import Log, Shard, read_shard
from codec_model import Forward
from numpy.typing import NDArray
from qwen_tts import Qwen3TTSTokenizer
from voices import FRAME, RATE

BATCH_SECONDS = 400.0
"""Audio of a batch; the first layers take about 8 kB a sample."""
AHEAD = 6
"""Shards read in advance."""


@torch.inference_mode()
def encode_shard(forward: Forward, shard: Shard, device: torch.device, batch_seconds: float = BATCH_SECONDS) -> NDArray[np.uint16]:
    """Codes of all clips of a shard, one after the other in its order, ``[frames, books]``."""
    frames = shard.samples // FRAME
    starts = np.cumsum(frames) - frames
    audio = torch.from_numpy(shard.audio).to(device)
    books = forward.model.encoder_valid_num_quantizers
    codes = torch.zeros(int(frames.sum()), books, dtype=torch.int16, device=device)
    order = np.argsort(-frames, kind="stable")
    while len(order):
        longest = int(frames[order[0]])
        count = max(1, int(batch_seconds * RATE / (longest * FRAME)))
        rows, order = order[:count], order[count:]
        start, size = (torch.from_numpy(values[rows]).to(device)[:, None] for values in (starts, frames))
        place = torch.arange(longest * FRAME, device=device)
        sample = (start * FRAME + place).clamp(max=len(audio) - 1)
        batch = (audio[sample].float() / 32768) * (place < size * FRAME)
        embedding = forward.embed(batch)
        found = forward.model.encoder.quantizer.encode(embedding, books).permute(1, 2, 0)
        frame = torch.arange(longest, device=device)
        inside = frame < size
        codes[(start + frame)[inside]] = found[inside].to(torch.int16)
    return codes.cpu().numpy().astype(np.uint16)


def encode_folder(shards: Path, model: Path, out: Path, log: Log) -> None:
    """Write `codes-NAME.npz` for every shard, held-out ones too; those that this model already wrote are skipped.

    A file holds `codes` uint16 ``[frames of all clips, books]``, `frames` int32 ``[clips]`` and the model's SHA-256.

    Raises:
        ValueError: there is no shard, or one is broken.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    paths = sorted([*shards.glob("shard-*.npz"), *shards.glob("held-*.npz")])
    if not paths:
        raise ValueError(f"{shards}: no shard-*.npz or held-*.npz")
    version = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(model.glob("*.safetensors")))).hexdigest()
    out.mkdir(parents=True, exist_ok=True)
    todo = deque(path for path in paths if not _is_done(out / f"codes-{path.name}", version))
    log(f"{len(paths)} shards, {len(todo)} to encode on {device}")
    forward = Forward(Qwen3TTSTokenizer.from_pretrained(str(model), dtype=torch.float32).model.eval().to(device))
    started = told = time.monotonic()
    counts = np.zeros((forward.model.encoder_valid_num_quantizers, forward.model.config.encoder_config.codebook_size), dtype=np.int64)
    done = clips = frames = 0
    with ThreadPoolExecutor(max_workers=4) as pool:
        reading: deque[tuple[Path, Future[Shard]]] = deque()
        while todo or reading:
            while todo and len(reading) < AHEAD:
                path = todo.popleft()
                reading.append((path, pool.submit(read_shard, path)))
            path, pending = reading.popleft()
            shard = pending.result()
            codes = encode_shard(forward, shard, device)
            _write(out / f"codes-{path.name}", codes, shard.samples // FRAME, version)
            done, clips, frames = done + 1, clips + len(shard.samples), frames + len(codes)
            for book, row in enumerate(counts):
                row += np.bincount(codes[:, book], minlength=len(row))
            if time.monotonic() - told > 10:
                told = time.monotonic()
                log(f"{done} shards, {clips} clips after {told - started:.0f} s")
    seconds = time.monotonic() - started
    log(f"encoded {clips} clips, {frames * FRAME / RATE / 3600:.2f} h, in {seconds:.1f} s")
    if frames:
        log("perplexity of books " + " ".join(f"{_perplexity(row):.0f}" for row in counts))


def _perplexity(counts: NDArray[np.int64]) -> float:
    share = counts[counts > 0] / counts.sum()
    return math.exp(-float((share * np.log(share)).sum()))


def _is_done(path: Path, version: str) -> bool:
    if not path.is_file():
        return False
    with np.load(path) as content:
        return str(content["model"]) == version


def _write(path: Path, codes: NDArray[np.uint16], frames: NDArray[np.int64], version: str) -> None:
    temporary = path.with_name(f"{path.name}.part")
    with temporary.open("wb") as file:
        np.savez(file, codes=codes, frames=frames.astype(np.int32), model=np.array(version))
    os.replace(temporary, path)
