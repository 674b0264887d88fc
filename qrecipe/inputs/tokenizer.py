"""The text tokenizer of a base, built from vocab.json and merges.txt, and the checks that a text must pass.

Qwen's byte-level BPE with Qwen's own pre-tokenizer pattern. It is built here rather than through transformers because
transformers swaps in another model's pattern for some folders (`fix_mistral_regex`), and because a plan counts rows
without importing torch. Never normalises beyond NFC.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, TypeVar

from qrecipe.errors import BaseModelError, Place, Problem
from qrecipe.files import read_json
from qrecipe.inputs.texts import unsayable

T = TypeVar("T")

QWEN_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Pre-tokenizer pattern of the Qwen2 tokenizer (transformers, tokenization_qwen2.py, `PRETOKENIZE_REGEX`)."""

ROLE_TOKENS = 3
"""Leading tokens of the assistant template: `<|im_start|>`, `assistant`, a newline."""
CLOSE_TOKENS = 5
"""Trailing tokens of the assistant template."""
REF_CLOSE_TOKENS = 2
"""Trailing tokens of the reference template: `<|im_end|>` and a newline."""
MAX_WORDS = 1 << 18
"""Words whose tokens are remembered."""


def assistant_text(text: str) -> str:
    """The template that stock qwen_tts puts around a text (qwen3_tts_model.py, `_build_assistant_text`)."""
    return f"<|im_start|>assistant\n{text}<|im_end|>\n<|im_start|>assistant\n"


def reference_text(text: str) -> str:
    """The template that stock qwen_tts puts around a reference's text (`_build_ref_text`)."""
    return f"<|im_start|>assistant\n{text}<|im_end|>\n"


def clean_text(text: str) -> str:
    """A text as it is trained and spoken: NFC, without outer white space."""
    return unicodedata.normalize("NFC", text).strip()


class _OfWords(dict[str, T]):
    """A value of every word, all but a text's first with the space before them; computed once for most.

    No part that the pattern cuts out has a space behind another character. So words that single spaces separate are
    tokenised alone as they are in their text, and a million sentences hold few of them.
    """

    def __init__(self, compute: Callable[[str], T]) -> None:
        self._compute = compute

    def __missing__(self, word: str) -> T:
        value = self._compute(word)
        if len(self) < MAX_WORDS:
            self[word] = value
        return value


