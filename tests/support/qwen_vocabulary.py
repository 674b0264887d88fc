"""The real Qwen text vocabulary, rebuilt from the ranks that the package `dashscope` carries.

A `.tiktoken` file lists byte strings by rank. Its byte-level form is vocab.json (each byte as one printable character)
and merges.txt (each string as the two of lower rank that it is made of).
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

VOCAB_SHA256 = "ca10d7e9fb3ed185"
MERGES_SHA256 = "8831e4f1a0444713"
"""First digits of the hashes of Qwen3's own files."""
BASE_MERGES_SHA256 = "599bab5407508877"
"""The published Qwen3-TTS bases carry merges.txt without its `#version` line."""

SPECIAL = {
    151643: "<|endoftext|>",
    151644: "<|im_start|>",
    151645: "<|im_end|>",
    151646: "<|object_ref_start|>",
    151647: "<|object_ref_end|>",
    151648: "<|box_start|>",
    151649: "<|box_end|>",
    151650: "<|quad_start|>",
    151651: "<|quad_end|>",
    151652: "<|vision_start|>",
    151653: "<|vision_end|>",
    151654: "<|vision_pad|>",
    151655: "<|image_pad|>",
    151656: "<|video_pad|>",
    151657: "<tool_call>",
    151658: "</tool_call>",
    151659: "<|fim_prefix|>",
    151660: "<|fim_middle|>",
    151661: "<|fim_suffix|>",
    151662: "<|fim_pad|>",
    151663: "<|repo_name|>",
    151664: "<|file_sep|>",
    151665: "<tool_response>",
    151666: "</tool_response>",
    151667: "<think>",
    151668: "</think>",
    151669: "<|audio_start|>",
    151670: "<|audio_end|>",
    151671: "<tts_pad>",
    151672: "<tts_text_bos>",
    151673: "<tts_text_eod>",
}
"""Added tokens by id: those of Qwen3, then those of Qwen3-TTS."""
NOT_SPECIAL = range(151657, 151669)
"""Added tokens that Qwen3 does not mark as special; they are one token each all the same."""


def ranks_file() -> Path:
    """The file of ranks; skips the test if the package is not installed."""
    spec = find_spec("dashscope")
    file = Path(spec.origin).parent / "resources" / "qwen.tiktoken" if spec is not None and spec.origin else None
    if file is None or not file.is_file():
        pytest.skip("NOT TESTED: the real Qwen vocabulary needs `pip install --no-deps dashscope==2.0.2` (extra `dev`)")
    return file


def write(folder: Path, transformers_version: str) -> Path:
    """Writes vocab.json, merges.txt, tokenizer_config.json and a config.json of this transformers version."""
    vocab, merges = _files(ranks_file())
    (folder / "vocab.json").write_bytes(vocab)
    (folder / "merges.txt").write_bytes(merges)
    added = {
        str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": i not in NOT_SPECIAL}
        for i, t in SPECIAL.items()
    }
    tokenizer = {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    config = {"model_type": "qwen3_tts", "tts_model_type": "base", "transformers_version": transformers_version}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@cache
def _files(path: Path) -> tuple[bytes, bytes]:
    """(vocab.json, merges.txt), checked against the hashes of Qwen3's own."""
    ranks: dict[bytes, int] = {}
    for line in path.read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    spelling = _byte_characters()

    def spelled(token: bytes) -> str:
        return "".join(spelling[b] for b in token)

    vocab = json.dumps({spelled(t): r for t, r in ranks.items()}, ensure_ascii=False, separators=(",", ":"))
    pairs = [_halves(token, ranks) for token in ranks if len(token) > 1]
    merges = "#version: 0.2\n" + "".join(f"{spelled(a)} {spelled(b)}\n" for a, b in pairs)
    return vocab.encode(), merges.encode()


def _halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The last merge that makes a token: byte pairs of the lowest rank are joined until two parts are left."""
    parts = [bytes([b]) for b in token]
    limit = ranks[token]
    while len(parts) > 2:
        joined = [ranks.get(a + b, limit) for a, b in itertools.pairwise(parts)]
        i = min(range(len(joined)), key=joined.__getitem__)
        assert joined[i] < limit, token
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable character of every byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def hashes(folder: Path) -> tuple[str, str]:
    """First 16 digits of the SHA-256 of vocab.json and merges.txt."""
    vocab, merges = (hashlib.sha256((folder / n).read_bytes()).hexdigest()[:16] for n in ("vocab.json", "merges.txt"))
    return vocab, merges
