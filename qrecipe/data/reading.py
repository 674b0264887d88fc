"""Recordings made ready for the encoder, in processes of their own where they would keep it waiting. Never imports torch."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qrecipe import workers
from qrecipe.data import audio
from qrecipe.data.audio import Audio, AudioProblem
from qrecipe.data.likeness import Fingerprint, fingerprint
from qrecipe.qwen3 import SAMPLE_RATE


@dataclass(frozen=True)
class Recording:
    """A recording to be encoded."""

    path: Path
    trim: bool
    """Training and judging data are trimmed; references are heard as stock qwen_tts hears them."""
    max_seconds: float = 60.0


@dataclass(frozen=True)
class PreparedAudio:
    """A recording that was read, checked and brought to 24 kHz."""

    samples: Audio
    """[samples] float32, mono."""
    seconds: float
    """Duration before trimming."""
    trimmed: float
    """Seconds that trimming took away."""
    heard: Fingerprint


def prepared(recording: Recording) -> PreparedAudio | AudioProblem:
    """A recording made ready, or why it cannot be used."""
    load = audio.load if recording.trim else audio.load_reference
    try:
        clip = load(recording.path, recording.max_seconds)
    except AudioProblem as e:
        return e
    return PreparedAudio(clip.samples, clip.seconds, clip.trimmed, (fingerprint(clip.speech), len(clip.speech) / SAMPLE_RATE))


def prepared_ahead(recordings: Sequence[Recording], cores_are_free: bool) -> Generator[PreparedAudio | AudioProblem]:
    """Recordings made ready, in order. Close it when its results are no longer wanted.

    `cores_are_free` while somebody waits for the results: a GPU encodes a recording in less time than a core takes to
    read it. A CPU takes thirty times as long, on all cores.
    """
    return workers.in_order(prepared, recordings, workers.spare(len(recordings)) if cores_are_free else 0)
