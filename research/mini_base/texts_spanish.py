"""The Spanish grammar of the training corpus: inflection by rule, agreement by a symbol for each person and number.

Symbols stand in braces, as in texts_english.py; the words and the irregular forms are those of words/spanish.txt.
Persons are 1s, 2s, 3s, 1p and 3p; the gender and number of a noun phrase are m or f and s or p.
"""

from __future__ import annotations

import re
from itertools import product

Rules = dict[str, list[str]]

PERSONS = ("1s", "2s", "3s", "1p", "3p")
ENDINGS = {
    "present": {"a": "o as a amos an", "e": "o es e emos en", "i": "o es e imos en"},
    "preterite": {"a": "é aste ó amos aron", "e": "í iste ió imos ieron", "i": "í iste ió imos ieron"},
    "imperfect": {"a": "aba abas aba ábamos aban", "e": "ía ías ía íamos ían", "i": "ía ías ía íamos ían"},
    "subjunctive": {"a": "e es e emos en", "e": "a as a amos an", "i": "a as a amos an"},
}
CHANGES = {"ie": ("e", "ie"), "ue": ("[ou]", "ue"), "i": ("e", "i"), "í": ("i", "í"), "ú": ("u", "ú")}
"""Change of the stem's last vowel where it is stressed: what is replaced, and by what."""
BARE = str.maketrans("áéíóú", "aeiou")
STRESSED_A = "agua|hacha|águila|alma|arma|aula|área"
"""Feminine nouns that take the articles el and un."""


def plural(word: str, odd: dict[str, str]) -> str:
    """Plural of a noun or an adjective; `odd` has those that follow no rule."""
    if word in odd:
        return odd[word]
    if word.endswith("z"):
        return word[:-1] + "ces"
    if re.search("[aeiouáéó]$", word):
        return word + "s"
    if re.search("[áéíóú][ns]$", word):
        return word[:-2] + word[-2:].translate(BARE) + "es"
    return word + "es"


def replace_last(stem: str, vowel: str, by: str) -> str:
    """A stem with its last occurrence of a vowel changed."""
    *_, last = re.finditer(vowel, stem)
    return stem[: last.start()] + by + stem[last.end() :]


def spell(stem: str, ending: str, kind: str) -> str:
    """Join stem and ending so that the stem keeps its sound."""
    front = ending[0] in "eéií"
    if kind == "a" and front:
        for end, by in (("gu", "gü"), ("c", "qu"), ("g", "gu"), ("z", "c")):
            if stem.endswith(end):
                return stem[: -len(end)] + by + ending
    if kind != "a" and not front:
        if stem.endswith("gu"):
            return stem[:-1] + ending
        if stem.endswith("g"):
            return stem[:-1] + "j" + ending
        if stem.endswith("c"):
            return stem[:-1] + ("zc" if stem[-2] in "aeiou" else "z") + ending
    return stem + ending


def conjugate(infinitive: str, change: str, irregular: Rules) -> Rules:
    """All forms of a verb that the grammar uses.

    Args:
        infinitive: ends in ar, er, ir or ír.
        change: a key of `CHANGES`, or "" for none.
        irregular: forms by "infinitive tense" that take the place of the rule's.

    Returns:
        Tense to its forms, in the order of `PERSONS`; gerund, participle, imperative and infinitive have one form.
    """
    stem, kind = infinitive[:-2], infinitive[-2].translate(BARE)
    glide = kind == "i" and stem.endswith("u") and not stem.endswith(("gu", "qu"))
    hiatus = glide or (kind == "e" and stem[-1] in "aeo")
    strong = replace_last(stem, *CHANGES[change]) if change else stem
    weak = stem
    if kind == "i" and change in ("ie", "i", "ue"):
        weak = replace_last(stem, *(("o", "u") if change == "ue" else ("e", "i")))
    forms: Rules = {"infinitive": [infinitive], "future": [infinitive.translate(BARE) + end for end in ["é", "ás", "á", "emos", "án"]]}
    for tense, endings in ENDINGS.items():
        row = []
        for person, ending in zip(PERSONS, endings[kind].split()):
            base = strong if tense in ("present", "subjunctive") and person != "1p" else stem
            if (tense == "subjunctive" and person == "1p") or (tense == "preterite" and person in ("3s", "3p")):
                base = weak
            if glide and tense in ("present", "subjunctive") and ending[0] != "i":
                base += "y"
            if hiatus and tense == "preterite":
                ending = "y" + ending[1:] if person[0] == "3" else ending if glide or person == "1s" else "í" + ending[1:]
            row.append(spell(base, ending, kind))
        forms[tense] = row
    forms["gerund"] = [stem + "ando" if kind == "a" else stem + "yendo" if hiatus else weak + "iendo"]
    forms["participle"] = [stem + ("ado" if kind == "a" else "ído" if hiatus and not glide else "ido")]
    forms |= {tense: irregular[f"{infinitive} {tense}"] for tense in forms if f"{infinitive} {tense}" in irregular}
    return forms | {"imperative": irregular.get(f"{infinitive} imperative", [forms["present"][2]])}


