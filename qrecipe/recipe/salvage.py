"""What of a recipe has the right form, so that one mistake does not hide the others."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import ValidationError

from qrecipe.errors import MOST, Place, Problem
from qrecipe.recipe.fields import meant_field
from qrecipe.recipe.mistakes import path_of, problems_of
from qrecipe.recipe.nodes import Loc, along, changed, with_field, without
from qrecipe.recipe.reader import Node, Scalar
from qrecipe.recipe.recipe import Recipe

PLACEHOLDERS: dict[str, Scalar] = {"qrecipe": 1, "name": "unnamed", "version": "0.0.0", "bcp47": "und", "lr": 1e-5}
"""Values that stand in for missing ones while the rest of a recipe is checked."""
ROUNDS = 12


@dataclass(frozen=True)
class Sound:
    """What of a recipe has the right form."""

    recipe: Recipe | None
    node: Node
    problems: list[Problem]


def salvage(node: Node) -> Sound:
    """Builds a recipe from the parts that have the right form, so that one mistake does not hide the others."""
    problems: list[Problem] = []
    for attempt in range(ROUNDS):
        try:
            return Sound(Recipe.model_validate(node.plain()), node, problems)
        except ValidationError as e:
            if e.error_count() > MOST:
                more = Problem("QR012", f"{e.error_count() - MOST:,} more problems of form", Place(node.place.file))
                return Sound(None, node, [*problems_of(e, node), more])
            said = {p.place for p in problems}
            found = problems_of(e, node)
            problems += [p for p in found if attempt == 0 or (p.code != "QR011" and p.place.line and p.place not in said)]
            mended = _mended(node, e)
            if mended is None:
                break
            node = mended
    return Sound(None, node, sorted(problems, key=lambda p: (p.place, p.code)))


def _mended(node: Node, error: ValidationError) -> Node | None:
    """The tree without what an error names: misspelled fields renamed, missing ones filled in, the rest left out."""
    cuts: set[Loc] = set()
    errors = error.errors(include_url=False, include_context=True)
    for e in errors:
        if e["type"] == "extra_forbidden":
            node = _renamed(node, path_of(e["loc"], node), meant_field(e["loc"]))
    for e in errors:
        path = path_of(e["loc"], node)
        last = str(e["loc"][-1]) if e["loc"] else ""
        if e["type"] == "extra_forbidden":
            continue
        if e["type"] == "missing":
            parent = along(node, path[:-1])
            if parent is None or parent.get(last) is not None:
                continue  # a misspelled field was meant
            if last in PLACEHOLDERS:
                node = with_field(node, path[:-1], last, PLACEHOLDERS[last])
            else:
                cuts.add(path[:-1])
        elif e["type"] == "union_tag_not_found":
            tag = e["ctx"]["discriminator"].strip("'")
            node = with_field(node, path, tag, "speech")
        elif e["type"] == "one_of" and "at" in e["ctx"]:
            cuts.add((*path, e["ctx"]["at"]))
        elif e["type"] == "one_of" and path[:1] == ("stages",):
            node = with_field(node, path, "epochs", 1.0)
        else:
            cuts.add(path)
    if () in cuts:
        return None
    for path in sorted(cuts, key=lambda p: [(isinstance(k, int), k if isinstance(k, int) else 0, str(k)) for k in p], reverse=True):
        node = without(node, path)
    return node


def _renamed(node: Node, path: Loc, meant: str | None) -> Node:
    parent = along(node, path[:-1])
    if meant is None or parent is None or parent.get(meant) is not None:
        return without(node, path)
    name = meant

    def rename(n: Node) -> Node:
        assert isinstance(n.value, dict)
        return replace(n, value={name if k == path[-1] else k: v for k, v in n.value.items()})

    return changed(node, path[:-1], rename)
