"""Hashes of datasets: equal hashes mean the same rows, recordings and references."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from msgspec import json

from qrecipe.files import NOT_UTF8, FileHashes, canonical_json, is_file
from qrecipe.inputs.manifest import Manifest
from qrecipe.inputs.row_table import Rows
from qrecipe.recipe import LoadedRecipe
from qrecipe.recipe.dataset import Dataset, SpeechDataset

SILENT = 0
"""Sound of a row of text."""
AT_ONCE = 4096
"""Rows that are text at a time."""


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
    whole.update(f"[{canonical_json(dataset.kind)},{canonical_json(dataset.language)},[".encode())
    for rows in _rows(manifest.rows, hashes):
        whole.update(separator + json.encode(rows)[1:-1])
        sounds.extend(SILENT if row[1] is None and row[5] is None else hash(row[5] or row[1]) for row in rows)
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
    return [hashlib.sha256(json.encode(row)).hexdigest() for rows in _rows(manifest.rows, hashes) for row in rows]


def _rows(rows: Rows, hashes: FileHashes) -> Iterator[list[tuple[Any, ...]]]:
    """Rows, some thousands at a time: text, recording, reference, its text, speaker, codes, cut, with hashes for recordings and codes."""
    folder = str(rows.folder)
    for start in range(0, len(rows), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        text, audio, reference, reference_text, speaker, cut = (
            rows.column(field)[part] for field in ("text", "audio", "reference", "reference_text", "speaker", "cut")
        )
        recordings = list(dict.fromkeys(name for name in (*audio, *reference) if name is not None))
        checksums: dict[str | None, str] = dict(zip(recordings, hashes.sha256_of_all([os.path.join(folder, r) for r in recordings])))
        codes = rows.codes.digests(start, start + AT_ONCE)
        columns = (text, map(checksums.get, audio), map(checksums.get, reference), reference_text, speaker, codes, cut)
        yield list(zip(*columns))