def inflected(words: Rules) -> Rules:
    """Nouns by gender and number, adjectives likewise, verbs by tense and person."""
    odd = dict(pair.split("=") for pair in words["plural"])
    found: Rules = {}
    for noun, gender in product(("thing", "animal", "person"), "mf"):
        found[f"{noun}.{gender}s"] = words[f"{noun}.{gender}"]
        found[f"{noun}.{gender}p"] = [plural(word, odd) for word in words[f"{noun}.{gender}"]]
    same, opens, closed = words["adjective.e"], words["adjective.o"], words["adjective.or"]
    found["adjective.ms"] = same + opens + closed
    found["adjective.fs"] = same + [word[:-1] + "a" for word in opens] + [word[:-2] + word[-2:].translate(BARE) + "a" for word in closed]
    for gender in "mf":
        found[f"adjective.{gender}p"] = [plural(word, odd) for word in found[f"adjective.{gender}s"]]
    for verb in ("take", "walk", "self"):
        for entry in words[verb]:
            infinitive, _, change = entry.partition(":")
            for tense, forms in conjugate(infinitive, change, words).items():
                for person, form in zip(PERSONS, forms):
                    key = f"{verb}.{tense}.{person}" if len(forms) > 1 else f"{verb}.{tense}"
                    found.setdefault(key, []).append(form)
    return found


def phrases() -> Rules:
    """Noun phrases: np.ms, np.fs, np.mp, np.fp, and np.s and np.p of either gender."""
    found: Rules = {}
    articles = {
        "ms": ["el", "el", "el", "un", "un", "mi", "tu", "su", "este", "ese", "aquel", "nuestro", "cada", "otro"],
        "fs": ["la", "la", "la", "una", "una", "mi", "tu", "su", "esta", "esa", "aquella", "nuestra", "cada", "otra"],
        "mp": [
            "los",
            "los",
            "los",
            "unos",
            "mis",
            "tus",
            "sus",
            "estos",
            "esos",
            "aquellos",
            "nuestros",
            "muchos",
            "algunos",
            "pocos",
            "varios",
            "todos\xa0los",
            "{number}",
        ],
        "fp": [
            "las",
            "las",
            "las",
            "unas",
            "mis",
            "tus",
            "sus",
            "estas",
            "esas",
            "aquellas",
            "nuestras",
            "muchas",
            "algunas",
            "pocas",
            "varias",
            "todas\xa0las",
            "{number}",
        ],
    }
    before = {
        "ms": "buen mal primer gran nuevo",
        "fs": "buena mala primera gran nueva",
        "mp": "buenos grandes nuevos",
        "fp": "buenas grandes nuevas",
    }
    for form, words in articles.items():
        found[f"article.{form}"] = [word.replace("\N{NO-BREAK SPACE}", " ") for word in words]
        found[f"before.{form}"] = before[form].split()
        found[f"noun.{form}"] = [f"6*{{thing.{form}}}", f"1*{{animal.{form}}}", f"2*{{person.{form}}}"]
        found[f"matter.{form}"] = [f"6*{{thing.{form}}}", f"1*{{animal.{form}}}"]
        for noun, phrase in (("noun", "np"), ("matter", "it"), ("person", "her")):
            found[f"{phrase}.{form}"] = [
                f"5*{{article.{form}}} {{{noun}.{form}}}",
                f"4*{{article.{form}}} {{{noun}.{form}}} {{adjective.{form}}}",
                f"1*{{article.{form}}} {{before.{form}}} {{{noun}.{form}}}",
            ]
    for phrase, number in product(("np", "it", "her"), "sp"):
        found[f"{phrase}.{number}"] = [f"{{{phrase}.m{number}}}", f"{{{phrase}.f{number}}}"]
    return found | {
        "name": ["{man}", "{woman}"],
        "object": ["4*{it.s}", "2*{it.p}", "1*a {her.s}", "1*a {name}", "1*el {thing.ms} de {name}", "1*la {thing.fs} de {name}"],
        "subject.1s": ["3*", "yo"],
        "subject.2s": ["3*", "tú"],
        "subject.3s": ["2*", "él", "ella", "usted", "3*{name}", "4*{her.s}", "2*{article.ms} {animal.ms}", "2*{article.fs} {animal.fs}"],
        "subject.1p": ["3*", "nosotros", "{name} y yo"],
        "subject.3p": [
            "2*",
            "ellos",
            "ellas",
            "ustedes",
            "2*{name} y {name}",
            "3*{her.p}",
            "2*{article.mp} {animal.mp}",
            "2*{article.fp} {animal.fp}",
        ],
    }


