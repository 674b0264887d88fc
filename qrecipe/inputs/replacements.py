"""How a language's text is written before anything reads it: composed, trimmed, and with what its recipe replaces.

The one place for training, gates and `say`: manifests are read through it, and a bundle keeps the table.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from qrecipe.inputs.tokenizer import clean_text


@dataclass(frozen=True)
class Replacements:
    """A table of what is replaced: the longest entry that fits counts, and what was put in is not replaced again."""

    entries: tuple[tuple[str, str], ...] = ()
    """(as it is written, as it is read), sorted."""

    @classmethod
    def of(cls, table: Mapping[str, str]) -> Replacements:
        """From a mapping, composed like the texts."""
        return cls(tuple(sorted((unicodedata.normalize("NFC", k), v) for k, v in table.items() if k)))

    @property
    def table(self) -> dict[str, str]:
        """As a mapping."""
        return dict(self.entries)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """An entry that begins or ends with a letter or digit stands for whole words: `km` is not in `kmet`."""
        longest = sorted((k for k, _ in self.entries), key=lambda k: (-len(k), k))
        alternatives = ((r"(?<!\w)" if k[0].isalnum() else "") + re.escape(k) + (r"(?!\w)" if k[-1].isalnum() else "") for k in longest)
        return re.compile("|".join(alternatives))

    def apply(self, text: str) -> str:
        """A text as it is trained and spoken."""
        text = clean_text(text)
        if not self.entries:
            return text
        table = self.table
        return clean_text(self._pattern.sub(lambda m: table[m[0]], text))
