"""The page on which people hear pairs of sounds blindly: served here, or one file with the sounds in it.

The page does not know which sound is whose. It draws the order of the pairs, and which sound is called A.
"""

from __future__ import annotations

import base64
import html
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from qrecipe.files import digest

Scale = Literal["ab", "five"]
KIND = "audio/flac"


@dataclass(frozen=True)
class Sound:
    """A sound to hear."""

    sha256: str
    """Content of its samples."""
    content: bytes
    """The file, FLAC."""


@dataclass(frozen=True)
class HeardPair:
    """Two readings of a sentence, in an order that says nothing."""

    text: str
    sounds: tuple[Sound, Sound]


def pair_of(text: str, one: Sound, other: Sound) -> HeardPair:
    """A pair with its sounds in the order of their hashes."""
    first, second = sorted((one, other), key=lambda s: s.sha256)
    return HeardPair(text, (first, second))


def set_id(pairs: Sequence[HeardPair]) -> str:
    """Names these sounds and no others."""
    return digest(sorted([s.sha256 for s in p.sounds] for p in pairs))


def listening_page(title: str, pairs: Sequence[HeardPair], scale: Scale, submit: str | None = None, token: str | None = None) -> str:
    """The page. With `submit` sounds are fetched and answers are sent there; without it holds the sounds and saves a file."""

    def url(sound: Sound) -> str:
        if submit is not None:
            return f"/sound/{sound.sha256}"
        return f"data:{KIND};base64,{base64.b64encode(sound.content).decode()}"

    data: dict[str, Any] = {
        "id": set_id(pairs),
        "scale": scale,
        "submit": submit,
        "token": token,
        "pairs": [{"text": p.text, "sounds": [{"sha256": s.sha256, "url": url(s)} for s in p.sounds]} for p in pairs],
    }
    template = (resources.files("qrecipe.report") / "listen.html").read_text(encoding="utf-8")
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    page = template.replace("__NONCE__", secrets.token_urlsafe(16)).replace("__TITLE__", html.escape(title))
    return page.replace("__DATA__", text)