def clauses() -> Rules:
    """Clauses by tense and person, each verb in agreement with its subject."""
    found: Rules = {}
    others = dict(zip(PERSONS, ["me", "te", "se", "nos", "se"]))
    have = dict(zip(PERSONS, ["he", "has", "ha", "hemos", "han"]))
    stand = dict(zip(PERSONS, ["estoy", "estás", "está", "estamos", "están"]))
    stood = dict(zip(PERSONS, ["estaba", "estabas", "estaba", "estábamos", "estaban"]))
    going = dict(zip(PERSONS, ["voy", "vas", "va", "vamos", "van"]))
    helpers = dict(
        zip(
            PERSONS,
            (
                row.split()
                for row in (
                    "puedo quiero debo",
                    "puedes quieres debes",
                    "puede quiere debe",
                    "podemos queremos debemos",
                    "pueden quieren deben",
                )
            ),
        )
    )
    for tense, person in product(("present", "preterite", "imperfect", "future"), PERSONS):
        take, walk, own = (f"{{{verb}.{tense}.{person}}}" for verb in ("take", "walk", "self"))
        found[f"act.{tense}.{person}"] = [
            f"6*{take} {{object}}",
            f"3*{walk} {{adverb}}",
            f"3*{walk} {{place}}",
            f"2*{others[person]} {own} {{place}}",
            f"1*no {take} {{object}}",
            f"1*lo {take}",
            f"1*la {take}",
            f"1*los {take} {{adverb}}",
            f"1*las {take}",
            f"1*nunca {take} {{object}}",
        ]
        found[f"clause.{tense}.{person}"] = [f"{{subject.{person}}} {{act.{tense}.{person}}}"]
    for person in PERSONS:
        start = f"{{subject.{person}}}"
        found[f"help.{person}"] = helpers[person]
        found[f"composed.{person}"] = [
            f"{start} {have[person]} {{take.participle}} {{object}}",
            f"{start} {stand[person]} {{take.gerund}} {{object}}",
            f"{start} {stood[person]} {{walk.gerund}} {{place}}",
            f"{start} {{help.{person}}} {{take.infinitive}} {{object}}",
            f"{start} {going[person]} a {{take.infinitive}} {{object}}",
        ]
    for tense in ("present", "preterite", "imperfect", "future"):
        found[f"clause.{tense}"] = [f"{weight}*{{clause.{tense}.{person}}}" for person, weight in zip(PERSONS, (2, 2, 5, 2, 4))]
    found["composed"] = [f"{{composed.{person}}}" for person in PERSONS]
    for form, verbs in (("s", "es era está estaba parece fue"), ("p", "son eran están estaban parecen fueron")):
        found[f"be.{form}"] = verbs.split()
    states = []
    for form in ("ms", "fs", "mp", "fp"):
        states += [
            f"{{np.{form}}} {{be.{form[1]}}} {{adjective.{form}}}",
            f"{{np.{form}}} {{be.{form[1]}}} muy {{adjective.{form}}} y {{adjective.{form}}}",
        ]
    return found | {"state": states}


