"""`teacher`: how the base as it is speaks what stages then learn from (`respell`, and `{use: self}`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from qrecipe.qwen3 import Layout
from qrecipe.recipe.model import Positive, Settings


class Teacher(Settings):
    """The untouched base, when it speaks sentences for stages to learn from. Its speech is stored in the cache."""

    voices: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=100)] = []
    """Recordings in whose voices it speaks, one sentence after the other, relative to the file that states them; default: the `reference` of every speech dataset."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of what it says. Apart from the recipe's `seed`, so that runs with other seeds learn from the same speech."""
    layout: Layout = "non_streaming"
    """How text meets frames when it speaks. All text first by default: it then knows the whole sentence."""
    temperature: Positive | None = None
    """Temperature of its sampling, of code 0 and of the others; default: the checkpoint's own. Lower is clearer and less lively."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Draw from so many of the most likely codes; default: as the checkpoint says."""
    batch: Annotated[int, Field(ge=1, le=1024)] = 16
    """Sentences whose speech is stored together, on a GPU 256 at least. No part of the result."""
    slowest: Positive = 6.0
    """Characters a second below which a sentence is cut and dropped as a runaway, a second allowed beside; readers speak 12 to 15."""
    max_cer: Positive | None = None
    """Drop what the recogniser of `evaluators.asr`, told the language of the text, misunderstands by more than this character error rate; default: no recogniser is used. 0.3 to 0.5 drops what went wrong and keeps an accent."""
    takes: Annotated[int, Field(ge=1, le=64)] = 1
    """Speak each sentence so many times, and learn from the take that the recogniser of `evaluators.asr` understands best. More take as much longer to speak and to hear."""

    @property
    def heard(self) -> bool:
        """Whether the recogniser of `evaluators.asr` listens to what the base says."""
        return self.max_cer is not None or self.takes > 1

    @property
    def sampling(self) -> dict[str, float]:
        """Arguments of stock `generate_voice_clone` beside the checkpoint's own settings."""
        sampling = {"temperature": self.temperature, "top_k": self.top_k}
        return {prefix + k: v for k, v in sampling.items() if v is not None for prefix in ("", "subtalker_")}
