"""Respelling tables: how a language is written for a reader of another one, as rules that are checked when they are read.

A table is a YAML file:

    respelling: 1
    from: ms                        # BCP 47 tag of the language that is written
    into: es                        # and of the one whose reader it is written for
    alphabet: abcdefghijlmnopqrstuvyzñ
    sets: {front: ei}
    rules:
      - g -> gu / _ {front}
      - ng -> ng
      - k -> ' ' / {vowel} _ |
    tests: {pagi: pagui}

Of the rules that fit at a place the one with the longest left side counts, of those the first. `/ LEFT _ RIGHT` asks for what
stands before and after: letters, `[abc]` or `[^abc]` for one of (or none of) several, `{name}` for a set, `|` at the outer
end for the edge of the word. Contexts see the text as it was written, not what rules have made of it. What no rule names
stays as it is. Never imports torch.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import groupby
from pathlib import Path

from qrecipe.errors import Place, Problem, Problems, RecipeError, suggest
from qrecipe.recipe.language import BCP47
from qrecipe.source.reader import Node, read_file, read_text

FIELDS = ("respelling", "from", "into", "alphabet", "lower", "sets", "rules", "tests")
EDGE = "|"
MAX_RULES = 2000
_PART = re.compile(r"\[[^\]]*\]|\{[^}]*\}|\S")
"""A part of a context: one letter or sign, or several in brackets. A bracket alone has no end."""
_nfc = partial(unicodedata.normalize, "NFC")


@dataclass(frozen=True)
class Around:
    """The context on one side of a rule: one entry a letter, from left to right."""

    letters: tuple[tuple[frozenset[str], bool], ...] = ()
    """(letters, whether one of them must stand there; else none of them may, and some letter must)."""
    edge: bool = False
    """Whether the word ends beyond them."""

    def before(self, text: str, start: int) -> bool:
        """Whether this stands right before `start`."""
        first = start - len(self.letters)
        return first >= 0 and self._fit(text, first) and not (self.edge and _in_word(text, first - 1))

    def after(self, text: str, end: int) -> bool:
        """Whether this stands from `end` on."""
        last = end + len(self.letters)
        return last <= len(text) and self._fit(text, end) and not (self.edge and _in_word(text, last))

    def _fit(self, text: str, start: int) -> bool:
        return all(_in_word(text, start + i) and (text[start + i] in chars) == wanted for i, (chars, wanted) in enumerate(self.letters))


@dataclass(frozen=True)
class Rule:
    """`source -> target / left _ right`."""

    source: str
    target: str
    left: Around
    right: Around
    node: Node

    @property
    def anywhere(self) -> bool:
        """Whether the rule asks for nothing around it."""
        return self.left == self.right == Around()


@dataclass(frozen=True)
class RespellingTable:
    """A table that passed its checks."""

    source: str
    """BCP 47 tag of the language that is written."""
    into: str
    """BCP 47 tag of the language whose reader it is written for."""
    alphabet: frozenset[str]
    lower: dict[str, str]
    rules: dict[str, tuple[Rule, ...]]
    """By first letter, longest source first."""
    known: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Words that were respelled before."""

    def spell(self, text: str) -> str:
        """A text (NFC) respelled; a capital stays one.

        >>> table = parse("{respelling: 1, from: ms, into: es, alphabet: abchi, rules: [c -> ch], tests: {cabai: chabai}}", "t")
        >>> table.spell("Cabai, cabai!")
        'Chabai, chabai!'
        """
        # neither the left side of a rule nor what it asks for around it reaches beyond a word
        runs = ("".join(run) for _, run in groupby(text, key=_is_letter))
        return "".join(self._known(run) for run in runs)

    def _known(self, run: str) -> str:
        if run not in self.known:
            self.known[run] = "".join(part for part, _ in self._spelled(run))
        return self.known[run]

    def used(self, text: str) -> set[Rule]:
        """Rules that respell a text."""
        return {rule for _, rule in self._spelled(text) if rule is not None}

    def foreign(self, text: str) -> list[str]:
        """Letters of a respelled text that the reader's language is not written with, in order, each once."""
        return list(dict.fromkeys(c for c in text if c.isalpha() and c.lower() not in self.alphabet))

    def _spelled(self, text: str) -> Iterator[tuple[str, Rule | None]]:
        lowered = "".join(self.lower.get(c) or (c.lower() if len(c.lower()) == 1 else c) for c in text)
        at = 0
        while at < len(text):
            for rule in self.rules.get(lowered[at], ()):
                if _applies(rule, lowered, at):
                    yield (rule.target if text[at] == lowered[at] else _capital(rule.target)), rule
                    at += len(rule.source)
                    break
            else:
                yield (lowered[at] if lowered[at] == text[at] else _capital(lowered[at])), None
                at += 1


