"""The embedded base ``builtin:mini``: Qwen3-TTS Base in miniature, trained from scratch, 38 MB, shipped with the package.

A folder in the layout of the stock checkpoints that stock qwen_tts loads where it lies. It speaks English and, with an
accent, Spanish in six synthetic voices, so that a recipe can be planned, trained, judged and heard on a laptop, in tests
and without a network. ``mini/README.md`` is its model card; ``research/mini_base`` of the source tree trains it.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

NAME = "builtin:mini"

MANIFEST = "builtin.json"
"""SHA-256 of every file of the base; written last by research/mini_base/base.py."""


def folder() -> Path:
    """The base's folder inside the package."""
    return Path(__file__).parent / "mini"


@cache
def digest() -> str:
    """12 hex digits that stand for the content of every file of the base."""
    return hashlib.sha256((folder() / MANIFEST).read_bytes()).hexdigest()[:12]
