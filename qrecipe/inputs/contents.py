"""Hashes of datasets: equal hashes mean the same rows, recordings and references."""

from __future__ import annotations

import hashlib
import json
from array import array
from dataclasses import dataclass
from typing import Any

from qrecipe.files import NOT_UTF8, FileHashes, canonical_json, is_file
from qrecipe.inputs.manifest import Manifest, Row
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
    whole, sounds, separator = hashlib.sha256(), array("q"), ""
    whole.update(f"[{_string(dataset.kind)},{_string(dataset.language)},[".encode())
    for row in manifest.rows:
        recording = hashes.sha256(row.audio) if row.audio is not None else None
        codes = row.codes.json() if row.codes is not None else None
        whole.update((separator + _row_json(row, recording, codes, hashes)).encode(errors=NOT_UTF8))
        sounds.append(hash(recording or codes) if recording or codes else SILENT)
        separator = ","

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


def row_hash(row: Row, hashes: FileHashes) -> str:
    """SHA-256 of a row with the content of its recordings in place of their paths, in hex."""
    recording = hashes.sha256(row.audio) if row.audio is not None else None
    codes = row.codes.json() if row.codes is not None else None
    return hashlib.sha256(_row_json(row, recording, codes, hashes).encode(errors=NOT_UTF8)).hexdigest()


def _row_json(row: Row, recording: str | None, codes: str | None, hashes: FileHashes) -> str:
    """A row as canonical JSON, with the hashes of its recordings and its codes as they are written."""
    reference = f'"{hashes.sha256(row.reference)}"' if row.reference is not None else "null"
    recording = f'"{recording}"' if recording is not None else "null"
    reference_text = _string(row.reference_text) if row.reference_text is not None else "null"
    speaker = _string(row.speaker) if row.speaker is not None else "null"
    cut = "true" if row.cut else "false"
    return f"[{_string(row.text)},{recording},{reference},{reference_text},{speaker},{codes or 'null'},{cut}]"
