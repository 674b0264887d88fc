"""A Base folder with the real shapes and random weights: what GPU tests and benchmarks train when no checkpoint is there.

The text tokenizer is the embedded base's (its ids fit into the real vocabulary); the speech tokenizer has the stock
architecture's default sizes. Needs qwen_tts, torch and about 5 GB of disk for 1.7B.

    python tests/gpu/random_base.py 1.7b FOLDER
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from qrecipe.inputs.bases import catalogue
from qrecipe.model.stock import silence

HUB = {"1.7b": "Qwen/Qwen3-TTS-12Hz-1.7B-Base", "0.6b": "Qwen/Qwen3-TTS-12Hz-0.6B-Base"}
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json")
ROLE_IDS = ("im_start_token_id", "im_end_token_id", "tts_pad_token_id", "tts_bos_token_id", "tts_eos_token_id", "assistant_token_id")


def write(size: str, folder: Path, seed: int = 0) -> Path:
    """Writes the base; `size` is `1.7b` or `0.6b`. Returns the folder."""
    shipped = catalogue(HUB[size])
    mini = catalogue("builtin:mini")
    assert shipped is not None
    assert mini is not None
    folder.mkdir(parents=True, exist_ok=True)
    package = Path(str(resources.files("qrecipe.builtin") / "mini"))
    for name in TOKENIZER_FILES:
        shutil.copy(package / name, folder / name)
    config = {"model_type": "qwen3_tts", **shipped["config"]}
    config.update({k: mini["config"][k] for k in ROLE_IDS if k in mini["config"]})
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)
    tensors = {name: _tensor(name, shape, device, generator) for name, shape in shipped["tensors"].items()}
    save_file(tensors, str(folder / "model.safetensors"))
    _speech_tokenizer(folder / "speech_tokenizer", package / "speech_tokenizer" / "preprocessor_config.json")
    return folder


def _tensor(name: str, shape: list[int], device: str, generator: torch.Generator) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    if name.endswith(".bias"):
        return torch.zeros(shape, dtype=torch.bfloat16)
    values = torch.randn(shape, device=device, generator=generator) * 0.02
    if name == "talker.model.codec_embedding.weight":
        values[2072:2148] *= 0.05
    return values.to(torch.bfloat16).cpu()


def _speech_tokenizer(folder: Path, preprocessor: Path) -> None:
    with silence():
        from qwen_tts.core import Qwen3TTSTokenizerV2Config, Qwen3TTSTokenizerV2Model

        torch.manual_seed(0)
        model: Any = Qwen3TTSTokenizerV2Model(Qwen3TTSTokenizerV2Config(decoder_config={"codebook_dim": 512}))
        model.save_pretrained(str(folder))
    shutil.copy(preprocessor, folder / "preprocessor_config.json")


if __name__ == "__main__":
    print(write(sys.argv[1], Path(sys.argv[2])))
