"""Write the parameter catalogues that let a planner count parameters without having any weights.

A catalogue holds what is known of a base's config.json and the name and shape of every tensor of its
model.safetensors. The shapes come from the stock classes, built on the meta device: no weight is read, none is
allocated, nothing is downloaded. Tensors that the stock classes would add in a later version show up as a
difference in review, never silently.

    python research/catalogues.py            # writes into the package
    python research/catalogues.py --out DIR  # writes into DIR/plan instead
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent / "qrecipe"

LANGUAGES = {
    "chinese": 2055,
    "english": 2050,
    "french": 2061,
    "german": 2053,
    "italian": 2070,
    "japanese": 2058,
    "korean": 2064,
    "portuguese": 2071,
    "russian": 2069,
    "spanish": 2054,
}


def base_config(hidden: int, intermediate: int, size: str) -> dict[str, Any]:
    """What is known of a real base's config.json.

    Args:
        hidden: width of the talker (and of the speaker vector).
        intermediate: width of the talker's feed-forward layers.
        size: ``tts_model_size``, "1b7" or "0b6".
    """
    layers = {"head_dim": 128, "num_attention_heads": 16, "num_key_value_heads": 8, "num_code_groups": 16}
    return {
        "model_type": "qwen3_tts",
        "tts_model_type": "base",
        "tts_model_size": size,
        "tokenizer_type": "qwen3_tts_tokenizer_12hz",
        "im_start_token_id": 151644,
        "im_end_token_id": 151645,
        "tts_pad_token_id": 151671,
        "tts_bos_token_id": 151672,
        "tts_eos_token_id": 151673,
        "talker_config": {
            **layers,
            "vocab_size": 3072,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": 28,
            "text_vocab_size": 151936,
            "text_hidden_size": 2048,
            "rope_theta": 1000000,
            "rope_scaling": {
                "interleaved": True,
                "mrope_section": [24, 20, 20],
                "rope_type": "default",
                "type": "default",
            },
            "codec_pad_id": 2148,
            "codec_bos_id": 2149,
            "codec_eos_token_id": 2150,
            "codec_think_id": 2154,
            "codec_nothink_id": 2155,
            "codec_think_bos_id": 2156,
            "codec_think_eos_id": 2157,
            "codec_language_id": LANGUAGES,
            "spk_id": {},
            "spk_is_dialect": {},
            "code_predictor_config": {
                **layers,
                "vocab_size": 2048,
                "hidden_size": 1024,
                "intermediate_size": 3072,
                "num_hidden_layers": 5,
                "rope_theta": 1000000,
            },
        },
        "speaker_encoder_config": {"enc_dim": hidden, "sample_rate": 24000},
    }


def shapes(module: Any) -> dict[str, list[int]]:
    """Name and shape of every tensor that a module saves, sorted by name."""
    return {name: list(tensor.shape) for name, tensor in sorted(module.state_dict().items())}


def talker_shapes(config: dict[str, Any]) -> dict[str, list[int]]:
    """The tensors of model.safetensors under a config.json, by the stock classes on the meta device."""
    import torch
    from qwen_tts.core.models import Qwen3TTSConfig, Qwen3TTSForConditionalGeneration

    with torch.device("meta"):
        return shapes(Qwen3TTSForConditionalGeneration(Qwen3TTSConfig(**json.loads(json.dumps(config)))))


def dump(head: dict[str, Any], tensors: dict[str, list[int]]) -> str:
    """JSON text with one tensor a line, so that a change of one tensor is a change of one line."""
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(shape)}" for name, shape in tensors.items())
    return json.dumps(head, indent=1)[:-2] + ',\n "tensors": {\n' + rows + "\n }\n}\n"


def write(out: Path) -> None:
    """Write all catalogues under ``out/plan/catalogues``."""
    mini = PACKAGE / "builtin" / "mini"
    repo, mini_config = "Qwen/Qwen3-TTS-12Hz-{}-Base", json.loads((mini / "config.json").read_text())
    models = (
        (repo.format("1.7B"), "fd4b254389122332181a7c3db7f27e918eec64e3", base_config(2048, 6144, "1b7")),
        (repo.format("0.6B"), "5d83992436eae1d760afd27aff78a71d676296fc", base_config(1024, 3072, "0b6")),
        ("builtin:mini", None, mini_config),
    )
    for model, revision, config in models:
        name = model.replace(":", "/").split("/")[-1].lower()
        head = {"model": model, "revision": revision, "dtype": "bfloat16", "config": config}
        put(out / "plan" / "catalogues" / f"{name}.json", dump(head, talker_shapes(config)))


def put(path: Path, text: str) -> None:
    """Write a text file, and the folders above it where they are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=PACKAGE, help="folder to write into")
    write(parser.parse_args().out)
