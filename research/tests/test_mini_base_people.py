"""Recordings of people for the speech tokenizer: what is kept of them, how they are packed, and the shards they become."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

TOOLS = Path(__file__).resolve().parents[2] / "research" / "mini_base"
sys.path.insert(0, str(TOOLS))  # the tools are scripts, not a package
try:
    import people
    from voices import FRAME, PEAK, RATE, UNKNOWN
finally:
    sys.path.remove(str(TOOLS))

random = np.random.default_rng(0)


def speech(seconds: float, pitch: float = 150.0) -> people.Samples:
    """A tone with overtones, loud in all of its parts."""
    time = np.arange(round(seconds * RATE)) / RATE
    return sum(np.sin(2 * np.pi * pitch * k * time) / k for k in (1, 2, 3)).astype(np.float32) * np.float32(0.2)


def silence(seconds: float) -> people.Samples:
    return (random.standard_normal(round(seconds * RATE)) * 1e-5).astype(np.float32)


def piece(seconds: float, speaker: str = "one") -> people.Piece:
    return people.Piece(speech(seconds), speaker, "source", speaker)


def write(path: Path, samples: people.Samples, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), samples, rate, subtype="PCM_16")
    return path


def test_no_source_is_one_that_judges() -> None:
    """Romanian and Italian judge the studies, and so do Tux Paint's recordings: none of them may be heard."""
    for source in people.SOURCES:
        assert source.language not in ("Romanian", "Italian"), source.name
        assert not {"ro", "it", "tuxpaint"} & set(source.files.replace("-", "/").split("/")), source.name
        assert "GPL" not in source.licence, source.name
    assert len({source.name for source in people.SOURCES}) == len(people.SOURCES)


def test_a_recording_is_trimmed_and_levelled(tmp_path: Path) -> None:
    file = write(tmp_path / "a.wav", np.concatenate([silence(1), speech(1), silence(1)]))
    (heard,) = people.heard(file)
    assert 1.1 < len(heard) / RATE < 1.3
    assert np.abs(heard).max() == pytest.approx(PEAK)
    assert people.heard(write(tmp_path / "silent.wav", silence(2))) == []
    assert people.heard(write(tmp_path / "clipped.wav", np.clip(speech(2) * 9, -1, 1))) == []


def test_what_is_long_is_cut_at_its_pauses() -> None:
    parts = people.cut(np.concatenate([speech(9), silence(0.5), speech(11)]))
    first, second = (len(part) / RATE for part in parts)
    assert 9 < first < 9.5
    assert first + second == pytest.approx(20.5)
    assert people.cut(speech(20)) == []


def test_short_words_of_one_speaker_are_joined() -> None:
    found = list(people.joined([piece(0.6, "one" if n % 2 else "two") for n in range(16)] + [piece(3), piece(0.2, "three")], "seed"))
    assert {clip.speaker for clip in found} == {"one", "two"}
    assert all(people.SHORTEST <= len(clip.samples) / RATE <= people.JOINED[1] + 0.8 for clip in found)
    gaps = sum(len(clip.samples) for clip in found) / RATE - 16 * 0.6 - 3
    assert gaps == pytest.approx(people.GAP * (16 + 1 - len(found)), abs=0.01)


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two voices, as `gather` leaves them."""
    folder = tmp_path_factory.mktemp("people")
    pytest.importorskip("av")
    rows = []
    for name, pitch in (("low", 110.0), ("high", 220.0)):
        clips = [people.Piece(speech(0.9 + k / 50, pitch), name, "made", name) for k in range(70)]
        rows.append({"file": f"{name}.ogg", "voice": name, "clips": people.write_pack((folder / f"{name}.ogg", clips))})
    (folder / "people.json").write_text(json.dumps({"rate": RATE, "sources": [], "packs": rows}))
    return folder


@pytest.mark.slow
def test_shards_are_what_the_trainer_reads(packs: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    sys.path.insert(0, str(TOOLS))
    try:
        import codec_data
    finally:
        sys.path.remove(str(TOOLS))
    hours = people.shards(packs, tmp_path, workers=1)
    assert sorted(hours) == ["high", "low"]
    trained, held = (codec_data.read_shard(tmp_path / name) for name in ("people-00000.npz", "heldpeople-00000.npz"))
    assert (len(trained.samples), len(held.samples)) == (136, 4)  # one in sixty, of either voice
    assert {*trained.voice, *held.voice} == {people.FIRST, people.FIRST + 1}
    assert (trained.phoneme == UNKNOWN).all()
    assert len(set(trained.voice[:20])) == 2  # in mixed order
    # every clip holds what was packed at its place: the pitch of its voice, from its first frame on
    for voice, end, size in zip(trained.voice, np.cumsum(trained.samples), trained.samples, strict=True):
        clip = trained.audio[end - size : end] / 32767
        bins = np.abs(np.fft.rfft(clip[:FRAME] * np.hanning(FRAME), 8 * FRAME))
        assert bins.argmax() * RATE / (8 * FRAME) == pytest.approx({people.FIRST: 110, people.FIRST + 1: 220}[voice], abs=12)


@pytest.mark.slow
def test_a_pack_that_ends_early_is_told(packs: Path, tmp_path: Path) -> None:
    index = json.loads((packs / "people.json").read_text())
    index["packs"] = index["packs"][:1]
    index["packs"][0]["clips"].append([10**9, RATE, "low", "made"])
    (tmp_path / "people.json").write_text(json.dumps(index))
    (tmp_path / "low.ogg").write_bytes((packs / "low.ogg").read_bytes())
    with pytest.raises(ValueError, match=r"low\.ogg: ends at sample \d+, before clip 70 does"):
        people.unpack((tmp_path / "low.ogg", people.FIRST, index["packs"][0]["clips"], set()))


@pytest.mark.slow
def test_gather_on_the_command_line(tmp_path: Path) -> None:
    """A source that is there is packed with its licence; without any, the tool says so."""
    pytest.importorskip("av")
    folder = tmp_path / "got" / "dataset-voice-kerstin" / "verified"
    for k in range(3):
        write(folder / f"{k}.flac", speech(1 + k))
    command = [sys.executable, str(TOOLS / "people.py"), "gather", "--workers", "1", "--out", str(tmp_path / "out")]
    env = {"PYTHONPATH": str(TOOLS.parents[1]), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([*command, str(tmp_path / "got")], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    index = json.loads((tmp_path / "out" / "people.json").read_text())
    assert [source["licence"] for source in index["sources"]] == ["CC0-1.0"]
    assert [row[2:] for row in index["packs"][0]["clips"]] == [["Kerstin", "kerstin"]] * 3
    done = subprocess.run([*command, str(tmp_path / "out")], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "none of the sources is here" in done.stderr
