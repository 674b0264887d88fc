"""`search`: which variants of a recipe `qrecipe search` tries, and which sentences choose among them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from qrecipe.recipe.model import Identifier, Settings


class Search(Settings):
    """Variants that are tried by successive halving, and what they are judged by."""

    data: Annotated[str, Field(min_length=1)]
    """A dataset whose sentences choose: recordings, or text, which the variants read in the voices of `teacher.voices`. No stage trains on it, and no gate or `select` reads it: what chooses among many has seen them all, and judges none."""
    metric: Annotated[str, Field(min_length=1)] = "cer"
    """Decides; any metric, best one that hears."""
    prompts: Annotated[int, Field(ge=2)] = 24
    """At most this many sentences are spoken by each variant, the first ones, with the seeds and layouts of `evaluation`."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """Level of the intervals. Those of differences to the recipe as it is are widened for the number of variants (Bonferroni)."""
    candidates: Annotated[dict[Identifier, dict[str, Any]], Field(max_length=200)] = {}
    """Variants by name: each a piece of recipe, merged as if it were a file that extends this one. Stages merge by `id`; `remove: [stages]` replaces them all."""
    defaults: bool = True
    """Whether the shipped variants are tried as well: what trains, rates on a grid of three, the share of replay, the order of stages, respelling or speech first, a rewarded stage at the end."""
