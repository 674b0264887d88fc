"""Which tensors and rows a stage trains: the entries of `train` against the names and shapes of a base."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from qrecipe.errors import MAX_PROBLEMS, Problem, Problems, suggest
from qrecipe.plan import patterns
from qrecipe.qwen3 import CODEC_TABLE, TALKER, TEXT_TABLE, within
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.stage import Lora, Stage, Train
from qrecipe.source.reader import Node

ROW_TABLES = {"seen": (TEXT_TABLE,), "languages": (CODEC_TABLE,)}
BLOCK = 256
"""Numbers that moments of 8 bits scale together. A tensor that blocks do not fill keeps float32."""
TRAINABLE_ROOT = TALKER
"""The speaker encoder and the speech tokenizer are inputs here, read before training: nothing could move them."""


@dataclass(frozen=True)
class Group:
    """One entry of `train` resolved: its tensors, or its rows of them, with their learning rate."""

    train: Train
    tensors: tuple[str, ...]
    """Names that the entry selects, in the order of the catalogue."""
    rows: tuple[int, ...] | None
    """Row numbers, sorted; None if whole tensors train or the rows are not known yet."""
    whole: bool
    """Whether whole tensors change: they train themselves, or through low-rank deltas."""
    parameters: int | None
    """Trained elements; None while the rows are not known."""
    parameters_max: int
    """Upper bound of `parameters`."""


@dataclass(frozen=True)
class Trainable:
    """Everything that a stage trains."""

    groups: list[Group] = field(default_factory=list)

    @property
    def parameters(self) -> int | None:
        """Trained elements in all; None while a part is not known."""
        counts = [g.parameters for g in self.groups]
        return None if any(c is None for c in counts) else sum(c for c in counts if c is not None)

    @property
    def parameters_max(self) -> int:
        """Upper bound of `parameters`."""
        return sum(g.parameters_max for g in self.groups)

    def linear(self, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
        """Weights of linear layers that train themselves: what a stage's `moments` and `masters` are about.

        Norms are small, rows of tables have no gradient in most steps, and low-rank deltas are small again.
        """
        names = [n for g in self.groups if g.whole and g.train.lora is None for n in g.tensors]
        return [n for n in names if is_linear(n, shapes[n]) and math.prod(shapes[n]) % BLOCK == 0]

    def rows_of(self, tensor: str) -> tuple[int, ...] | None:
        """Rows of a tensor that train, or None if it trains whole or not at all."""
        groups = [g.rows for g in self.groups if tensor in g.tensors and g.rows is not None]
        return tuple(sorted(r for rows in groups for r in rows)) if groups else None


def resolve(
    stage: Stage,
    where: Node,
    tensors: dict[str, tuple[int, ...]] | None,
    languages: dict[str, int] | None,
    seen: list[int] | None,
) -> tuple[Trainable, Problems]:
    """Resolves the entries of a stage.

    Args:
        stage: the stage.
        where: its node, for places.
        tensors: names and shapes of the base; None if they are not known.
        languages: rows of the recipe's languages; None if not known.
        seen: rows of the text embedding that the stage's texts use; None if not known.
    """
    if tensors is None:
        return Trainable(), Problems()
    resolver = _Resolver(tensors, languages, seen)
    groups: list[Group] = []
    for i, train in enumerate(stage.train):
        if len(resolver.problems) >= MAX_PROBLEMS:
            break
        node = where.at("train", i)
        group = resolver.group(train, node)
        if group is not None:
            resolver.problems.extend(_outside(stage, group, node.at("match")))
            groups.append(group)
    resolver.problems.extend(_overlaps(groups, stage, where))
    return Trainable(groups), resolver.problems


class _Resolver:
    """Resolves entries of `train` against a base and collects their problems."""

    def __init__(self, tensors: dict[str, tuple[int, ...]], languages: dict[str, int] | None, seen: list[int] | None) -> None:
        self.tensors = tensors
        self.languages = languages
        self.seen = seen
        self.problems = Problems()

    def _wrong(self, code: str, message: str, n: Node, help_: str | None = None) -> None:
        self.problems.append(n.problem(code, message, help_))

    def group(self, train: Train, node: Node) -> Group | None:
        """An entry's tensors or rows; None where something is wrong with it."""
        names = self._names(train, node)
        if names is None:
            return None
        if not names:
            self._wrong("QR031", "nothing is left to train in this entry", node.at("match"), "narrow `except`")
            return None
        if train.lora is not None:
            return self._low_rank(train, train.lora, names, node.at("lora"))
        if train.rows is not None:
            return self._rows(train, names, node.at("rows"))
        count = sum(math.prod(self.tensors[n]) for n in names)
        return Group(train, names, None, True, count, count)

    def _names(self, train: Train, node: Node) -> tuple[str, ...] | None:
        """Tensors that `match` selects and `except` leaves, in the order of the catalogue; None where a pattern is wrong."""
        match = node.at("match")
        chosen: set[str] = set()
        before = len(self.problems)
        for i, pattern in enumerate(train.patterns):
            selected = patterns.select(pattern, self.tensors)
            if not selected:
                close = patterns.near(pattern, self.tensors)
                roots = {name.split(".")[0] for name in self.tensors}
                help_ = f"did you mean `{close}`?" if close else suggest(pattern, roots)
                self._wrong("QR030", f"`{pattern}` matches nothing", match.at(i), help_)
            chosen.update(selected)
        for i, pattern in enumerate(train.except_):
            removed = [n for n in patterns.select(pattern, self.tensors) if n in chosen]
            if not removed and len(self.problems) == before:
                help_ = "an exception takes away from what `match` selects"
                self._wrong("QR030", f"`{pattern}` takes nothing away", node.at("except", i), help_)
            chosen.difference_update(removed)
        return tuple(n for n in self.tensors if n in chosen) if len(self.problems) == before else None

    def _low_rank(self, train: Train, lora: Lora, names: tuple[str, ...], n: Node) -> Group | None:
        """An entry with `lora`: the weights of its linear layers, each with rank x (inputs + outputs) trained numbers."""
        tables = [name for name in names if is_embedding(name)]
        linear = tuple(name for name in names if is_linear(name, self.tensors[name]))
        message = help_ = None
        if train.rows is not None:
            message, help_ = "`lora` adapts linear layers, and `rows` picks rows of a table", "leave one of them out"
        elif tables:
            module = re.sub(r"(\.\d+)?\.weight$", "", tables[0])
            message, help_ = f"`lora` never adapts an embedding table, and this entry selects `{module}`", f"add `except: [{module}]`"
        elif not linear:
            message, help_ = "`lora` adapts linear layers, and this entry selects none", "leave `lora` out"
        if message is not None:
            self.problems.append(n.key_problem("QR036", message, help_))
            return None
        count = sum(lora.rank * sum(self.tensors[name]) for name in linear)
        return Group(train, linear, None, True, count, count)

    def _rows(self, train: Train, names: tuple[str, ...], n: Node) -> Group | None:
        """An entry with `rows`: those rows of one or two tables."""
        allowed = ROW_TABLES[train.rows] if isinstance(train.rows, str) else (TEXT_TABLE, CODEC_TABLE)
        other = next((name for name in names if name not in allowed), None)
        if other is not None:
            label = f"rows: {train.rows}" if isinstance(train.rows, str) else "row numbers"
            tables = " or ".join(f"`{a.removesuffix('.weight')}`" for a in allowed)
            self._wrong("QR033", f"`{label}` picks rows of {tables}, not of `{other}`", n, f"match {tables}")
            return None
        height, width = min(self.tensors[name][0] for name in names), self.tensors[names[0]][1]
        if isinstance(train.rows, list):
            numbers: Iterable[int] | None = train.rows
            outside = next((r for r in sorted(train.rows) if not 0 <= r < height), None)
            if outside is not None:
                self._wrong("QR033", f"row {outside} is outside the table's 0 to {height - 1}", n)
                return None
        elif train.rows == "languages":
            numbers = self.languages.values() if self.languages is not None else None
        else:
            numbers = self.seen
            if self.seen == []:
                self._wrong("QR031", "the stage's texts in the recipe's own languages hold no token", n)
                return None
        per_row = width * len(names)
        if numbers is None:
            return Group(train, names, None, False, None, height * per_row)
        rows = tuple(sorted(set(numbers)))
        return Group(train, names, rows, False, len(rows) * per_row, len(rows) * per_row)


