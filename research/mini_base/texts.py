"""Sentences for the training corpus of the embedded base ``builtin:mini``: English and Spanish, no end of them.

A small grammar draws each sentence from the language, the split and a number alone, so that a corpus is named by
three values and is the same on every machine and Python. One row in five is a list of words dealt from the whole word
list, so that rare forms are met in all neighbourhoods; without some 50,000 distinct sentences over 12,000 forms a
small model memorises instead of reading. Never emits a sentence of `HELD`, and none of "train" in another split.

Licences: the grammars, the hand-written words and `HELD` are ours (Apache-2.0); the forms in words/english.txt are the
common words of SCOWL (permissive) that the lexicon of hibari-tts (Apache-2.0) pronounces; words/README.md says more.

    python research/mini_base/texts.py english --count 20
    python research/mini_base/texts.py spanish --count 40000 --statistics
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from random import Random

import texts_english
import texts_spanish

WORDS = Path(__file__).resolve().parent / "words"
MOST_WORDS, MOST_CHARACTERS = 13, 85
LIST_EVERY = 5
"""One row in so many is a list of dealt words."""
HAND = 7
"""Words dealt to such a row."""
AWAY = 16
"""Every split but "train" draws from one in so many of the sentences there are, "train" from the others."""

Grammar = dict[str, tuple[list[list[str]], list[int]]]
"""Symbol to its alternatives and their cumulative weights; in an alternative, text and symbols take turns."""

HELD: dict[str, list[str]] = {
    "english": [
        "Could you turn the music down a little, please?",
        "I left my keys on the kitchen table again.",
        "The bus was late, so we walked home in the rain.",
        "What time does the bakery close on Sundays?",
        "Emma is learning to play the guitar.",
        "My grandfather tells the same joke every winter.",
        "Don't forget to water the plants while I'm away.",
        "There is a small coffee shop behind the post office.",
        "Have you ever seen snow in April?",
        "He put on his coat and opened the front door.",
        "We need more bread, two lemons and some rice.",
        "The baby finally fell asleep around midnight.",
        "Why is your sister so angry with me?",
        "Let's meet at the station at half past six.",
        "The old bridge was painted green last summer.",
        "I don't think that David heard the question.",
        "She writes a long letter to her aunt every month.",
        "Please take off your shoes before you come in.",
        "How many people are coming to dinner tonight?",
        "A yellow bird sat on the fence and sang.",
        "My phone is almost dead, can I borrow yours?",
        "The doctor said that he should rest for a week.",
        "Sarah and Tom moved to a quiet village last spring.",
        "It was too dark to read the map.",
        "Who left the window open all night?",
        "The soup tastes better with a little pepper.",
        "You can park your car behind the school.",
        "Our train leaves from the other side of the station.",
        "I'm sorry, but the manager is not here today.",
        "The children built a castle out of wet sand.",
        "Is there a cheaper hotel near the beach?",
        "After lunch the whole family went for a swim.",
        "Nobody knew where the strange noise came from.",
        "Call me as soon as you get home, Daniel.",
        "The film was funny, but the ending was sad.",
        "This jacket is too big for my brother.",
        "Would you like some tea with your cake?",
        "They have lived next to the river for thirty years.",
        "I always lose at chess when Laura is watching.",
        "What a beautiful morning for a walk in the hills!",
    ],
    "spanish": [
        "¿A qué hora sale el último tren para Sevilla?",
        "Mi abuela prepara el mejor arroz con pollo del barrio.",
        "No encuentro las llaves del coche por ninguna parte.",
        "Ayer llovió tanto que no pudimos salir de casa.",
        "¿Puedes cerrar la ventana, por favor?",
        "Los niños juegan en el parque después de la escuela.",
        "Carmen quiere aprender a tocar la guitarra.",
        "El médico me dijo que descansara una semana.",
        "¡Qué frío hace esta mañana en la montaña!",
        "Compré dos kilos de naranjas y un poco de queso.",
        "¿Quién dejó la luz encendida toda la noche?",
        "Mi hermano mayor trabaja en una fábrica de zapatos.",
        "Nos vemos el jueves en la puerta del cine.",
        "Hace diez años que vivimos cerca del mar.",
        "La película era divertida, pero demasiado larga.",
        "Llámame cuando llegues al aeropuerto, Miguel.",
        "El perro del vecino ladra cada vez que pasa alguien.",
        "¿Te gustaría tomar un café conmigo mañana?",
        "Perdón, creo que me he equivocado de calle.",
        "Guillermo siempre pierde el paraguas en el autobús.",
    ],
}
"""Everyday sentences that no split contains; for listening and for judging what was learned."""


def read(path: Path) -> dict[str, list[str]]:
    """The lines "symbol: alternatives" of a word file; alternatives stand apart by bars, or else by blanks.

    Args:
        path: a file of words/.

    Returns:
        Alternatives by symbol.
    """
    rows = (line.split(": ", 1) for line in path.read_text(encoding="utf-8").splitlines() if line)
    return {symbol: text.split("|") if "|" in text else text.split() for symbol, text in rows}


def bare(text: str) -> str:
    """A sentence without its marks and capitals."""
    return re.sub(r"\W+", " ", text.casefold()).strip()


KEPT_OUT = {bare(text) for texts in HELD.values() for text in texts}


@cache
def grammar(language: str) -> tuple[Grammar, list[str]]:
    """The rules of a language with its words, and the forms that list rows deal; some of them twice.

    Args:
        language: "english" or "spanish".

    Raises:
        ValueError: another language.
    """
    if language == "english":
        deck = read(WORDS / "english.txt")
        rules = read(WORDS / "english_core.txt") | deck | texts_english.RULES
        forms = [form for group in deck.values() for form in group] + deck["other common"] + deck["other rare"]  # in no other rule
    elif language == "spanish":
        words = read(WORDS / "spanish.txt")
        rules, forms = texts_spanish.rules(words), sorted(texts_spanish.forms(words))
    else:
        raise ValueError(f"no sentences in {language!r}; there are {', '.join(sorted(HELD))}")
    table: Grammar = {}
    for symbol, alternatives in rules.items():
        weighted = [re.fullmatch(r"(?:(\d+)\*)?(.*)", text) for text in alternatives]
        pairs = [(found[2], int(found[1] or 1)) for found in weighted if found]
        table[symbol] = ([re.split(r"[{}]", text) for text, _ in pairs], list(accumulate(weight for _, weight in pairs)))
    return table, forms


@cache
def dealt(language: str, split: str, turn: int) -> list[str]:
    """The whole word list in the order in which one turn of list rows deals it."""
    forms = list(grammar(language)[1])
    Random(f"{language} {split} deck {turn}").shuffle(forms)
    return forms


def hand(language: str, split: str, row: int) -> list[str]:
    """The words of a list row: rows one after another deal the list again and again, each time in another order."""
    count = len(grammar(language)[1])
    places = range(row * HAND, (row + 1) * HAND)
    return [dealt(language, split, place // count)[place % count] for place in places]


def expand(table: Grammar, symbol: str, random: Random, words: Iterator[str]) -> str:
    """One expansion of a symbol.

    Args:
        table: the rules.
        symbol: a key of the rules, or "deck" for the next dealt word.
        random: where choices come from.
        words: dealt words.
    """
    if symbol == "deck":
        return next(words)
    alternatives, weights = table[symbol]
    parts = random.choices(alternatives, cum_weights=weights)[0]
    return "".join(expand(table, part, random, words) if place % 2 else part for place, part in enumerate(parts))


def admitted(split: str, text: str) -> bool:
    """Whether a sentence has a fit length, belongs to the split and is not held out."""
    if not 2 <= len(text.split()) <= MOST_WORDS or len(text) > MOST_CHARACTERS or bare(text) in KEPT_OUT:
        return False
    apart = hashlib.sha256(text.encode()).digest()[0] % AWAY == 0
    return apart != (split == "train")


def sentence(language: str, split: str, index: int) -> str:
    """One sentence: 2 to 13 words and at most 85 characters, a capital first and one of . ? ! last.

    Args:
        language: "english" or "spanish".
        split: any name; no sentence of "train" is one of another split.
        index: which sentence, from 0.

    Returns:
        The same text for the same arguments, on every machine.

    Raises:
        ValueError: another language.
    """
    table, _ = grammar(language)
    polish = texts_english.polish if language == "english" else texts_spanish.polish
    random = Random(f"{language} {split} {index}")
    row, place = divmod(index, LIST_EVERY)
    words = hand(language, split, row) if place == LIST_EVERY - 1 else []
    while True:
        random.shuffle(words)
        text = polish(expand(table, "list" if words else "sentence", random, iter(words)))
        text = re.sub(r"\w", lambda found: found[0].upper(), text, count=1)
        if admitted(split, text):
            return text


def statistics(texts: list[str]) -> str:
    """What a corpus is like, in a few lines: sentences, forms and how often the rarest are met, letters, lengths."""
    forms = Counter(form for text in texts for form in re.findall(r"[\w']+", text.lower()))
    letters = Counter("".join(texts).lower())
    lengths = sorted(len(text.split()) for text in texts)
    often = sum(count >= 10 for count in forms.values())
    shares = ", ".join(f"{count} words {100 * lengths.count(count) / len(lengths):.1f} %" for count in sorted(set(lengths)))
    return "\n".join(
        [
            f"sentences  {len(texts)}, distinct {len(set(texts))} ({100 * len(set(texts)) / len(texts):.2f} %)",
            f"words      {sum(lengths)}, forms {len(forms)}, of which {often} ({100 * often / len(forms):.1f} %) come 10 times or more",
            f"lengths    {shares}",
            f"characters {sum(map(len, texts)) / len(texts):.1f} a sentence, at most {max(map(len, texts))}",
            "letters    " + ", ".join(f"{letter} {count}" for letter, count in letters.most_common() if letter.isalpha()),
            "others     " + ", ".join(f"{letter!r} {count}" for letter, count in letters.most_common() if not letter.isalpha()),
        ]
    )


def main() -> None:
    """Prints sentences or what they are like."""
    parser = argparse.ArgumentParser(description="print sentences of the training corpus")
    parser.add_argument("language", choices=sorted(HELD))
    parser.add_argument("--split", default="train", help="any name (train)")
    parser.add_argument("--count", type=int, default=20, help="how many (20)")
    parser.add_argument("--statistics", action="store_true", help="what they are like instead of the sentences")
    options = parser.parse_args()
    texts = [sentence(options.language, options.split, index) for index in range(options.count)]
    print(statistics(texts) if options.statistics else "\n".join(texts))


if __name__ == "__main__":
    main()
