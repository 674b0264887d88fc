"""`base`: the Qwen3-TTS Base model that a recipe starts from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from qrecipe.recipe.model import Settings


class Base(Settings):
    """The model that the recipe starts from."""

    model: Annotated[str, Field(min_length=1)]
    """`builtin:mini`, a hub id such as `Qwen/Qwen3-TTS-12Hz-1.7B-Base`, or a folder (a path that starts with `.` or `/`, relative to this file)."""
    revision: str | None = None
    """For a hub id: the commit, branch or tag. Give a commit of 40 hex digits, so that the same recipe means the same weights."""
