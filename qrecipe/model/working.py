"""The weights in memory while a run goes on: always the base plus exactly one delta, rounded as a bundle would be."""

from __future__ import annotations

import torch
from safetensors import safe_open

from qrecipe.inputs.weight_files import weight_files
from qrecipe.model.languages import initial_rows
from qrecipe.model.load import LoadedBase
from qrecipe.model.weights import Delta, apply, parameters
from qrecipe.recipe.language import Language


class WorkingWeights:
    """Moves the modules of an opened base between deltas."""

    def __init__(self, opened: LoadedBase) -> None:
        self.opened = opened
        self._touched: set[str] = set()
        self._file_of: dict[str, str] = {}
        for file in weight_files(opened.folder):
            with safe_open(str(file), framework="pt") as f:
                self._file_of.update(dict.fromkeys(f.keys(), str(file)))

    @torch.no_grad()
    def set(self, delta: Delta) -> None:
        """Makes the modules hold the base with this delta and nothing else."""
        tensors = parameters(self.opened.net)
        for name in sorted(self._touched):
            with safe_open(self._file_of[name], framework="pt") as f:
                tensors[name].copy_(f.get_tensor(name).to(tensors[name].dtype))
        apply(self.opened.net, delta, self.opened.export_dtype)
        self._touched = {*delta.whole, *delta.rows}

    def add_languages(self, rows: dict[str, int]) -> None:
        """Lists languages in the config in memory, as a bundle's config.json does."""
        self.opened.config.talker_config.codec_language_id.update(rows)
        supported = self.opened.net.supported_languages
        supported.extend(k for k in rows if k not in supported)


def with_languages(working: WorkingWeights, listed: dict[str, int], languages: dict[str, tuple[int, Language]]) -> Delta:
    """Adds new languages, key -> (row, settings), with their rows at their init, which the modules then hold.

    `listed` are the languages of the base with their rows.
    """
    working.add_languages({key: row for key, (row, _) in languages.items()})
    start = initial_rows(working.opened.net, languages, listed)
    working.set(start)
    return start
