"""Globs over parameter names, on the names of the shipped catalogues."""

from __future__ import annotations

import json
import math
from functools import cache
from importlib.resources import files

import pytest

from qrecipe.plan.patterns import matches, near, select

LARGE, SMALL = "qwen3-tts-12hz-1.7b-base", "qwen3-tts-12hz-0.6b-base"


@cache
def names(catalogue: str = LARGE) -> dict[str, list[int]]:
    content = json.loads((files("qrecipe.plan") / "catalogues" / f"{catalogue}.json").read_text())
    tensors: dict[str, list[int]] = content["tensors"]
    return tensors


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("talker.codec_head", "talker.codec_head.weight", True),
        ("talker.codec_head.weight", "talker.codec_head.weight", True),
        ("talker.codec", "talker.codec_head.weight", False),
        ("codec_head", "talker.codec_head.weight", False),
        ("talker.*", "talker.model.layers.3.mlp.up_proj.weight", True),
        ("*.weight", "talker.codec_head.weight", False),
        ("*.*.weight", "talker.codec_head.weight", True),
        ("talker.model.layers.*.mlp", "talker.model.layers.3.mlp.up_proj.weight", True),
        ("talker.model.layers.*.mlp", "talker.model.layers.3.self_attn.q_proj.weight", False),
        ("talker.model.layers.3", "talker.model.layers.3.mlp.up_proj.weight", True),
        ("talker.model.layers.3", "talker.model.layers.30.mlp.up_proj.weight", False),
        ("talker.model.layers.2?", "talker.model.layers.24.mlp.up_proj.weight", True),
        ("talker.model.layers.2?", "talker.model.layers.2.mlp.up_proj.weight", False),
        ("talker.model.layers.24-27", "talker.model.layers.24.mlp.up_proj.weight", True),
        ("talker.model.layers.24-27", "talker.model.layers.27.mlp.up_proj.weight", True),
        ("talker.model.layers.24-27", "talker.model.layers.23.mlp.up_proj.weight", False),
        ("talker.model.layers.24-27", "talker.model.layers.2.mlp.up_proj.weight", False),
        ("talker.model.layers.*.self_attn.?_proj", "talker.model.layers.0.self_attn.q_proj.weight", True),
        ("talker.code+predictor", "talker.code_predictor.lm_head.0.weight", False),
        ("talker.code.predictor", "talker.code_predictor.lm_head.0.weight", False),
        ("talker.[a-z]*", "talker.codec_head.weight", False),
        ("", "talker.codec_head.weight", False),
        ("talker.codec_head.weight.more", "talker.codec_head.weight", False),
    ],
)
def test_matches(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


def test_the_predictor_has_layers_too_and_a_path_from_the_root_keeps_them_apart() -> None:
    talker = select("talker.model.layers", names())
    assert len({n.split(".")[3] for n in talker}) == 28
    assert not any("code_predictor" in n for n in talker)
    assert len({n.split(".")[4] for n in select("talker.code_predictor.model.layers", names())}) == 5


def test_select_keeps_the_order_of_the_names() -> None:
    found = select("talker.text_projection", names())
    assert found == [n for n in names() if n.startswith("talker.text_projection.")]
    assert len(found) == 4


def test_a_range_is_what_its_numbers_are() -> None:
    one_by_one = [n for i in range(24, 28) for n in names() if n.startswith(f"talker.model.layers.{i}.")]
    assert sorted(select("talker.model.layers.24-27", names())) == sorted(one_by_one)
    assert select("talker.model.layers.27-24", names()) == []


@pytest.mark.parametrize("catalogue", [LARGE, SMALL, "mini"])
def test_the_parts_of_the_talker_are_the_talker(catalogue: str) -> None:
    """Every tensor is in exactly one of the modules that recipes name, so nothing trains or freezes unseen."""
    parts = [
        "talker.model.text_embedding",
        "talker.model.codec_embedding",
        "talker.model.layers",
        "talker.model.norm",
        "talker.text_projection",
        "talker.codec_head",
        "talker.code_predictor",
        "speaker_encoder",
    ]
    found = [n for part in parts for n in select(part, names(catalogue))]
    assert sorted(found) == sorted(names(catalogue))


def test_a_glob_over_tables_counts_what_the_table_says() -> None:
    tables = select("talker.code_predictor.model.codec_embedding.*", names())
    assert len(tables) == 15
    assert sum(math.prod(names()[n]) for n in tables) == 62_914_560


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("talker.layers", "talker.model.layers"),
        ("talker.layers.24-27", "talker.model.layers.24-27"),
        ("talker.layers.*.mlp", "talker.model.layers.*.mlp"),
        ("talker.text_embedding", "talker.model.text_embedding"),
        ("talker.model.layer.3.mlp", "talker.model.layers.3.mlp"),
        ("talker.model.layers.*.self_atn.q_proj", "talker.model.layers.*.self_attn.q_proj"),
        ("talker.codec_haed", "talker.codec_head"),
        ("taker.codec_head", "talker.codec_head"),
        ("codec_head", "talker.codec_head"),
        ("code_predictor.lm_head", "talker.code_predictor.lm_head"),
        ("model.layers", "talker.model.layers"),
        ("talker.model.layers.3.mlp.weight", "talker.model.layers.3.mlp.up_proj.weight"),
        ("zzz", None),
    ],
)
def test_the_nearest_spelling(pattern: str, expected: str | None) -> None:
    assert select(pattern, names()) == []
    assert near(pattern, names()) == expected
    if expected is not None:
        assert select(expected, names())


@pytest.mark.parametrize("pattern", ["*" * 5000 + "x", "*a" * 3000, "talker." + "*?" * 2000])
def test_a_pattern_that_is_made_to_be_slow(pattern: str) -> None:
    assert not matches(pattern, "talker." + "a" * 200 + ".weight")


@pytest.mark.parametrize(
    ("pattern", "name"), [("t*r", "talker"), ("*l*e*", "talker"), ("*_proj", "q_proj"), ("**", "x"), ("a*a", "aa"), ("?*", "x")]
)
def test_stars_match_as_in_a_shell(pattern: str, name: str) -> None:
    assert matches(pattern, name)


def test_stars_need_what_stands_between_them() -> None:
    assert not matches("a*a", "a")
    assert not matches("*ab*ab", "xab")
