"""Answers of listeners."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qrecipe.inputs.documents import Sha256
from qrecipe.recipe.model import Settings

LISTENER = r"^[a-z0-9][a-z0-9_-]{0,39}$"


class Answer(Settings):
    """A listener's answer to one pair of sounds. Which of them is whose stands nowhere in the ballot."""

    text: str
    """The sentence."""
    first: Sha256
    """Content of the sound that was called A: SHA-256 of its samples as little-endian float32."""
    second: Sha256
    """Content of the sound that was called B."""
    answer: Annotated[int, Field(ge=-2, le=2)]
    """From -2, A is much better, over 0, neither, to 2, B is much better; of the scale `ab` -2, 0 or 2."""


class Ballot(Settings):
    """Answers of one listener. Committed beside the recipe."""

    ballot: Annotated[int, Field(ge=1, le=1)]
    """Version of this format."""
    listener: Annotated[str, Field(pattern=LISTENER)]
    """A name that tells listeners apart; it need not be a person's own."""
    scale: Literal["ab", "five"]
    """`ab`: A, B or neither; `five`: much better, better, neither."""
    answers: Annotated[list[Answer], Field(min_length=1, max_length=10_000)]
    """In the order in which the pairs were heard."""
    sha256: Sha256
    """Hash of the rest as canonical JSON: a ballot that was edited is refused."""
