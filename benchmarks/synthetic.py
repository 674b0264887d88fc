"""A model of the real shapes with random weights, made in the GPU's memory, and clips of random codes. Nothing is read or fetched."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.inputs.bases import catalogue
from qrecipe.model.load import LoadedBase, grow_one_segment
from qrecipe.model.stock import silence, stock

MODELS = {"1.7b": "Qwen/Qwen3-TTS-12Hz-1.7B-Base", "0.6b": "Qwen/Qwen3-TTS-12Hz-0.6B-Base", "mini": "builtin:mini"}
SEEN = 4000
"""Rows of the text embedding that the texts use."""
LANGUAGE_ROW = 2072
VOICE = Path("voice")


def shapes_of(shape: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published base."""
    shipped = catalogue(MODELS[shape])
    assert shipped is not None
    return {k: tuple(v) for k, v in shipped["tensors"].items()}


def model(shape: str, device: torch.device, dtype: torch.dtype | None = None, seed: int = 0) -> LoadedBase:
    """The stock talker with random weights; no speech tokenizer and no text tokenizer."""
    shipped = catalogue(MODELS[shape])
    assert shipped is not None
    config = {k: v for k, v in copy.deepcopy(shipped["config"]).items() if k != "architectures"}
    config["talker_config"]["codec_language_id"]["malay"] = LANGUAGE_ROW
    grow_one_segment(device)
    torch.manual_seed(seed)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with silence(), torch.device(device):
            settings = stock().Config(**config)
            settings._attn_implementation = "sdpa"
            net: Any = stock().Net(settings)
    finally:
        torch.set_default_dtype(before)
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter.data, std=0.02)
        elif name.endswith("norm.weight"):
            parameter.data.fill_(1.0)
        else:
            parameter.data.zero_()
    for part in (net.talker.model, net.talker.code_predictor.model):  # kept in float32 by from_pretrained as well
        part.rotary_emb.inv_freq.data = part.rotary_emb.rope_init_fn(part.config, device)[0].float()
    net.eval().requires_grad_(False)
    tokenizer: Any = SimpleNamespace(reference=lambda text: [1, 2, 3])
    return LoadedBase(Path("nowhere"), SimpleNamespace(model=net), tokenizer, device, torch.bfloat16)


def clips(opened: LoadedBase, count: int, seed: int = 0) -> SpeechData:
    """Clips of 20 to 250 frames, median about 74, with about one text token to 4 frames."""
    rng = random.Random(seed)
    talker = opened.config.talker_config
    vocabulary, hidden = talker.text_vocab_size, talker.hidden_size
    seen = [rng.randrange(min(vocabulary, 150_000)) for _ in range(SEEN)]
    draws = torch.Generator().manual_seed(seed)
    voice = torch.randn(hidden, generator=draws) * 0.02
    rows = []
    for line in range(1, count + 1):
        frames = round(min(250.0, max(20.0, rng.lognormvariate(4.3, 0.55))))
        codes = torch.randint(opened.codebook_size, (frames, opened.groups), generator=draws)
        body = [rng.choice(seen) for _ in range(max(3, frames // 4))]
        rows.append(SpeechRow(line, "", [1, 2, 3], body, codes, frames / 12.5, 0.0, "", VOICE, None, False))
    return SpeechData("speech", "malay", rows, x_vectors={VOICE: voice})