def _applies(rule: Rule, text: str, at: int) -> bool:
    return text.startswith(rule.source, at) and rule.left.before(text, at) and rule.right.after(text, at + len(rule.source))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _in_word(text: str, at: int) -> bool:
    return 0 <= at < len(text) and _is_letter(text[at])


@cache
def _is_letter(c: str) -> bool:
    """Whether words are written with this character, marks over letters included."""
    return unicodedata.category(c)[0] in "LM"


def read(file: Path, shown: str | None = None) -> RespellingTable:
    """Reads a table. Raises `RecipeError` with every problem's place, the tests that do not hold among them."""
    return _table(read_file(file, shown))


def parse(text: str, name: str) -> RespellingTable:
    """A table from its text; `name` is what messages call it. Raises `RecipeError`."""
    return _table(read_text(text, name))


def _table(node: Node) -> RespellingTable:
    reading = _Reading()
    table = reading.table(node)
    if reading.problems or table is None:
        raise RecipeError(reading.problems)
    Problems(_tested(table, node)).raise_any(RecipeError)
    return table


def _tested(table: RespellingTable, node: Node) -> Iterator[Problem]:
    """Tests that do not hold, and rules that none of them uses."""
    used: set[int] = set()
    for word, expected in node.at("tests").items():
        word, wanted = _nfc(word), _nfc(str(expected.value))
        spelled = table.spell(word)
        used |= {id(r) for r in table.used(word)}
        if spelled != wanted:
            yield expected.problem("QR049", f"the rules make `{spelled}` of `{word}`, not `{wanted}`")
        elif table.foreign(spelled):
            yield expected.problem("QR049", f"`{table.foreign(spelled)[0]}` of `{spelled}` is not in `alphabet`")
    for rules in table.rules.values():
        for rule in rules:
            if id(rule) not in used:
                yield rule.node.problem("QR049", "no test uses this rule", f"add a word with `{rule.source}` to `tests`")


