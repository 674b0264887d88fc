"""The sentences of the embedded base's training corpus: always the same, distinct, well formed, and none held out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "research" / "mini_base"
sys.path.insert(0, str(TOOLS))  # the tools are scripts, not a package
try:
    import texts
    import texts_english
    import texts_spanish
finally:
    sys.path.remove(str(TOOLS))

SHAPE = {
    "english": re.compile(r"[A-Z][A-Za-z', ]+[.?!]"),
    "spanish": re.compile(r"(?:¿[^¿?¡!.]+\?|¡[^¿?¡!.]+!|[^¿?¡!.]+\.)"),
}
LETTERS = {"english": set("abcdefghijklmnopqrstuvwxyz"), "spanish": set("abcdefghijklmnopqrstuvwxyzáéíóúüñ")}
COUNT = 10_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=sorted(SHAPE))
def corpus(request: pytest.FixtureRequest) -> tuple[str, list[str]]:
    language = request.param
    return language, [texts.sentence(language, "train", index) for index in range(COUNT)]


def bare(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_another_process_draws_the_same_sentences(corpus: tuple[str, list[str]]) -> None:
    language, drawn = corpus
    command = [sys.executable, str(TOOLS / "texts.py"), language, "--count", "50"]
    assert subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout.splitlines() == drawn[:50]
    assert texts.sentence(language, "train", 1234) == drawn[1234]


@pytest.mark.parametrize(
    ("language", "index", "expected"),
    [
        ("english", 0, "They won the omniscient cousin frankly."),
        ("english", 4, "Ups at vapor, accompanies awarding with slightest braise arranges."),
        ("spanish", 0, "Almorzaste entre muchos pañuelos grandes cerca de su restaurante."),
        ("spanish", 4, "¡Temerán rompa quedabas sin paguemos oscuras comeré compro!"),
    ],
)
def test_the_corpus_does_not_change_unnoticed(language: str, index: int, expected: str) -> None:
    assert texts.sentence(language, "train", index) == expected


def test_nearly_all_are_distinct_and_splits_share_none(corpus: tuple[str, list[str]]) -> None:
    language, drawn = corpus
    assert len(set(drawn)) >= 0.99 * COUNT
    assert not set(drawn) & {texts.sentence(language, "validation", index) for index in range(100)}


def test_held_out_sentences_are_never_drawn(corpus: tuple[str, list[str]]) -> None:
    language, drawn = corpus
    held = texts.HELD[language]
    assert len(held) == len(set(held)) == {"english": 40, "spanish": 20}[language]
    assert all(5 <= len(text.split()) <= 14 and SHAPE[language].fullmatch(text) for text in held)
    assert not {bare(text) for text in held} & {bare(text) for text in drawn}
    assert not any(texts.admitted(split, text) for text in held for split in ("train", "validation"))


def test_form(corpus: tuple[str, list[str]]) -> None:
    language, drawn = corpus
    for text in drawn:
        assert SHAPE[language].fullmatch(text), text
        assert re.match(r"[¿¡]?[^\W\d_]", text), text
        assert next(letter for letter in text if letter.isalpha()).isupper(), text
        assert 2 <= len(text.split()) <= 13, text
        assert len(text) <= 85, text
        assert "  " not in text, text
        assert set(filter(str.isalpha, text.lower())) <= LETTERS[language], text
    shares = [sum(len(text.split()) <= 4 for text in drawn) / COUNT, sum(text.endswith("?") for text in drawn) / COUNT]
    assert min(shares) > 0.05, shares


def test_breadth(corpus: tuple[str, list[str]]) -> None:
    language, drawn = corpus
    forms = {form for text in drawn for form in re.findall(r"[\w']+", text.lower())}
    assert len(forms) >= {"english": 12_000, "spanish": 3_500}[language]


def test_every_english_form_is_dealt() -> None:
    _, forms = texts.grammar("english")
    rows = -(-len(forms) // texts.HAND)
    assert {word for row in range(rows) for word in texts.hand("english", "train", row)} == set(forms)


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="no sentences in 'klingon'; there are english, spanish"):
        texts.sentence("klingon", "train", 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("saw a orange hat", "saw an orange hat"),
        ("a uniform", "a uniform"),
        ("a hour", "an hour"),
        ("a house", "a house"),
        ("a umbrella", "an umbrella"),
    ],
)
def test_english_article(text: str, expected: str) -> None:
    assert texts_english.polish(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cerca de el río", "cerca del río"),
        ("vio a el rey", "vio al rey"),
        ("de él", "de él"),
        ("la agua", "el agua"),
        ("padre y hijo", "padre e hijo"),
        ("agua y hielo", "agua y hielo"),
        ("siete o ocho", "siete u ocho"),
    ],
)
def test_spanish_contractions(text: str, expected: str) -> None:
    assert texts_spanish.polish(text) == expected


@pytest.mark.parametrize(
    ("verb", "tense", "forms"),
    [
        ("hablar", "preterite", "hablé hablaste habló hablamos hablaron"),
        ("buscar", "subjunctive", "busque busques busque busquemos busquen"),
        ("cruzar", "preterite", "crucé cruzaste cruzó cruzamos cruzaron"),
        ("averiguar", "subjunctive", "averigüe averigües averigüe averigüemos averigüen"),
        ("enviar:í", "present", "envío envías envía enviamos envían"),
        ("cerrar:ie", "present", "cierro cierras cierra cerramos cierran"),
        ("jugar:ue", "subjunctive", "juegue juegues juegue juguemos jueguen"),
        ("conocer", "present", "conozco conoces conoce conocemos conocen"),
        ("vencer", "present", "venzo vences vence vencemos vencen"),
        ("proteger", "subjunctive", "proteja protejas proteja protejamos protejan"),
        ("leer", "preterite", "leí leíste leyó leímos leyeron"),
        ("vivir", "imperfect", "vivía vivías vivía vivíamos vivían"),
        ("seguir:i", "present", "sigo sigues sigue seguimos siguen"),
        ("dormir:ue", "subjunctive", "duerma duermas duerma durmamos duerman"),
        ("sentir:ie", "preterite", "sentí sentiste sintió sentimos sintieron"),
        ("construir", "present", "construyo construyes construye construimos construyen"),
        ("construir", "preterite", "construí construiste construyó construimos construyeron"),
        ("ir", "preterite", "fui fuiste fue fuimos fueron"),
        ("hacer", "future", "haré harás hará haremos harán"),
        ("oír", "gerund", "oyendo"),
        ("dormir:ue", "gerund", "durmiendo"),
        ("escribir", "participle", "escrito"),
        ("poner", "imperative", "pon"),
    ],
)
def test_spanish_verbs(verb: str, tense: str, forms: str) -> None:
    infinitive, _, change = verb.partition(":")
    irregular = texts.read(texts.WORDS / "spanish.txt")
    assert texts_spanish.conjugate(infinitive, change, irregular)[tense] == forms.split()


@pytest.mark.parametrize(
    ("word", "several"),
    [
        ("casa", "casas"),
        ("león", "leones"),
        ("lápiz", "lápices"),
        ("ley", "leyes"),
        ("autobús", "autobuses"),
        ("sofá", "sofás"),
        ("joven", "jóvenes"),
        ("árbol", "árboles"),
    ],
)
def test_spanish_plural(word: str, several: str) -> None:
    odd = dict(pair.split("=") for pair in texts.read(texts.WORDS / "spanish.txt")["plural"])
    assert texts_spanish.plural(word, odd) == several
