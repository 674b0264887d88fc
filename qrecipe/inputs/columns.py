"""Columns of other tools' tables: which of them is what a row holds here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

NAMES: dict[str, tuple[str, ...]] = {
    "audio": (
        *("audio", "audio_filepath", "audio_path", "audio_file", "file_name", "filename", "path", "file", "wav", "clip"),
        *("wav_path", "wav_filename", "recording", "mp3", "flac", "sound", "audio_name", "utterance_id"),
    ),
    "text": (
        *("text", "sentence", "transcript", "transcription", "normalized_text", "raw_transcription", "transcript_text"),
        *("raw_text", "utterance", "label", "orthographic", "caption", "content", "txt"),
    ),
    "speaker": ("speaker", "speaker_id", "client_id", "spk", "speaker_name", "spk_id", "reader", "voice", "user_id"),
    "reference": ("reference", "ref_audio", "prompt_audio", "reference_audio", "ref_wav"),
    "reference_text": ("reference_text", "ref_text", "prompt_text"),
    "language": ("language", "lang", "language_id", "locale"),
    "start": ("start", "offset", "start_time", "begin"),
    "end": ("end", "end_time", "stop"),
    "duration": ("duration", "length_seconds"),
    "cut": ("cut",),
}
"""Field of a row -> names that tools give it, the most telling first."""


@dataclass(frozen=True)
class Columns:
    """Which column holds what."""

    names: Mapping[str, str]
    """Field of a row -> the column."""
    ignored: tuple[str, ...]
    """Columns that nothing here needs."""

    @property
    def missing(self) -> list[str]:
        """Of a recording and its text, what no column holds."""
        return [k for k in ("audio", "text") if k not in self.names]


def recognise(columns: Collection[str], stated: Mapping[str, str] | None = None) -> Columns:
    """The columns of a table by their names, upper and lower case alike; `stated` ones come first."""
    stated = stated or {}
    lowered = {c.lower().replace(" ", "_"): c for c in reversed(list(columns))}
    names = {here: there for here, there in stated.items() if there in columns}
    for here, known in NAMES.items():
        column = next((lowered[n] for n in known if n in lowered and lowered[n] not in names.values()), None)
        if here not in stated and column is not None:
            names[here] = column
    return Columns(names, tuple(c for c in columns if c not in names.values()))
