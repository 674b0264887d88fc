"""Base folders for tests that read headers and configs alone."""

from __future__ import annotations

import json
import math
import shutil
import struct
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from qrecipe.builtin import mini


def base_folder(folder: Path, **talker: Any) -> Path:
    """The embedded base as a folder, its weights a header with nothing but zeros after it; `talker` changes its config."""
    shutil.copytree(mini.folder(), folder, ignore=shutil.ignore_patterns("model*.safetensors*"))
    config = json.loads((folder / "config.json").read_text())
    config["talker_config"].update(talker)
    (folder / "config.json").write_text(json.dumps(config))
    shapes = json.loads((resources.files("qrecipe.plan") / "catalogues" / "mini.json").read_text())["tensors"]
    end, header = 0, {}
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + end)
    part = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({"encoder.a": part, "decoder.a": part}).encode()
    (folder / "speech_tokenizer" / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return folder


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a base's or bundle's model files, whatever its shards."""
    return {name: tensor for file in sorted(folder.glob("model*.safetensors")) for name, tensor in load_file(file).items()}
