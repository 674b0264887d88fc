"""Tensors that a base must have, by its config: fine-tuning scripts and conversions leave parts out. Reads names alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from qrecipe.qwen3 import (
    PREDICTOR_EMBEDDINGS,
    PREDICTOR_HEADS,
    PREDICTOR_LAYERS,
    PREDICTOR_PROJECTION,
    SPEAKER_ENCODER,
    TALKER_LAYERS,
)

TOKENIZER_PARTS = ("encoder", "decoder")
BASE_HELP = "take the `-Base` checkpoint with all its files"
SPEAKER_HELP = (
    "fine-tuning scripts leave the speaker encoder out: take the `-Base` checkpoint that this one was made from, "
    f"or add the `{SPEAKER_ENCODER}.*` tensors of that to these weights"
)


def missing_part(config: dict[str, Any], tensors: Collection[str], example: Iterable[str]) -> tuple[str, str] | None:
    """A part of the model that the weights lack, and what to do; None if there is none.

    `example` has the names of a whole model of any size, whose repeated modules are counted by `config`.
    """
    example = list(example)
    absent = [name for name in _required(config, example) if name not in tensors]
    kinds = {_kind(name) for name in tensors}
    absent += [name for name in example if name.startswith(f"{SPEAKER_ENCODER}.") and _kind(name) not in kinds]
    if not absent:
        return None
    part = _module(absent[0], tensors)
    help_ = SPEAKER_HELP if part.startswith(SPEAKER_ENCODER) else BASE_HELP
    return f"config.json asks for `{part}`, which the weights do not hold", help_


def _required(config: dict[str, Any], example: Iterable[str]) -> Iterable[str]:
    """Names of the talker's tensors. Those of the speaker encoder depend on settings that are only known by their kind."""
    talker = config["talker_config"]
    predictor = talker.get("code_predictor_config") or {}
    tables = int(talker.get("num_code_groups") or 1) - 1
    repeated = {
        TALKER_LAYERS: int(talker.get("num_hidden_layers") or 0),
        PREDICTOR_LAYERS: int(predictor.get("num_hidden_layers") or 0),
        PREDICTOR_EMBEDDINGS: tables,
        PREDICTOR_HEADS: tables,
    }
    same_width = talker.get("hidden_size") == predictor.get("hidden_size")
    for name in example:
        if name.startswith(f"{SPEAKER_ENCODER}.") or (same_width and name.startswith(PREDICTOR_PROJECTION)):
            continue
        module = next((m for m in repeated if name.startswith(f"{m}.")), None)
        if module is None:
            yield name
        elif name.startswith(f"{module}.0."):
            yield from (f"{module}.{i}.{name.removeprefix(f'{module}.0.')}" for i in range(repeated[module]))


def _kind(name: str) -> str:
    """A name without the numbers of repeated modules."""
    return re.sub(r"\.\d+(?=\.)", ".N", name)


def _module(name: str, tensors: Collection[str]) -> str:
    """The outermost module of a missing tensor of which nothing is there."""
    parts = name.split(".")
    modules = (".".join(parts[:n]) for n in range(1, len(parts)))
    return next((m for m in modules if not any(t.startswith(f"{m}.") for t in tensors)), name)
