"""Hashes of datasets: equal hashes mean the same rows, recordings and references."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from msgspec import json

from qrecipe.files import NOT_UTF8, canonical_json, is_file
from qrecipe.hashes import FileHashes
from qrecipe.inputs.manifest import Manifest, start_of_content
from qrecipe.recipe import LoadedRecipe
from qrecipe.recipe.dataset import Dataset, SpeechDataset


def content_of(loaded: LoadedRecipe, dataset: Dataset, manifest: Manifest, hashes: FileHashes) -> str | None:
    """SHA-256 of a dataset's rows with their recordings, and of its own reference, in hex; None while that is missing."""
    whole = (manifest.content or start_of_content(dataset.kind, dataset.language)).copy()
    own: list[Any] = []
    if isinstance(dataset, SpeechDataset):
        reference = loaded.path(dataset.reference) if dataset.reference else None
        if reference is not None and not is_file(reference):
            return None
        own += [hashes.sha256(reference) if reference else None, dataset.reference_text, dataset.max_seconds]
        limits = dataset.filter.model_dump(exclude_none=True)
        recogniser = loaded.recipe.evaluators.asr if dataset.filter.max_cer is not None else None
        own += [limits, recogniser.model_dump(mode="json") if recogniser is not None else None] if limits else []
    if lead := loaded.recipe.lead(dataset.language):
        own.append({"lead": lead})
    whole.update("".join(["]", *(f",{canonical_json(v)}" for v in own), "]"]).encode(errors=NOT_UTF8))
    return whole.hexdigest()


def row_hashes(manifest: Manifest, hashes: FileHashes) -> list[str]:
    """SHA-256 of every row with the content of its recordings in place of their paths, in hex."""
    rows, checksums = manifest.rows, list[str]()
    for share in rows.shares():
        names = rows.recordings(*share)
        known = dict(zip(names, hashes.sha256_of_all([os.path.join(rows.folder, name) for name in names])))
        checksums += [hashlib.sha256(json.encode(row)).hexdigest() for row in rows.contents(*share, known)]
    return checksums
