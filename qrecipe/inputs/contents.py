"""Hashes of datasets: equal hashes mean the same rows, recordings and references."""

from __future__ import annotations

from typing import Any

from qrecipe.files import FileHashes, digest, is_file
from qrecipe.inputs.manifest import Manifest, Row
from qrecipe.recipe import LoadedRecipe
from qrecipe.recipe.dataset import Dataset, SpeechDataset


def row_content(row: Row, hashes: FileHashes) -> list[Any]:
    """A row with the content of its recordings in place of their paths."""
    return [
        row.text,
        hashes.sha256(row.audio) if row.audio else None,
        hashes.sha256(row.reference) if row.reference else None,
        row.reference_text,
        row.speaker,
        None if row.codes is None else row.codes.tolist(),
        row.cut,
    ]


def dataset_hash(loaded: LoadedRecipe, dataset: Dataset, manifest: Manifest, hashes: FileHashes) -> str | None:
    """Content of a dataset: its rows with their recordings, and the dataset's own reference; None while that is missing."""
    own: list[Any] = [dataset.kind, dataset.language, [row_content(r, hashes) for r in manifest.rows]]
    if isinstance(dataset, SpeechDataset):
        reference = loaded.path(dataset.reference) if dataset.reference else None
        if reference is not None and not is_file(reference):
            return None
        own += [hashes.sha256(reference) if reference else None, dataset.reference_text, dataset.max_seconds]
        limits = dataset.filter.model_dump(exclude_none=True)
        recogniser = loaded.recipe.evaluators.asr if dataset.filter.max_cer is not None else None
        own += [limits, recogniser.model_dump(mode="json") if recogniser is not None else None] if limits else []
    return digest(own)
