"""One cache, several processes at once, one of them killed: every entry is whole, and every process gets the same codes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qrecipe.data.codes import HEARD, Encoded, Encoder
from qrecipe.data.reading import Recording
from qrecipe.hashes import FileHashes, sha256
from qrecipe.inputs.bases import LocalBase
from qrecipe.shards import ShardStore
from qrecipe.store import JsonStore
from qrecipe.world import World
from tests.support import audio

CLIPS = 24


class Slow:
    """An encoder whose codes are known, and which gives the others time to meet it."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.world, self.device = World(), torch.device("cpu")

    def encode(self, audios: list[audio.Audio]) -> list[torch.Tensor]:
        time.sleep(0.02)
        return [torch.tensor([[len(a) % 2048, int(np.abs(a).sum()) % 2048]]) for a in audios]


def in_processes(count: int, work: Callable[[int], None]) -> list[int]:
    """Forks, and gives the exit codes; what a process raises is 1."""
    started = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work(number)
                code = 0
            finally:
                os._exit(code)
        started.append(pid)
    if count > 1:
        time.sleep(0.1)
        os.kill(started[0], signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started]


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    return [audio.write(tmp_path / f"{i}.wav", audio.speech(i, 0.5 + 0.01 * i)) for i in range(CLIPS)]


def test_processes_share_the_cache(mini: LocalBase, clips: list[Path], tmp_path: Path) -> None:
    requests = [Recording(c, False) for c in clips]

    def encode(place: str) -> str:
        encoder: Any = Encoder(Slow(mini.folder), mini, FileHashes(tmp_path / place / "hashes.sqlite"), tmp_path / place)  # type: ignore[arg-type]
        encoder.opened.folder = mini.folder
        codes = [f.codes.tolist() for request in requests for f in encoder.codes([request]) if isinstance(f, Encoded)]
        encoder.hashes.save()
        return hashlib.sha256(json.dumps(codes).encode()).hexdigest()

    alone = encode("alone")

    def work(number: int) -> None:
        assert encode("shared") == alone

    assert in_processes(4, work) == [-9, 0, 0, 0]
    (folder,) = {s.parent for s in (tmp_path / "shared" / "codes").rglob("*.shard")}
    entries = ShardStore(folder, "codes", "seconds", *HEARD)
    entries.refresh()
    assert all(entries.get(sha256(c)) is not None for c in clips)
    hashes = FileHashes(tmp_path / "shared" / "hashes.sqlite")
    assert all(hashes.known(c) == sha256(c) for c in clips), "what one process learned the others did not take away"


def test_processes_share_pieces_out(tmp_path: Path) -> None:
    """Every piece is made once, also where its first maker was killed at it."""
    made = tmp_path / "made"

    def work(number: int) -> None:
        def make(i: int) -> dict[str, int]:
            time.sleep(10.0 if number == 0 else 0.02)
            with open(made, "a") as f:
                f.write(f"{i}\n")
            return {"square": i * i}

        entries = JsonStore(tmp_path).get_or_make([str(i) for i in range(CLIPS)], make, pause=0.01)
        assert dict(entries) == {i: {"square": i * i} for i in range(CLIPS)}

    assert in_processes(4, work) == [-9, 0, 0, 0]
    assert sorted(map(int, made.read_text().split())) == list(range(CLIPS))
    assert not list(tmp_path.glob(".*")), "no lock is left"