def is_embedding(name: str) -> bool:
    """Whether a tensor is a table that is looked up."""
    return "embedding" in name.split(".")[-2] or re.search(r"\.(text|codec)_embedding\.", name) is not None


def is_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is the weight of a linear layer."""
    return name.endswith(".weight") and len(shape) == 2 and not is_embedding(name)


def _outside(stage: Stage, group: Group, n: Node) -> Iterator[Problem]:
    """The first tensor that the stage's objective cannot move."""
    spec = OBJECTIVES[stage.objective]
    if spec.trains is not None and group.train.rows == "languages":
        return  # reported by the recipe's own checks
    for name in group.tensors:
        if not within(name, TRAINABLE_ROOT):
            message = f"`{name}` is read before training, so no stage can move it"
            yield n.problem("QR024", message, f"keep to `{TRAINABLE_ROOT}`")
            return
        if spec.trains is not None and name not in spec.trains:
            modules = ", ".join(dict.fromkeys(f"`{t.removesuffix('.weight').split('.linear_')[0]}`" for t in spec.trains))
            yield n.problem("QR024", f"`{stage.objective}` cannot move `{name}`", f"it trains {modules} alone")
            return


def _overlaps(groups: list[Group], stage: Stage, where: Node) -> Iterator[Problem]:
    """Tensors or rows that two entries of a stage train."""
    for j, new in enumerate(groups):
        for old in groups[:j]:
            shared = [n for n in new.tensors if n in old.tensors]
            if not shared:
                continue
            if new.whole or old.whole:
                claimed, help_ = f"`{shared[0]}`", "take it away from one with `except`"
            elif new.rows is None or old.rows is None or not set(new.rows) & set(old.rows):
                continue  # rows that are not known yet are judged again when they are
            else:
                row = min(set(new.rows) & set(old.rows))
                claimed, help_ = f"row {row} of `{shared[0]}`", "leave it out of one of them"
            i = next(k for k, t in enumerate(stage.train) if t is new.train)
            yield where.at("train", i, "match").problem("QR032", f"{claimed} is claimed by two entries of this stage", help_)
