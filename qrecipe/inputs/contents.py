"""Hashes of datasets: equal hashes mean the same rows, recordings and references."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qrecipe.files import NOT_UTF8, FileHashes, canonical_json, is_file
from qrecipe.inputs.manifest import Manifest
from qrecipe.recipe import LoadedRecipe
from qrecipe.recipe.dataset import Dataset, SpeechDataset

SILENT = 0
"""Sound of a row of text."""
_string = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True)
class Content:
    """Content of a dataset."""

    sha256: str | None
    """Of its rows with their recordings, and of the dataset's own reference; None while that is missing."""
    sounds: array[int]
    """64 bits of the hash of every row's recording or codes; `SILENT` for a row of text. Equal ones are the same sound."""


def content_of(loaded: LoadedRecipe, dataset: Dataset, manifest: Manifest, hashes: FileHashes) -> Content:
    """The content of a dataset. Its rows are hashed one by one: a million of them are never text all at once."""
    whole, sounds, separator = hashlib.sha256(), array("q"), b""
    whole.update(f"[{_string(dataset.kind)},{_string(dataset.language)},[".encode())
    for row, sound in _rows(manifest, hashes):
        whole.update(separator + row)
        sounds.append(SILENT if sound is None else hash(sound))
        separator = b","

    own: list[Any] = []
    if isinstance(dataset, SpeechDataset):
        reference = loaded.path(dataset.reference) if dataset.reference else None
        if reference is not None and not is_file(reference):
            return Content(None, sounds)
        own += [hashes.sha256(reference) if reference else None, dataset.reference_text, dataset.max_seconds]
        limits = dataset.filter.model_dump(exclude_none=True)
        recogniser = loaded.recipe.evaluators.asr if dataset.filter.max_cer is not None else None
        own += [limits, recogniser.model_dump(mode="json") if recogniser is not None else None] if limits else []
    whole.update("".join(["]", *(f",{canonical_json(v)}" for v in own), "]"]).encode(errors=NOT_UTF8))
    return Content(whole.hexdigest(), sounds)


def row_hashes(manifest: Manifest, hashes: FileHashes) -> list[str]:
    """SHA-256 of every row with the content of its recordings in place of their paths, in hex."""
    return [hashlib.sha256(row).hexdigest() for row, _ in _rows(manifest, hashes)]


def _rows(manifest: Manifest, hashes: FileHashes) -> Iterator[tuple[bytes, str | None]]:
    """Every row as canonical JSON, the hashes of its recordings in the place of their paths; and what names its sound."""
    rows, folder = manifest.rows, str(manifest.rows.folder)
    columns = (rows.column(field) for field in ("text", "audio", "reference", "reference_text", "speaker", "codes", "cut"))
    for text, audio, reference, reference_text, speaker, codes, cut in zip(*columns):
        recording = None if audio is None else f'"{hashes.sha256(os.path.join(folder, audio))}"'
        frames = None if codes is None else codes.json()
        values = (
            _string(text),
            recording or "null",
            "null" if reference is None else f'"{hashes.sha256(os.path.join(folder, reference))}"',
            "null" if reference_text is None else _string(reference_text),
            "null" if speaker is None else _string(speaker),
            frames or "null",
            "true" if cut else "false",
        )
        yield f"[{','.join(values)}]".encode(errors=NOT_UTF8), recording or frames
