"""The cache of codes and x-vectors: by content, made once, mended when broken, equal to encoding one by one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from qrecipe.data.audio import AudioProblem
from qrecipe.data.codes import Encoded, Encoder
from qrecipe.data.reading import Recording
from qrecipe.errors import UserError
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import LocalBase
from qrecipe.model.load import LoadedBase
from tests.support import audio, ties

pytestmark = pytest.mark.filterwarnings("ignore:.*slated for removal:DeprecationWarning")
"""Modules that audioread imports, which librosa.load asks for."""


class Counting:
    """The opened base, counting what goes through its encoders."""

    def __init__(self, opened: LoadedBase) -> None:
        self._opened = opened
        self.clips = self.voices = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    def encode(self, audios: list[audio.Audio]) -> list[torch.Tensor]:
        self.clips += len(audios)
        return self._opened.encode(audios)

    def x_vector(self, samples: audio.Audio) -> torch.Tensor:
        self.voices += 1
        return self._opened.x_vector(samples)


@pytest.fixture
def counting(opened: LoadedBase) -> Counting:
    return Counting(opened)


@pytest.fixture
def encoder(counting: Counting, mini: LocalBase, tmp_path: Path) -> Encoder:
    return Encoder(counting, mini, FileHashes(tmp_path / "hashes.sqlite"), tmp_path / "cache")  # type: ignore[arg-type]


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    return [audio.write(tmp_path / f"{i}.wav", audio.speech(i, 0.5 + 0.25 * i)) for i in range(3)]


def codes_of(found: list[Encoded | AudioProblem]) -> list[torch.Tensor]:
    assert all(isinstance(f, Encoded) for f in found)
    return [f.codes for f in found if isinstance(f, Encoded)]


def test_a_recording_is_encoded_once(encoder: Encoder, counting: Counting, clips: list[Path]) -> None:
    requests = [Recording(p, True) for p in clips]
    first = codes_of(encoder.codes(requests))
    assert counting.clips == 3
    again = codes_of(encoder.codes(requests))
    assert counting.clips == 3
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    shutil.copy(clips[0], clips[0].with_name("copy.wav"))
    encoder.codes([Recording(clips[0].with_name("copy.wav"), True)])
    assert counting.clips == 3, "the same content under another name"


def test_what_does_not_fit_into_memory_is_encoded_in_parts(
    encoder: Encoder, counting: Counting, clips: list[Path], mini: LocalBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [Recording(p, True) for p in clips]
    whole = codes_of(encoder.codes(requests))
    narrow = Encoder(encoder.opened, mini, FileHashes(tmp_path / "hashes.sqlite"), tmp_path / "another cache")
    encode, tried = counting.encode, []

    def one_at_most(audios: list[audio.Audio]) -> list[torch.Tensor]:
        tried.append(len(audios))
        if len(audios) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(audios)

    monkeypatch.setattr(counting, "encode", one_at_most)
    told: list[int] = []
    found = codes_of(narrow.codes(requests, told.append))
    assert all(torch.equal(a, b) for a, b in zip(whole, found, strict=True))
    assert (max(tried), sum(n for n in tried if n == 1), told) == (3, 3, [1, 2, 3])


def test_a_recording_that_does_not_fit_alone_is_named(
    encoder: Encoder, counting: Counting, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(counting, "encode", full)
    monkeypatch.setattr(counting, "x_vector", full)
    with pytest.raises(UserError) as caught:
        encoder.codes([Recording(p, True) for p in clips])
    assert [(p.code, p.place.file) for p in caught.value.problems] == [("QR074", str(clips[0]))]
    with pytest.raises(UserError, match="this reference does not fit"):
        encoder.voice(clips[1])


def test_other_content_or_another_preparation_is_another_entry(encoder: Encoder, counting: Counting, clips: list[Path]) -> None:
    encoder.codes([Recording(clips[0], True)])
    encoder.codes([Recording(clips[0], False)])
    assert counting.clips == 2
    audio.write(clips[0], audio.speech(77, 0.9))
    encoder.codes([Recording(clips[0], True)])
    assert counting.clips == 3


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_stands_beside_a_recording_changes_no_code(
    device: str, opened: LoadedBase, mini: LocalBase, clips: list[Path], tmp_path: Path
) -> None:
    """Whole frames or a part of one at the end, which stock encodes by what follows. On a GPU that one is filled up with silence. Ties aside."""
    clips.append(audio.write(clips[0].with_name("whole.wav"), audio.speech(8, 10 * 0.08)))
    clips.append(audio.write(clips[0].with_name("longer.wav"), audio.speech(9, 14 * 0.08)))
    encoder = Encoder(replace(opened, device=torch.device(device)), mini, FileHashes(tmp_path / "hashes.sqlite"), tmp_path / "cache")
    together = codes_of(encoder.codes([Recording(p, False) for p in clips]))
    for path, codes in zip(clips, together, strict=True):
        if device == "cpu":
            alone = opened.net.speech_tokenizer.encode(str(path)).audio_codes[0]
            assert torch.equal(codes, alone.to(torch.int64))
        else:
            samples, rate = soundfile.read(str(path), dtype="float32")
            audio.write(path, np.pad(samples, (0, -len(samples) % opened.samples_per_frame)), rate)
        ties.assert_encoded(codes, opened.net.speech_tokenizer, str(path))
    assert [len(c) for c in together] == [7, 10, 13, 10, 14]


def test_results_are_in_the_order_of_the_requests(encoder: Encoder, clips: list[Path], tmp_path: Path) -> None:
    """Batches are sorted by length, and a recording that cannot be used holds its place."""
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no")
    done: list[int] = []
    found = encoder.codes([Recording(p, False) for p in (clips[2], bad, clips[0], clips[1])], done.append)
    assert isinstance(found[1], AudioProblem)
    assert [len(f.codes) for f in found if isinstance(f, Encoded)] == [13, 7, 10]
    assert done[-1] == 4
    assert done == sorted(done)


@pytest.fixture
def again(encoder: Encoder, counting: Counting, mini: LocalBase, tmp_path: Path) -> Callable[[], Encoder]:
    """Encoders of later processes, on the same cache."""
    return lambda: Encoder(counting, mini, encoder.hashes, tmp_path / "cache")  # type: ignore[arg-type]


def test_what_one_process_encoded_another_finds(
    encoder: Encoder, counting: Counting, clips: list[Path], again: Callable[[], Encoder]
) -> None:
    requests = [Recording(p, trim) for p in clips for trim in (True, False)]
    first = encoder.codes(requests)
    voice = encoder.voice(clips[2])
    for was, now in zip(first, again().codes(requests[::-1])[::-1], strict=True):
        assert isinstance(was, Encoded)
        assert isinstance(now, Encoded)
        assert torch.equal(was.codes, now.codes)
        assert (was.seconds, was.trimmed) == (now.seconds, now.trimmed)
        assert was.heard is not None
        assert now.heard is not None
        assert (was.heard[0] == now.heard[0]).all()
    assert torch.equal(again().voice(clips[2]).x_vector, voice.x_vector)
    assert (counting.clips, counting.voices) == (6, 1)


@pytest.mark.parametrize("damage", ["cut", "emptied", "a code or a time", "all of it"])
def test_a_broken_entry_is_made_again_and_once(
    damage: str, encoder: Encoder, counting: Counting, clips: list[Path], tmp_path: Path, again: Callable[[], Encoder]
) -> None:
    requests = [Recording(p, True) for p in clips]
    first = codes_of(encoder.codes(requests))
    (shard,) = (tmp_path / "cache" / "codes").rglob("*.shard")
    content = bytearray(shard.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    if damage == "cut":
        content = content[:-7]
    elif damage == "emptied":
        content.clear()
    elif damage == "a code or a time":
        content[start] ^= 1
    else:
        content[start:] = bytes(b ^ 255 for b in content[start:])
    shard.unlink()  # an open file keeps what it was
    shard.write_bytes(content)
    for _ in range(2):
        found = codes_of(again().codes(requests))
        assert all(torch.equal(a, b) for a, b in zip(first, found, strict=True))
    assert counting.clips == (4 if damage == "a code or a time" else 6)


def test_entries_are_few_files_and_what_was_done_is_kept(
    encoder: Encoder, counting: Counting, clips: list[Path], tmp_path: Path, again: Callable[[], Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after the first batch: that is on the disk, and alone is not made again."""
    encode = counting.encode

    def interrupted(audios: list[audio.Audio]) -> list[torch.Tensor]:
        if counting.clips:
            raise KeyboardInterrupt
        return encode(audios)

    monkeypatch.setattr(counting, "encode", interrupted)
    monkeypatch.setattr("qrecipe.data.codes.BATCH_SECONDS", 0.1)
    requests = [Recording(p, True) for p in clips]
    with pytest.raises(KeyboardInterrupt):
        encoder.codes(requests)
    monkeypatch.setattr(counting, "encode", encode)
    codes_of(again().codes(requests))
    assert counting.clips == 3
    shards = sorted((tmp_path / "cache" / "codes").rglob("*.shard"))
    assert len(shards) == 2
    os.utime(shards[0], (0, 0))
    codes_of(again().codes(requests))
    assert shards[0].stat().st_mtime > 0, "counts as used"


def test_x_vectors_are_cached_and_stock_s_own(encoder: Encoder, counting: Counting, opened: LoadedBase, tmp_path: Path) -> None:
    path = audio.write(tmp_path / "voice.wav", audio.speech(5, 1.0, 16_000), 16_000)
    vector = encoder.voice(path).x_vector
    assert torch.equal(encoder.voice(path).x_vector, vector)
    assert counting.voices == 1
    (item,) = opened.wrapper.create_voice_clone_prompt(str(path), x_vector_only_mode=True)
    assert vector.dtype == torch.float32
    assert item.ref_spk_embedding.float().sub(vector).abs().max() < 1e-6


def test_times_are_kept_with_the_codes(encoder: Encoder, tmp_path: Path) -> None:
    path = audio.write(tmp_path / "a.wav", audio.speech(5, 1.0, pause=0.5))
    for _ in range(2):
        (found,) = encoder.codes([Recording(path, True)])
        assert isinstance(found, Encoded)
        assert found.seconds == pytest.approx(2.0, abs=0.01)
        assert found.trimmed == pytest.approx(0.8, abs=0.07)
