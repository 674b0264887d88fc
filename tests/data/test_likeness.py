"""Acoustic fingerprints: one recording in every format, and different ones of the same voice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qrecipe.data.audio import encoded, load, read
from qrecipe.data.likeness import ALIKE, EXACT, Fingerprint, alike, fingerprint, is_one_sound
from qrecipe.qwen3 import SAMPLE_RATE

DATA = Path(__file__).parents[2] / "recipes" / "data" / "english"
FORMATS = {
    "flac": ("FLAC", "PCM_16", SAMPLE_RATE),
    "mp3": ("MP3", "MPEG_LAYER_III", SAMPLE_RATE),
    "vorbis": ("OGG", "VORBIS", SAMPLE_RATE),
    "opus": ("OGG", "OPUS", SAMPLE_RATE),
    "cd": ("WAV", "PCM_24", 44_100),
    "telephone": ("WAV", "ULAW", 16_000),
}


def heard(path: Path) -> Fingerprint:
    speech = load(path, 30.0).speech
    return fingerprint(speech), len(speech) / SAMPLE_RATE


@pytest.fixture(scope="module")
def clips() -> list[Path]:
    lines = (DATA / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [DATA / json.loads(line)["audio"] for line in lines[:40]]


@pytest.fixture(scope="module")
def known(clips: list[Path]) -> list[Fingerprint]:
    return [heard(clip) for clip in clips]


def test_sentences_of_one_voice_are_told_apart(known: list[Fingerprint]) -> None:
    prints = np.stack([f for f, _ in known])
    cosines = prints @ prints.T - np.eye(len(prints))
    assert float(cosines.max()) < ALIKE - 0.15


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_a_clip_is_known_in_another_format_and_at_another_loudness(
    name: str, clips: list[Path], known: list[Fingerprint], tmp_path: Path
) -> None:
    container, subtype, rate = FORMATS[name]
    copies = []
    for i, clip in enumerate(clips[:6]):
        samples = read(clip) * np.float32(0.5)
        if rate != SAMPLE_RATE:
            import librosa

            samples = librosa.resample(samples, orig_sr=SAMPLE_RATE, target_sr=rate)
        (tmp_path / f"{i}").write_bytes(encoded(samples, rate, format=container, subtype=subtype))
        copies.append(heard(tmp_path / f"{i}"))
    assert sorted((a, b) for a, b, _ in alike(copies, known)) == [(i, i) for i in range(6)]
    if name == "flac":
        assert all(cosine >= EXACT for _, _, cosine in alike(copies, known))


def test_speech_of_another_length_is_another_sound(known: list[Fingerprint]) -> None:
    print_, seconds = known[0]
    assert is_one_sound((print_, seconds), (print_, seconds + 0.2))
    assert not is_one_sound((print_, seconds), (print_, seconds + 0.3))
    assert list(alike([(print_, seconds)], [(print_, seconds + 0.3)])) == []
    assert list(alike([], known)) == []


def test_silence_and_a_single_click_have_fingerprints() -> None:
    for samples in (np.zeros(10, np.float32), np.ones(1, np.float32)):
        assert np.isfinite(fingerprint(samples)).all()
