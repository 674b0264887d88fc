"""Train the byte-level BPE of the embedded base ``builtin:mini`` and write vocab.json and merges.txt.

The pre-tokenizer and the normalizer are those of the stock Qwen2 tokenizer, so the merges cut text where the
stock classes cut it. All 256 byte symbols come first, so that no text is out of vocabulary, and "assistant" is
one token, so that the stock chat template has the lengths that the stock model relies on.

This tool never writes special tokens: their ids follow the vocabulary, in the order of tokenizer_config.json.

    python research/mini_base/tokenizer.py --size 634 --out qrecipe/builtin/mini english.txt malay.jsonl
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How the stock Qwen2 tokenizer splits text before its merges apply."""

WHOLE = ("assistant",)
"""Words that must be a single token whatever the training text."""


def lines(paths: Iterable[Path]) -> Iterator[str]:
    """The sentences of some files: the lines of a text file, the ``text`` values of a JSON-lines file."""
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield json.loads(line)["text"] if path.suffix == ".jsonl" else line.strip()


def train(texts: Iterable[str], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train a byte-level BPE.

    Args:
        texts: sentences, any language.
        size: entries of the vocabulary, the merges of `WHOLE` included.

    Returns:
        The vocabulary (token to id, ids 0 to size - 1) and the merges in order of rank.
    """
    # Every word of WHOLE needs at most one merge less than it has letters: keep room, then fill up exactly.
    for room in range(sum(len(word) - 1 for word in WHOLE) + 1):
        vocab, merges = _train(list(texts), size - room)
        if len(vocab) == size:
            return vocab, merges
    raise ValueError(f"the texts do not yield a vocabulary of {size} entries: give more text")


def _train(texts: list[str], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = dict(model["vocab"])
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    for word in WHOLE:
        parts = [tokenizer.id_to_token(i) for i in tokenizer.encode(word).ids]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
            vocab.setdefault(parts[0], len(vocab))
    return vocab, merges


def main() -> None:
    """Trains and writes the tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("texts", nargs="+", type=Path, help="text files (a sentence a line) or .jsonl files")
    parser.add_argument("--size", type=int, default=634, help="entries of the vocabulary (default: 634)")
    parser.add_argument("--out", type=Path, required=True, help="folder for vocab.json and merges.txt")
    args = parser.parse_args()
    vocab, merges = train(list(lines(args.texts)), args.size)
    ordered = dict(sorted(vocab.items(), key=lambda item: item[1]))
    (args.out / "vocab.json").write_text(json.dumps(ordered, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    (args.out / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in merges), encoding="utf-8")
    print(f"{len(vocab)} entries, {len(merges)} merges in {args.out}")


if __name__ == "__main__":
    main()
