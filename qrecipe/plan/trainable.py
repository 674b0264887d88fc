"""Which tensors and rows a stage trains: the entries of `train` against the names and shapes of a base."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from qrecipe.errors import MOST, Problem, suggest
from qrecipe.plan import patterns
from qrecipe.recipe.checks import at
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.reader import Node
from qrecipe.recipe.stage import Lora, Stage, Train

TEXT_TABLE = "talker.model.text_embedding.weight"
CODEC_TABLE = "talker.model.codec_embedding.weight"
ROW_TABLES = {"seen": (TEXT_TABLE,), "languages": (CODEC_TABLE,)}
TRAINABLE_ROOT = "talker"
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

    def rows_of(self, tensor: str) -> tuple[int, ...] | None:
        """Rows of a tensor that train, or None if it trains whole or not at all."""
        found = [g.rows for g in self.groups if tensor in g.tensors and g.rows is not None]
        return tuple(sorted(r for rows in found for r in rows)) if found else None


def resolve(
    stage: Stage,
    where: Node,
    tensors: dict[str, tuple[int, ...]] | None,
    languages: dict[str, int] | None,
    seen: list[int] | None,
) -> tuple[Trainable, list[Problem]]:
    """Resolves the entries of a stage.

    Args:
        where: the stage's node, for places.
        tensors: names and shapes of the base; None if they are not known.
        languages: rows of the recipe's languages; None if not known.
        seen: rows of the text embedding that the stage's texts use; None if not known.
    """
    problems: list[Problem] = []
    groups: list[Group] = []
    for i, train in enumerate(stage.train):
        node = at(where, "train", i)
        if tensors is None or len(problems) >= MOST:
            continue
        group = _group(train, node, tensors, languages, seen, problems)
        if group is not None:
            problems.extend(_outside(stage, group, at(node, "match")))
            groups.append(group)
    problems.extend(_overlaps(groups, stage, where))
    return Trainable(groups), problems


def _group(
    train: Train,
    node: Node,
    tensors: dict[str, tuple[int, ...]],
    languages: dict[str, int] | None,
    seen: list[int] | None,
    problems: list[Problem],
) -> Group | None:
    match = at(node, "match")
    chosen: set[str] = set()
    good = True
    for i, pattern in enumerate(train.patterns):
        found = patterns.select(pattern, tensors)
        if not found:
            problems.append(_nothing(pattern, at(match, i) if match.elements() else match, tensors))
            good = False
        chosen.update(found)
    for i, pattern in enumerate(train.except_):
        found = [n for n in patterns.select(pattern, tensors) if n in chosen]
        if not found and good:
            n = at(node, "except", i)
            help_ = "an exception takes away from what `match` selects"
            problems.append(Problem("QR030", f"`{pattern}` takes nothing away", n.place, help_, length=n.length))
            good = False
        chosen.difference_update(found)
    if not good:
        return None
    names = tuple(n for n in tensors if n in chosen)
    if not names:
        problems.append(Problem("QR031", "nothing is left to train in this entry", match.place, "narrow `except`", length=match.length))
        return None
    if train.lora is not None:
        return _low_rank(train, train.lora, names, node, tensors, problems)
    if train.rows is None:
        count = sum(math.prod(tensors[n]) for n in names)
        return Group(train, names, None, True, count, count)
    return _rows(train, names, node, tensors, languages, seen, problems)


def is_embedding(name: str) -> bool:
    """Whether a tensor is a table that is looked up."""
    return "embedding" in name.split(".")[-2] or re.search(r"\.(text|codec)_embedding\.", name) is not None


def _low_rank(
    train: Train, lora: Lora, names: tuple[str, ...], node: Node, tensors: dict[str, tuple[int, ...]], problems: list[Problem]
) -> Group | None:
    """An entry with `lora`: the weights of its linear layers, each with rank x (inputs + outputs) trained numbers."""
    where = at(node, "lora")
    tables = [n for n in names if is_embedding(n)]
    linear = tuple(n for n in names if n.endswith(".weight") and len(tensors[n]) == 2 and not is_embedding(n))
    message = help_ = None
    if train.rows is not None:
        message, help_ = "`lora` adapts linear layers, and `rows` picks rows of a table", "leave one of them out"
    elif tables:
        module = re.sub(r"(\.\d+)?\.weight$", "", tables[0])
        message, help_ = f"`lora` never adapts an embedding table, and this entry selects `{module}`", f"add `except: [{module}]`"
    elif not linear:
        message, help_ = "`lora` adapts linear layers, and this entry selects none", "leave `lora` out"
    if message is not None:
        problems.append(Problem("QR036", message, where.key_place or where.place, help_, length=where.key_length))
        return None
    count = sum(lora.rank * sum(tensors[n]) for n in linear)
    return Group(train, linear, None, True, count, count)


def _rows(
    train: Train,
    names: tuple[str, ...],
    node: Node,
    tensors: dict[str, tuple[int, ...]],
    languages: dict[str, int] | None,
    seen: list[int] | None,
    problems: list[Problem],
) -> Group | None:
    allowed = ROW_TABLES[train.rows] if isinstance(train.rows, str) else (TEXT_TABLE, CODEC_TABLE)
    n = at(node, "rows")
    wrong = [name for name in names if name not in allowed]
    if wrong:
        label = f"rows: {train.rows}" if isinstance(train.rows, str) else "row numbers"
        tables = " or ".join(f"`{a.removesuffix('.weight')}`" for a in allowed)
        problems.append(
            Problem("QR033", f"`{label}` picks rows of {tables}, not of `{wrong[0]}`", n.place, f"match {tables}", length=n.length)
        )
        return None
    height, width = min(tensors[name][0] for name in names), tensors[names[0]][1]
    rows: list[int] | None
    if isinstance(train.rows, list):
        rows = sorted(set(train.rows))
        bad = [r for r in rows if not 0 <= r < height]
        if bad:
            problems.append(Problem("QR033", f"row {bad[0]} is outside the table's 0 to {height - 1}", n.place, length=n.length))
            return None
    elif train.rows == "languages":
        rows = sorted(languages.values()) if languages is not None else None
    else:
        rows = sorted(set(seen)) if seen is not None else None
        if rows is not None and not rows:
            problems.append(Problem("QR031", "the stage's texts in the recipe's own languages hold no token", n.place, length=n.length))
            return None
    per_row = width * len(names)
    known = None if rows is None else len(rows) * per_row
    return Group(train, names, None if rows is None else tuple(rows), False, known, height * per_row if known is None else known)


def _nothing(pattern: str, n: Node, tensors: dict[str, tuple[int, ...]]) -> Problem:
    close = patterns.near(pattern, tensors)
    help_ = f"did you mean `{close}`?" if close else suggest(pattern, {name.split(".")[0] for name in tensors})
    return Problem("QR030", f"`{pattern}` matches nothing", n.place, help_, length=n.length)


def _outside(stage: Stage, group: Group, n: Node) -> list[Problem]:
    spec = OBJECTIVES[stage.objective]
    if spec.trains is not None and group.train.rows == "languages":
        return []  # said by the recipe's own checks
    for name in group.tensors:
        if not name.startswith(TRAINABLE_ROOT + "."):
            why = f"`{name}` is read before training, so no stage can move it"
            return [Problem("QR024", why, n.place, f"keep to `{TRAINABLE_ROOT}`", length=n.length)]
        if spec.trains is not None and name not in spec.trains:
            what = ", ".join(dict.fromkeys(f"`{t.removesuffix('.weight').split('.linear_')[0]}`" for t in spec.trains))
            return [Problem("QR024", f"`{stage.objective}` cannot move `{name}`", n.place, f"it trains {what} alone", length=n.length)]
    return []


def _overlaps(groups: list[Group], stage: Stage, where: Node) -> list[Problem]:
    problems = []
    for j, new in enumerate(groups):
        for old in groups[:j]:
            shared = [n for n in new.tensors if n in old.tensors]
            if not shared:
                continue
            if not new.whole and not old.whole:
                if new.rows is None or old.rows is None:
                    continue  # judged again when the rows are known
                both = sorted(set(new.rows) & set(old.rows))
                if not both:
                    continue
                what, help_ = f"row {both[0]} of `{shared[0]}`", "leave it out of one of them"
            else:
                what, help_ = f"`{shared[0]}`", "take it away from one with `except`"
            i = next(k for k, t in enumerate(stage.train) if t is new.train)
            n = at(where, "train", i, "match")
            problems.append(
                Problem(
                    "QR032",
                    f"{what} is claimed by two entries of this stage",
                    n.place,
                    help_,
                    length=n.length,
                )
            )
    return problems
