"""Choose the English word forms of the training corpus and write words/english.txt.

A form is taken if SCOWL counts it among the common words (sizes 10 to 35), the pronunciation lexicon of hibari-tts
knows how to say it (or its stem, if it is a regular form of a very common word), and no stem in words/excluded.txt occurs in it. Word classes follow from which inflected forms
SCOWL lists: no tagger, no judgement of ours. Needs the files of Debian's package scowl and an installed hibari-tts.

    python research/mini_base/english_words.py --scowl /usr/share/dict/scowl --lexicon hibari/assets/lexicon_us_gold.json.gz
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from pathlib import Path

WORDS = Path(__file__).resolve().parent / "words"
COMMON, RARE = ("10", "20"), ("35",)
SHAPE = re.compile(r"(?=.*[aeiouy])[a-z]{2,12}")
ADJECTIVE = re.compile(r".+(able|ible|al|ful|ic|ive|less|ous|ish|ary|ant|ent)")
LIMIT = {"adjective": 800, "ing": 450, "mass": 350, "noun": 1200, "other": 150, "past": 500, "plural": 400, "third": 150, "verb": 400}
"""Most rare forms of a class: the corpus has room to repeat some 15,000 forms often enough."""


def read(folder: Path, sizes: tuple[str, ...]) -> set[str]:
    """All entries of the sizes, possessives included."""
    paths = [
        path for size in sizes for path in sorted(folder.glob(f"english-words.{size}")) + sorted(folder.glob(f"american-words.{size}"))
    ]
    return {line for path in paths for line in path.read_text(encoding="utf-8").split()}


def inflect(word: str, ending: str) -> str:
    """Regular English spelling of a word with s, ed or ing, without doubled consonants."""
    if ending == "s":
        return word[:-1] + "ies" if re.search("[^aeiou]y$", word) else word + ("es" if re.search("(s|x|z|ch|sh)$", word) else "s")
    if word.endswith("e") and not (ending == "ing" and word.endswith("ee")):
        return word[:-1] + ending
    return word[:-1] + "ied" if ending == "ed" and re.search("[^aeiou]y$", word) else word + ending


def classes(listed: set[str]) -> dict[str, str]:
    """A class for every listed form: noun, mass, plural, verb, third, past, ing, adjective, adverb or other."""
    found: dict[str, str] = {}
    plain = sorted(word for word in listed if SHAPE.fullmatch(word))
    for word in plain:
        doubled = word + word[-1]
        past, ing = ({inflect(word, end), doubled + end} & listed for end in ("ed", "ing"))
        if past and ing:
            found[word] = "verb"
            found |= dict.fromkeys(past, "past") | dict.fromkeys(ing, "ing") | {inflect(word, "s"): "third"}
    for word in plain:
        if f"{word}'s" in listed:
            several = inflect(word, "s")
            if word not in found:
                found[word] = "noun" if several in listed else "mass"
            if several in listed and f"{several}'s" not in listed:
                found[several] = "plural"
    for word in plain:
        if word not in found:
            graded = {word + "er", word + "r", word[:-1] + "ier"} & listed and {word + "est", word + "st", word[:-1] + "iest"} & listed
            stem, last = word[:-1], word[-1]
            adverbial = {word + "ly", stem + {"y": "ily", "e": "y"}.get(last, "?")} & listed and not word.endswith("ly")
            found[word] = "adverb" if word.endswith("ly") and not graded else "adjective" if graded or adverbial else "other"
            if found[word] == "other" and ADJECTIVE.fullmatch(word):
                found[word] = "adjective"
    return {word: found[word] for word in plain}


def stems_of(word: str, kind: str) -> set[str]:
    """What an inflected form may come from; the lexicon leaves regular forms of its words out."""
    cut = {"plural": ("s", "es", "ies"), "third": ("s", "es", "ies"), "past": ("d", "ed", "ied"), "ing": ("ing",)}.get(kind, ())
    bases = {
        word.removesuffix(end) + last for end in cut if word.endswith(end) for last in ("", "y" if end[0] == "i" and end != "ing" else "e")
    }
    return bases | {base[:-1] for base in bases if base[-1:] == base[-2:-1]}


def main() -> None:
    """Chooses and writes."""
    parser = argparse.ArgumentParser(description="write words/english.txt")
    parser.add_argument("--scowl", type=Path, required=True, help="folder of SCOWL's lists")
    parser.add_argument("--lexicon", type=Path, required=True, help="lexicon_us_gold.json.gz of hibari-tts")
    options = parser.parse_args()
    known = set(json.loads(gzip.decompress(options.lexicon.read_bytes())))
    excluded = re.compile((WORDS / "excluded.txt").read_text(encoding="utf-8").strip().replace("\n", "|"))
    common, rare = read(options.scowl, COMMON), read(options.scowl, RARE)
    groups: dict[tuple[str, str], list[str]] = {}
    for word, kind in classes(common | rare).items():
        if (word in known or (word in common and stems_of(word, kind) & known)) and not excluded.search(word):
            groups.setdefault((kind, "common" if word in common else "rare"), []).append(word)
    lines = []
    for (kind, tier), words in sorted(groups.items()):
        if tier == "rare" and len(words) > LIMIT.get(kind, len(words)):
            words = [words[i * len(words) // LIMIT[kind]] for i in range(LIMIT[kind])]
        print(f"{kind} {tier}: {len(words)}")
        lines.append(f"{kind} {tier}: {' '.join(words)}\n")
    (WORDS / "english.txt").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