@dataclass(frozen=True)
class TextTokenizer:
    """Turns texts into the token ids that the talker reads.

    `vocab_file`, `merges_file` and `config_file` are those of a base folder.
    """

    vocab_file: Path
    merges_file: Path
    config_file: Path

    @classmethod
    def of_folder(cls, folder: Path) -> TextTokenizer:
        """The tokenizer of a base folder."""
        return cls(folder / "vocab.json", folder / "merges.txt", folder / "tokenizer_config.json")

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process reads the files itself."""
        return TextTokenizer, (self.vocab_file, self.merges_file, self.config_file)

    @cached_property
    def _config(self) -> dict[str, Any]:
        try:
            loaded: dict[str, Any] = read_json(self.config_file)
        except (OSError, ValueError) as e:
            raise self._wrong(f"{self.config_file.name} cannot be read: {e}") from None
        return loaded

    def _wrong(self, message: str) -> BaseModelError:
        return BaseModelError(Problem("QR051", message, Place(str(self.config_file))))

    @cached_property
    def special(self) -> dict[str, int]:
        """Special tokens and their ids; none may stand inside a text."""
        try:
            special = {str(entry["content"]): int(i) for i, entry in self._config.get("added_tokens_decoder", {}).items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise self._wrong(f"{self.config_file.name}: `added_tokens_decoder` is no table of special tokens") from None
        if not all(special):
            raise self._wrong(f"{self.config_file.name}: a special token without characters")
        return special

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

        try:
            bpe = models.BPE.from_file(str(self.vocab_file), str(self.merges_file), fuse_unk=False, byte_fallback=False)
        except Exception as e:  # tokenizers raises bare ones
            raise self._wrong(f"{self.vocab_file.name} or {self.merges_file.name} cannot be used: {e}") from None
        tokenizer = Tokenizer(bpe)
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated", invert=False),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        for token, expected in sorted(self.special.items(), key=lambda item: item[1]):
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
            got = tokenizer.token_to_id(token)
            if got != expected:
                raise self._wrong(f"the special token {token} should have the id {expected}, and by its place it has {got}")
        return tokenizer

    def ids(self, text: str) -> list[int]:
        """Token ids of a raw text, special tokens in it recognised."""
        encoded: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return encoded

    @cached_property
    def _role(self) -> list[int]:
        return self.ids("<|im_start|>assistant\n")

    @cached_property
    def _close(self) -> list[int]:
        return self.ids("<|im_end|>\n<|im_start|>assistant\n")

    def assistant(self, text: str) -> tuple[list[int], list[int]]:
        """(role, body) of a clean text: the template's first three tokens, and the text's own.

        Raises `ValueError` if the template's tokens do not come out whole, which a text with outer white space or a
        special token inside causes.
        """
        words = self._spaced(text)
        if words is not None:
            return [*self._role], list(chain.from_iterable(map(self._words.__getitem__, words)))
        ids = self.ids(assistant_text(text))
        role, body, close = ids[:ROLE_TOKENS], ids[ROLE_TOKENS:-CLOSE_TOKENS], ids[-CLOSE_TOKENS:]
        if role != self._role or close != self._close or len(self._role) != ROLE_TOKENS or len(self._close) != CLOSE_TOKENS:
            raise ValueError("the text runs into the template around it")
        return role, body

    def measure(self, texts: Sequence[str]) -> tuple[array[int], set[int]]:
        """Tokens of the body of each clean text, and all ids in them."""
        joined = "\0".join(texts)
        words = joined.replace(" ", "\0 ").split("\0")
        different = set(words)
        unseen = [word.removeprefix(" ") for word in different if word not in self._lengths]
        # nearly always no text has anything but words with single spaces between them: then one look at all of them is enough
        spaced = " ".join(unseen).split() == unseen and joined.count("\0") == len(texts) - 1
        if self._whole and spaced and not self._any_special.search(joined):
            sums = [0, *accumulate(map(self._lengths.__getitem__, words))]
            ends = list(accumulate(text.count(" ") + 1 for text in texts))
            lengths = array("i", (sums[end] - sums[start] for start, end in zip([0, *ends], ends)))
            return lengths, set().union(*map(self._words.__getitem__, different))
        bodies = [self.assistant(text)[1] for text in texts]
        return array("i", map(len, bodies)), set(chain.from_iterable(bodies))

    def _spaced(self, text: str) -> list[str] | None:
        """The words of a text as `_OfWords` has them; None where they cannot be tokenised alone."""
        plain = self._whole and "\0" not in text and " ".join(text.split()) == text and not self._any_special.search(text)
        return text.replace(" ", "\0 ").split("\0") if plain else None

    @cached_property
    def _whole(self) -> bool:
        """Whether the template's tokens come out whole around a word."""
        around = [*self._role, *self.ids("a"), *self._close]
        return len(self._role) == ROLE_TOKENS and len(self._close) == CLOSE_TOKENS and self.ids(assistant_text("a")) == around

    @cached_property
    def _lengths(self) -> _OfWords[int]:
        return _OfWords(lambda word: len(self._words[word]))

    @cached_property
    def _words(self) -> _OfWords[tuple[int, ...]]:
        return _OfWords(lambda word: tuple(self.ids(word)))

    @cached_property
    def _any_special(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self.special)) or r"(?!)")

    def reference(self, text: str) -> list[int]:
        """Body tokens of a reference's text."""
        ids = self.ids(reference_text(text))
        if ids[:ROLE_TOKENS] != self._role or ids[-REF_CLOSE_TOKENS:] != self._close[:REF_CLOSE_TOKENS]:
            raise ValueError("the reference's text runs into the template around it")
        return ids[ROLE_TOKENS:-REF_CLOSE_TOKENS]

    def any_special(self, texts: Sequence[str]) -> bool:
        """Whether one of the texts holds a special token."""
        return self._any_special.search("\n".join(texts)) is not None

    def text_problem(self, text: str) -> str | None:
        """Why a clean text cannot be used, or None."""
        if text != text.strip():
            return "the text has white space around it"
        if (why := unsayable(text)) is not None:
            return why
        special = self._any_special.search(text)
        return f"the text holds the special token `{special[0]}`" if special else None