def sentences() -> Rules:
    """Whole sentences by kind."""
    wishes = [f"2*quiero que {{subject.{person}}} {{take.subjunctive.{person}}} {{object}}." for person in PERSONS[1:]]
    wishes += [f"espero que {{walk.subjunctive.{person}}} {{adverb}}." for person in PERSONS[1:]]
    asks, exclaims, likes = [], [], []
    for person in PERSONS:
        asks += [f"¿{{take.{tense}.{person}}} {{object}}?" for tense in ("present", "preterite", "future")]
        asks += [
            f"¿{word} {{take.{tense}.{person}}} {{object}}?"
            for word, tense in product(("cuándo", "dónde", "por qué", "cómo"), ("present", "preterite"))
        ]
    for form in ("ms", "fs", "mp", "fp"):
        many = {"m": "cuántos", "f": "cuántas"}[form[0]]
        is_, place = ("es", "está") if form[1] == "s" else ("son", "están")
        asks += [
            f"4*¿dónde {place} {{np.{form}}}?",
            f"2*¿cómo {is_} {{np.{form}}}?",
            f"2*¿{is_} {{adjective.{form}}} {{np.{form}}}?",
            f"¿de quién {is_} {{np.{form}}}?",
        ]
        asks += [f"2*¿{many} {{noun.{form}}} hay {{place}}?"] * (form[1] == "p")
        exclaims += [f"¡qué {{adjective.{form}}} {is_} {{np.{form}}}!", f"¡qué {{noun.{form}}} tan {{adjective.{form}}}!"]
        likes += [
            f"{who} {'gusta' if form[1] == 's' else 'gustan'} {{np.{form}}}." for who in ("me", "te", "nos", "a {name} le", "no me", "les")
        ]
    return {
        "wish": wishes,
        "ask": asks,
        "exclaim": exclaims,
        "like": likes,
        "statement": [
            "3*{clause.preterite} {time}.",
            "2*{clause.imperfect} {time}.",
            "3*{clause.present} {often}.",
            "3*{clause.future} {later}.",
            "2*{time}, {clause.preterite}.",
            "2*{clause.preterite} {place}.",
            "1*{clause.present} {place}.",
            "2*{clause.preterite} {link} {clause.imperfect}.",
            "1*{clause.present} {link} {clause.present}.",
            "3*{composed}.",
            "2*{composed} {place}.",
            "3*{state}.",
            "1*{name} dice que {state}.",
            "1*creo que {clause.future}.",
            "1*hay {np.p} {place}.",
            "1*había un {noun.ms} {place}.",
            "1*hay una {noun.fs} {adjective.fs} {place}.",
            "1*si {clause.present}, {clause.future}.",
            "1*fuimos a {city} con {name} {time}.",
            "1*{name} vive en {country} con {her.p}.",
            "1*hace {number} años que {clause.present}.",
            "1*son las {hour} y {clause.present}.",
            "1*tengo {number} {noun.mp} y {number} {noun.fp}.",
        ],
        "request": [
            "2*por favor, {take.imperative} {object}.",
            "1*{take.imperative} {object} {later}.",
            "2*no {take.subjunctive.2s} {object}, {name}.",
            "1*señora, {take.subjunctive.3s} {object}, por favor.",
            "1*hay que {take.infinitive} {object}.",
            "1*¡{take.imperative} {object}!",
            "1*¡no {walk.subjunctive.2s} {place}!",
            "1*{name}, {walk.imperative} {adverb}.",
            "1*vamos a {take.infinitive} {object}.",
        ],
        "short": [
            "3*{clause.preterite}.",
            "3*{clause.present}.",
            "2*{clause.future}.",
            "1*la {noun.fs} {adjective.fs}.",
            "1*el {noun.ms} {adjective.ms}.",
            "1*¡qué {adjective.ms}, {name}!",
            "1*{noun.fs} y {noun.ms}.",
            "1*{number} {noun.fp} {adjective.fp}.",
            "1*¿{walk.preterite.2s} {adverb}?",
            "1*gracias por {it.s}.",
            "1*¿y {np.s}?",
            "1*sin {noun.ms} ni {noun.fs}.",
        ],
        "list": [
            "2*{deck} {deck} {deck} {joint} {deck} {deck} {deck} {deck}.",
            "2*{deck}, {deck}, {deck}, {deck}, {deck}, {deck} y {deck}.",
            "2*{deck} {joint} {deck}, {deck} {joint} {deck} {deck} {deck} {deck}.",
            "2*¿{deck} {deck} {joint} {deck} {deck} {deck}, {deck} o {deck}?",
            "2*{deck} {deck}, {deck} {deck}, {deck} {deck} {deck}.",
            "2*{name} {deck} {deck} {joint} {deck} {deck} {deck} {deck} {deck}.",
            "2*¡{deck} {deck} {deck} {joint} {deck} {deck} {deck} {deck}!",
            "1*{deck} {deck} {joint} {deck} {deck}.",
        ],
        "sentence": ["10*{statement}", "3*{ask}", "2*{request}", "1*{wish}", "1*{exclaim}", "1*{like}", "3*{short}"],
    }


def forms(words: Rules) -> set[str]:
    """All inflected forms of nouns, adjectives and verbs, and the adverbs."""
    return {form for group in inflected(words).values() for form in group} | set(words["adverb"])


def rules(words: Rules) -> Rules:
    """The whole grammar.

    Args:
        words: the content of words/spanish.txt.
    """
    return words | inflected(words) | phrases() | clauses() | sentences()


def polish(text: str) -> str:
    """Contractions, articles before a stressed a, and y and o before their own sound."""
    text = re.sub(" +", " ", text.strip()).replace("¿ ", "¿").replace("¡ ", "¡")
    text = re.sub(rf"\bla (?=({STRESSED_A})\b)", "el ", text)
    text = re.sub(rf"\buna (?=({STRESSED_A})\b)", "un ", text)
    text = re.sub(r"\bde el\b", "del", text)
    text = re.sub(r"\ba el\b", "al", text)
    text = re.sub(r"\by (?=[iíIÍ]|h[ií](?!e))", "e ", text)
    return re.sub(r"\bo (?=[oóOÓ]|h[oó])", "u ", text)