class _Reading:
    """Turns the nodes of a file into a table and collects what is wrong on the way."""

    def __init__(self) -> None:
        self.problems = Problems()
        self._sets: dict[str, frozenset[str]] = {}

    def _wrong(self, message: str, n: Node, help_: str | None = None) -> None:
        self.problems.append(n.problem("QR049", message, help_))

    def table(self, node: Node) -> RespellingTable | None:
        if not isinstance(node.value, dict):
            self._wrong("a respelling table is a mapping of fields", node)
            return None
        for key, child in node.items():
            if key not in FIELDS:
                self.problems.append(child.key_problem("QR049", f"unknown field `{key}`", suggest(key, FIELDS)))
        for key in ("respelling", "from", "into", "alphabet", "rules", "tests"):
            if node.get(key) is None:
                self._wrong(f"`{key}` is missing", node)
        if self.problems:
            return None
        version = node.at("respelling")
        if version.value != 1 or isinstance(version.value, bool):
            self._wrong("should be 1", version)
        self._sets = {name: frozenset(self._letters(n)) for name, n in self._map(node, "sets").items()}
        lower = {_nfc(k): self._letters(n) for k, n in self._map(node, "lower").items()}
        for name, n in self._map(node, "lower").items():
            if len(_nfc(name)) != 1 or len(self._letters(n)) != 1:
                self._wrong("`lower` says for one letter which one it is in lower case", n)
        rules = self._rules(node)
        tests = self._map(node, "tests")
        if not tests and not self.problems:
            self._wrong("a table is tested: give words and what becomes of them", node.at("tests"))
        alphabet = frozenset(self._letters(node.at("alphabet")))
        return RespellingTable(self._tag(node.at("from")), self._tag(node.at("into")), alphabet, lower, rules)

    def _tag(self, n: Node) -> str:
        if not isinstance(n.value, str) or not re.match(BCP47, n.value):
            self._wrong(f"`{n.value}` is not a BCP 47 tag such as `ms`", n)
        return str(n.value)

    def _map(self, node: Node, key: str) -> dict[str, Node]:
        n = node.get(key)
        if n is None:
            return {}
        if not isinstance(n.value, dict):
            self._wrong(f"`{key}` is a mapping", n)
            return {}
        for name, child in n.items():
            if not isinstance(child.value, str):
                self._wrong(f"`{name}` should be text", child, "quote it")
        return {k: v for k, v in n.items() if isinstance(v.value, str)}

    def _letters(self, n: Node) -> str:
        text = _nfc(n.value) if isinstance(n.value, str) else ""
        if not text:
            self._wrong("letters are expected", n)
        return text

    def _rules(self, node: Node) -> dict[str, tuple[Rule, ...]]:
        listed = node.at("rules")
        if not listed.elements() or len(listed.elements()) > MAX_RULES:
            self._wrong(f"`rules` is a list of 1 to {MAX_RULES} rules such as `c -> ch`", listed)
            return {}
        rules: list[Rule] = []
        for n in listed.elements():
            rule = self._rule(n)
            if rule is None:
                continue
            same = (r for r in rules if r.source == rule.source)
            earlier = next((r for r in same if r.anywhere or (r.left, r.right) == (rule.left, rule.right)), None)
            if earlier is not None:
                help_ = "rules that ask for a context stand before the one that does not"
                self._wrong(f"never used: line {earlier.node.place.line} comes first", n, help_)
            rules.append(rule)
        by_letter: dict[str, list[Rule]] = {}
        for rule in sorted(rules, key=lambda r: -len(r.source)):
            by_letter.setdefault(rule.source[0], []).append(rule)
        return {letter: tuple(of_letter) for letter, of_letter in by_letter.items()}

    def _rule(self, n: Node) -> Rule | None:
        if not isinstance(n.value, str):
            self._wrong("a rule is text such as `c -> ch`", n, "quote it")
            return None
        text = n.value
        source, arrow, rest = text.partition("->")
        if not arrow:
            self._wrong("a rule has the form `letters -> letters / left _ right`", n)
            return None
        target, slash, context = rest.partition("/")
        source, target = _nfc(source.strip()), _nfc(target.strip())
        if not source or any(c.isspace() for c in source) or source != source.lower():
            self._at(n, 0, "before `->` stand letters of one word in lower case")
            return None
        if any(c.isspace() for c in target):
            self._at(n, text.index("->") + 2, "after `->` stand letters of one word, or nothing")
            return None
        left = right = Around()
        if slash:
            offset = text.index("/") + 1
            before, gap, after = context.partition("_")
            if not gap:
                self._at(n, offset, "a context shows with `_` where the letters stand")
                return None
            if not before.strip() and not after.strip():
                help_ = "the edge of a word is `|`; YAML takes ` #` for a comment"
                self._at(n, offset, "a context without anything before or after", help_)
                return None
            left = self._around(n, before, offset, left=True)
            right = self._around(n, after, offset + len(before) + 1, left=False)
        return Rule(source, target, left, right, n)

    def _around(self, n: Node, text: str, offset: int, left: bool) -> Around:
        """One side of a context; `offset` is where it starts within the rule."""
        letters: list[tuple[frozenset[str], bool]] = []
        edge = False
        for part in _PART.finditer(text):
            at, c, inner = part.start(), part[0][0], part[0][1:-1]
            if c in "[{" and not inner.strip("^ "):
                self._at(n, offset + at, f"`{c}` without letters or without its end")
                break
            if c in "]}^_/":
                self._at(n, offset + at, f"`{c}` has no place here")
                break
            if c == "{":
                if inner not in self._sets:
                    self._at(n, offset + at + 1, f"no set is called `{inner}`", suggest(inner, self._sets))
                letters.append((self._sets.get(inner, frozenset()), True))
            elif c == "[":
                letters.append((frozenset(_nfc(inner.removeprefix("^"))), not inner.startswith("^")))
            elif c == EDGE:
                if (text[:at] if left else text[at + 1 :]).strip():
                    self._at(n, offset + at, "the edge of a word stands at the outer end")
                edge = True
            else:
                letters.append((frozenset(c), True))
        return Around(tuple(letters), edge)

    def _at(self, n: Node, offset: int, message: str, help_: str | None = None) -> None:
        """A problem at a character of a rule; a quoted one starts after its quote."""
        text = str(n.value)
        quoted = n.place.length != len(text)
        offset += len(text[offset:]) - len(text[offset:].lstrip())
        if offset >= len(text):
            offset = max(0, len(text) - 1)
        place = Place(n.place.file, n.place.line, n.place.column + offset + quoted)
        self.problems.append(Problem("QR049", message, place, help_))
