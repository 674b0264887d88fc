"""The shipped parameter catalogues: their counts, and that they are what research/catalogues.py writes."""

from __future__ import annotations

import importlib.util
import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).resolve().parents[2] / "research" / "catalogues.py"
LARGE, SMALL = "qwen3-tts-12hz-1.7b-base", "qwen3-tts-12hz-0.6b-base"

COUNTS = {
    "": (1_928_677_440, 914_643_008),
    "talker.model.text_embedding.": (311_164_928, 311_164_928),
    "talker.text_projection.": (8_392_704, 6_294_528),
    "talker.model.codec_embedding.": (6_291_456, 3_145_728),
    "talker.model.layers.": (1_409_408_000, 440_466_432),
    "talker.codec_head.": (6_291_456, 3_145_728),
    "talker.code_predictor.": (175_125_760, 141_570_304),
    "talker.code_predictor.model.codec_embedding.": (62_914_560, 31_457_280),
    "speaker_encoder.": (12_001_088, 8_854_336),
}


def catalogue(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((files("qrecipe.plan") / "catalogues" / f"{name}.json").read_text())
    return content


def count(tensors: dict[str, list[int]], prefix: str = "") -> int:
    return sum(math.prod(shape) for name, shape in tensors.items() if name.startswith(prefix))


@pytest.mark.parametrize("prefix", COUNTS)
def test_counts_of_the_real_bases(prefix: str) -> None:
    counted = tuple(count(catalogue(name)["tensors"], prefix) for name in (LARGE, SMALL))
    assert counted == COUNTS[prefix]


def test_predictor_of_the_large_base_without_its_tables() -> None:
    tensors = catalogue(LARGE)["tensors"]
    tables = count(tensors, "talker.code_predictor.model.codec_embedding.")
    assert count(tensors, "talker.code_predictor.") - tables == 112_211_200


@pytest.mark.parametrize(("name", "size"), [(LARGE, 3_857_413_744), (SMALL, 1_829_344_272)])
def test_names_give_the_published_file_sizes(name: str, size: int) -> None:
    """A safetensors file is a header that spells every name, padded to 8 bytes, and the data."""
    end, header = 0, {}
    for tensor, shape in catalogue(name)["tensors"].items():
        start, end = end, end + 2 * math.prod(shape)
        header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = len(json.dumps(header, separators=(",", ":")))
    assert 8 + math.ceil(text / 8) * 8 + end == size


@pytest.mark.parametrize("name", [LARGE, SMALL, "mini"])
def test_layout(name: str) -> None:
    content = catalogue(name)
    assert list(content) == ["model", "revision", "dtype", "config", "tensors"]
    assert list(content["tensors"]) == sorted(content["tensors"])
    assert content["config"]["tts_model_type"] == "base"
    assert content["config"]["talker_config"]["codec_language_id"]["english"] == 2050
    lines = (files("qrecipe.plan") / "catalogues" / f"{name}.json").read_text().splitlines()
    assert sum(line.startswith('  "talker.') or '  "speaker_encoder.' in line for line in lines) == len(content["tensors"])


@pytest.mark.slow
def test_the_committed_files_are_what_the_tool_writes(tmp_path: Path) -> None:
    pytest.importorskip("qwen_tts")
    spec = importlib.util.spec_from_file_location("catalogues", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.write(tmp_path)
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.json"))
    assert len(written) == 3
    for path in written:
        assert (tmp_path / path).read_text() == (tool.PACKAGE / path).read_text(), path
