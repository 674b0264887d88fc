"""The weights of the embedded base: every tensor drawn from a seed and its own name, the same on every machine."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from functools import cache as memoize
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qrecipe.builtin.mini import SEED

if TYPE_CHECKING:
    import torch


CODES = 512
"""Entries of a codebook: ids from here to 2047 are valid rows that no codebook has."""

FIRST_FREE_ROW = 2072
TRAINED_ABOVE = (2074, 2148, 2149, 2150, 2154, 2155, 2156, 2157)
"""Rows of `codec_embedding` from `FIRST_FREE_ROW` on that are not free: a dialect, and the control ids."""

CONSTANT = 1.0
"""What `text_projection` adds to channel 0 of the talker's residual stream."""

END_PULL = 0.37
"""How strongly the end is preferred: sampling ends after a few seconds on average, greedy decoding need not."""

Array = NDArray[np.float32]


def save_model(path: Path, catalogue: dict[str, Any]) -> None:
    """Writes model.safetensors: talker, predictor and speaker encoder."""
    _save(path, catalogue, _model_tensor)


def save_speech_tokenizer(path: Path, catalogue: dict[str, Any]) -> None:
    """Writes the speech tokenizer's model.safetensors."""
    _save(path, catalogue, _codec_tensor)


@memoize
def _calibration() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((files("qrecipe.builtin") / "mini" / "calibration.json").read_bytes())
    return content


def _save(path: Path, catalogue: dict[str, Any], tensor: Callable[[str, tuple[int, ...]], Array]) -> None:
    import torch
    from safetensors.torch import save_file

    dtype = getattr(torch, catalogue["dtype"])
    tensors: dict[str, torch.Tensor] = {
        name: torch.from_numpy(np.ascontiguousarray(tensor(name, tuple(shape)))).to(dtype) for name, shape in catalogue["tensors"].items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def noise(name: str, shape: tuple[int, ...], std: float) -> Array:
    """Noise of one tensor: uniform (exact on every machine, unlike a normal's logarithms), mean 0."""
    seed = hashlib.sha256(f"{SEED}\n{name}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))
    uniform = generator.random(shape, dtype=np.float32) - np.float32(0.5)
    return uniform * np.float32(std * math.sqrt(12.0))


def _constant(shape: tuple[int, ...], value: float) -> Array:
    return np.full(shape, value, dtype=np.float32)


def _fan_in(shape: tuple[int, ...]) -> int:
    return math.prod(shape[1:])


def _model_tensor(name: str, shape: tuple[int, ...]) -> Array:
    """One tensor of model.safetensors: talker, code predictor or speaker encoder."""
    if name.startswith("speaker_encoder."):
        return _speaker_tensor(name, shape)
    if re.search(r"norm\.weight$", name):
        return _constant(shape, 1.0)
    if name == "talker.model.codec_embedding.weight":
        table = noise(name, shape, 0.02)
        free = np.arange(shape[0]) >= FIRST_FREE_ROW
        free[list(TRAINED_ABOVE)] = False
        table[free] *= np.float32(0.1)
        return table
    if name == "talker.codec_head.weight":
        table = noise(name, shape, 1.0 / math.sqrt(_fan_in(shape)))
        end = TRAINED_ABOVE[3]
        table[CODES:, 0] = -8.0
        table[end] *= np.float32(0.1)
        table[end, 0] = END_PULL
        return table
    if name.startswith("talker.text_projection.") and name.endswith(".bias"):
        bias = noise(name, shape, 0.01)
        if ".linear_fc2." in name:
            bias[0] = CONSTANT
        return bias
    if name.endswith(".bias"):
        return _constant(shape, 0.0)
    if name == "talker.model.text_embedding.weight":
        return noise(name, shape, 0.04)
    if ".codec_embedding." in name:
        return noise(name, shape, 0.02)
    gain = 0.1 if re.search(r"\.(o_proj|down_proj)\.weight$", name) else 1.0
    table = noise(name, shape, gain / math.sqrt(_fan_in(shape)))
    if name.startswith("talker.model.layers."):  # the layers neither write nor read the constant channel
        (table if gain < 1 else table.T)[0] = 0.0
    return table


def _speaker_tensor(name: str, shape: tuple[int, ...]) -> Array:
    """One tensor of the speaker encoder; its last layer is centred on the mean of what it is given."""
    if not name.startswith("speaker_encoder.fc."):
        if name.endswith(".bias"):
            return noise(name, shape, 0.05)
        return noise(name, shape, math.sqrt(2.0 / _fan_in(shape)))
    pooled = np.asarray(_calibration()["speaker_mean"], dtype=np.float64)
    weight = noise("speaker_encoder.fc.weight", (shape[0], pooled.size), 1.0)
    weight *= np.float32(_calibration()["speaker_gain"])
    if name.endswith(".weight"):
        return weight.reshape(shape)
    centred = [-math.fsum(row) for row in weight.astype(np.float64) * pooled]
    return np.asarray(centred, dtype=np.float32)


def _codec_tensor(name: str, shape: tuple[int, ...]) -> Array:
    """One tensor of speech_tokenizer/model.safetensors: Mimi encoder, V2 decoder, and the codebooks of both."""
    book = _book(name)
    if book is not None:
        return _codebook(book, shape)
    if name.endswith((".cluster_usage", ".initialized", "norm.weight")):
        return _constant(shape, 1.0)
    if name.endswith((".alpha", ".beta", "norm.bias")):
        return _constant(shape, 0.0)
    if name.endswith(".gamma"):
        return _constant(shape, 0.1)
    if name.endswith(".scale"):  # large in the encoder, whose layers norm their input: loudness matters less
        return _constant(shape, 1.0 if name.startswith("encoder.") else 0.1)
    if name.endswith(".bias"):
        return noise(name, shape, 0.1 if name.startswith("encoder.") else 0.01)
    return noise(name, shape, _codec_gain(name) / math.sqrt(_codec_fan_in(name, shape)))


def _codec_gain(name: str) -> float:
    """Factor on 1/sqrt(fan-in) that keeps signals near 1 inside the codec and near 0.1 in its waveform."""
    if name == "encoder.encoder.layers.0.conv.weight":
        return 10.0  # speech has an RMS near 0.1
    if name.startswith("encoder.encoder."):
        return 1.4
    if name == "decoder.decoder.6.conv.weight":
        return 0.05
    if re.search(r"\.act|\.conv2\.conv\.weight$", name):
        return 0.3
    return 1.0


def _codec_fan_in(name: str, shape: tuple[int, ...]) -> int:
    """Inputs that one output sums; a transposed convolution is stored input first and has k / stride taps."""
    if re.match(r"decoder\.upsample\.\d\.0\.", name):
        return shape[0]
    if re.match(r"decoder\.decoder\.\d\.block\.1\.", name):
        return 2 * shape[0]
    return _fan_in(shape)


def _book(name: str) -> int | None:
    """Which of the 8 codebooks a tensor is: 0 the semantic one; None if it is none."""
    match = re.search(r"(semantic|acoustic|rvq_first|rvq_rest).*layers\.(\d+)\..*(embed_sum|embedding_sum)$", name)
    if match is None:
        return None
    return int(match[2]) + (match[1] in ("acoustic", "rvq_rest"))


def _codebook(book: int, shape: tuple[int, ...]) -> Array:
    """A codebook, the same for the encoder's copy and the decoder's: unit directions, scaled and centred."""
    calibration = _calibration()["codebooks"][book]
    table = noise(f"codebook.{book}", shape, calibration["std"])
    return table + np.asarray(calibration["mean"], dtype=np.float32)
