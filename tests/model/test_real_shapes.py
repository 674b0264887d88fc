"""The stock classes at the shapes of the published checkpoints, on the meta device: what patterns select there."""

from __future__ import annotations

import json
import math
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
import torch

from qrecipe.errors import Place
from qrecipe.model.stock import stock
from qrecipe.plan import trainable
from qrecipe.recipe.stage import SpeechStage
from qrecipe.source.reader import Node

pytestmark = pytest.mark.slow

LARGE, SMALL = "qwen3-tts-12hz-1.7b-base", "qwen3-tts-12hz-0.6b-base"
PREDICTOR = "talker.code_predictor"
TABLES = "talker.code_predictor.model.codec_embedding"

COUNTS: dict[str, tuple[dict[str, Any], int, int]] = {
    "text embedding": ({"match": "talker.model.text_embedding"}, 311_164_928, 311_164_928),
    "text projection": ({"match": "talker.text_projection"}, 8_392_704, 6_294_528),
    "codec embedding": ({"match": "talker.model.codec_embedding"}, 6_291_456, 3_145_728),
    "layers": ({"match": "talker.model.layers"}, 1_409_408_000, 440_466_432),
    "four of 28 layers": ({"match": "talker.model.layers.24-27"}, 1_409_408_000 // 7, 440_466_432 // 7),
    "codec head": ({"match": "talker.codec_head"}, 6_291_456, 3_145_728),
    "predictor": ({"match": PREDICTOR}, 175_125_760, 141_570_304),
    "predictor without its tables": ({"match": PREDICTOR, "except": [TABLES]}, 112_211_200, 141_570_304 - 31_457_280),
    "tables": ({"match": TABLES}, 62_914_560, 31_457_280),
    "heads": ({"match": "talker.code_predictor.lm_head.*"}, 31_457_280, 31_457_280),
    "a language row": ({"match": "talker.model.codec_embedding", "rows": "languages"}, 2048, 1024),
    "three text rows": ({"match": "talker.model.text_embedding", "rows": "seen"}, 3 * 2048, 3 * 2048),
}


@cache
def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the stock model built from a shipped config."""
    content = json.loads((files("qrecipe.plan") / "catalogues" / f"{name}.json").read_text())
    with torch.device("meta"):
        net = stock().Net(stock().Config(**content["config"]))
    return {k: tuple(v.shape) for k, v in net.state_dict().items()}


@pytest.mark.parametrize("name", [LARGE, SMALL])
def test_the_shipped_catalogue_is_the_stock_model(name: str) -> None:
    content = json.loads((files("qrecipe.plan") / "catalogues" / f"{name}.json").read_text())
    assert {k: tuple(v) for k, v in content["tensors"].items()} == shapes(name)
    assert sum(math.prod(s) for s in shapes(name).values()) == {LARGE: 1_928_677_440, SMALL: 914_643_008}[name]


@pytest.mark.parametrize("what", COUNTS)
@pytest.mark.parametrize("size", [0, 1], ids=["1.7B", "0.6B"])
def test_patterns_select_what_they_say(what: str, size: int) -> None:
    train, *expected = COUNTS[what]
    stage = SpeechStage.model_validate({"id": "s", "objective": "speech", "data": ["d"], "steps": 1, "train": [{**train, "lr": 1e-3}]})
    tensors = shapes((LARGE, SMALL)[size])
    found, problems = trainable.resolve(stage, Node({}, Place("recipe.yaml", 1, 1)), tensors, {"malay": 2072}, [5, 6, 7])
    assert problems == []
    assert found.parameters == expected[size]
