"""Language rows: where they start, and the check that a row which looks free is not a trained one."""

from __future__ import annotations

from typing import Any

import torch

from qrecipe.errors import BaseModelError, Place, Problem
from qrecipe.model.weights import Delta, parameters
from qrecipe.qwen3 import CODEC_TABLE
from qrecipe.recipe.language import Language

TRAINED_SHARE = 0.5
"""A free row whose norm is above this share of the listed languages' median norm may hold something trained."""


def initial_rows(net: Any, languages: dict[str, tuple[int, Language]], listed: dict[str, int]) -> Delta:
    """The rows of new languages before any stage: mean or copy of listed ones, at the mean of their norms.

    Args:
        languages: key -> (row, settings).
        listed: languages of the base with their rows.
    """
    table = parameters(net)[CODEC_TABLE].detach().float().cpu()
    ids, values = [], []
    for row, language in sorted(languages.values(), key=lambda item: item[0]):
        sources = torch.stack([table[listed[s]] for s in language.init.sources])
        mean = sources.mean(0)
        if len(sources) > 1:
            mean = mean * (sources.norm(dim=1).mean() / mean.norm().clamp(min=1e-12))
        ids.append(row)
        values.append(mean)
    return Delta(rows={CODEC_TABLE: (torch.tensor(ids), torch.stack(values))})


def require_free(net: Any, row: int, listed: dict[str, int], place: Place, automatic: bool) -> None:
    """Raises `BaseModelError` if a row that no map lists looks trained in the weights.

    A row that was never trained keeps the norm of its initialisation or of decay; one that was has the norm of the
    listed languages. Where free rows of the same table are as long as listed ones, norms tell nothing and the row is
    taken to be free.
    """
    table = parameters(net)[CODEC_TABLE].detach().float().cpu()
    norms = table.norm(dim=1)
    typical = norms[torch.tensor(sorted(listed.values()))].median()
    free = norms[row : row + 256]
    if free.median() > TRAINED_SHARE * typical or norms[row] <= TRAINED_SHARE * typical:
        return
    length = float(norms[row])
    message = f"row {row} looks trained: its norm is {length:.3g}, and free rows around it have {float(free.median()):.3g}"
    help_ = "set `token_id` to another row" if automatic else "choose another row, or `auto`"
    raise BaseModelError(Problem("QR022", message, place, help_))
