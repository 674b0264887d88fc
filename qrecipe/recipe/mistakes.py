"""From pydantic's errors to problems: what was expected, where it stands, and the nearest right spelling."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from qrecipe.errors import MOST, Problem, nearest, suggest
from qrecipe.recipe.fields import MEANT, fields_at, meaning_of, meant_field
from qrecipe.recipe.language import BCP47
from qrecipe.recipe.model import IDENTIFIER
from qrecipe.recipe.nodes import Loc, along
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.reader import Node
from qrecipe.recipe.recipe import NAME, VERSION


def problems_of(error: ValidationError, node: Node) -> list[Problem]:
    """Every problem that pydantic found in the values of a tree, in the order of the file."""
    found = {}
    kept = _one_variant(error.errors(include_url=False, include_context=True)[:MOST], node)
    meant = {(*e["loc"][:-1], meant_field(e["loc"])) for e in kept if e["type"] == "extra_forbidden"}
    for e in kept:
        if e["type"] == "missing" and e["loc"] in meant:
            continue  # the misspelled one is reported
        problem = _problem(e, node)
        found[(problem.place, problem.message)] = problem
    return sorted(found.values(), key=lambda p: (p.place, p.code))


def _problem(error: Any, node: Node) -> Problem:
    loc: Loc = error["loc"]
    kind: str = error["type"]
    target, rest = _walk(node, loc)
    name = str(loc[-1]) if loc else "recipe"
    if kind == "extra_forbidden":
        place = target.key_place or target.place
        return Problem(
            "QR010", f"unknown field `{name}`", place, suggest(MEANT.get(name, name), fields_at(loc[:-1])), length=target.key_length
        )
    if kind == "missing":
        return _missing(name, target, _sibling(loc[:-1], node) or meaning_of(loc))
    if kind == "union_tag_not_found":
        tag = str(error.get("ctx", {}).get("discriminator", "")).strip("'")
        return _missing(tag, target, _sibling(loc, node) or " or ".join(f"`{tag}: {t}`" for t in _TAGS[tag]))
    if kind == "union_tag_invalid":
        ctx = error.get("ctx", {})
        tag_name = str(ctx.get("discriminator", "")).strip("'")
        tag_node = target.get(tag_name) or target
        known = [t.strip(" '") for t in str(ctx.get("expected_tags", "")).split(",")]
        return Problem(
            "QR012", f"`{ctx.get('tag')}` is no {tag_name}", tag_node.place, suggest(str(ctx.get("tag")), known), length=tag_node.length
        )
    if kind == "string_pattern_mismatch" and rest == ("[key]",):
        key_node = target
        return Problem(
            "QR012",
            f"`{loc[-2]}` {_FORMS[IDENTIFIER]}",
            key_node.key_place or key_node.place,
            length=key_node.key_length,
        )
    message = str(error["msg"]).removeprefix("Input ")
    message = message[:1].lower() + message[1:]
    help_ = None
    value = target.plain()
    place, length = target.place, target.length
    if kind == "literal_error":
        message = f"should be {error.get('expected') or _expected(error)}"
        close = nearest(str(value), re.findall("`([^`]+)`", message))
        help_ = f"did you mean `{close}`?" if close else None
    elif kind == "string_type" and not isinstance(value, (dict, list)):
        message = f"should be {error.get('expected', 'a string')}"
        help_ = f'quote it: "{target.spelling}"' if target.spelling else None
    elif kind in _KINDS:
        message = f"should be {error.get('expected') or _KINDS[kind]}"
    elif kind in ("too_short", "string_too_short"):
        message = "is empty"
    elif kind == "too_long":
        message = f"has more than {error['ctx']['max_length']} entries"
    elif kind == "finite_number":
        message = "should be a finite number"
    elif kind == "string_pattern_mismatch":
        message = f"`{value}` {_FORMS.get(error['ctx']['pattern'], 'does not have the form ' + error['ctx']['pattern'])}"
    elif kind == "one_of":
        second = target.get(error["ctx"].get("at", ""))
        if second is None:
            return Problem("QR011", f"{_label(loc, node)}: {message}", place, length=length)
        place, length = second.key_place or second.place, second.key_length
    return Problem("QR012", f"{_label(loc, node)}: {message}", place, help_, length=length)


_WRONG_KIND = {"string_type", "list_type", "dict_type", "model_type", "int_type", "float_type", "bool_type", "literal_error"}
_KINDS = {
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "`true` or `false`",
}


def _one_variant(errors: list[Any], node: Node) -> list[Any]:
    """pydantic reports every variant of a union (a name or a mapping, a number or `auto`); people mean one of them.

    Where some variant has the right type, errors of the others are dropped; where none has, one error stays for all,
    with what each of them expects.
    """
    groups: dict[Loc, list[Any]] = {}
    for e in errors:
        path = path_of(e["loc"], node)
        groups.setdefault(path, []).append(e)
    kept = []
    for path, group in groups.items():
        if len(group) == 1 and not any(other[: len(path)] == path for other in groups if other != path):
            kept += group
            continue
        wrong = [e for e in group if e["type"] in _WRONG_KIND]
        right = [e for e in group if e["type"] not in _WRONG_KIND]
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in groups)
        if right or deeper:
            kept += right
        elif wrong:
            kept.append({**wrong[0], "expected": " or ".join(dict.fromkeys(_expected(e) for e in wrong))})
    return kept


def _expected(error: Any) -> str:
    if error["type"] == "literal_error":
        return str(error["ctx"]["expected"]).replace("'", "`")
    return _KINDS[error["type"]]


def path_of(loc: Loc, node: Node) -> Loc:
    """The keys and indices of a pydantic location, without the names of union variants."""
    path: list[int | str] = []
    for i, key in enumerate(loc):
        child = node.child(key)
        if child is not None:
            node = child
            path.append(key)
        elif i + 1 == len(loc) and not _is_variant(key):
            path.append(key)
    return tuple(path)


def _label(loc: Loc, node: Node) -> str:
    """A path as `--set` spells it: stages by their id."""
    words = []
    for key in path_of(loc, node):
        child = node.child(key)
        id_ = child.get("id") if child is not None and isinstance(key, int) else None
        words.append(str(id_.value) if id_ is not None else str(key))
        node = child or node
    return ".".join(words) or "recipe"


def _walk(node: Node, loc: Loc) -> tuple[Node, Loc]:
    """The deepest node along a pydantic location, and the part that names no node (missing or unknown fields, tags)."""
    for i, key in enumerate(loc):
        child = node.child(key)
        if child is not None:
            node = child
        elif i + 1 == len(loc):
            return node, loc[i:]
    return node, ()


def _missing(name: str, parent: Node, help_: str | None) -> Problem:
    length = parent.key_length if parent.key_place else parent.length
    return Problem("QR011", f"`{name}` is missing", parent.key_place or parent.place, help_, length=length)


def _sibling(loc: Loc, node: Node) -> str | None:
    """For an entry that lacks what a template's entry of nearly the same name has: that name."""
    path = path_of(loc, node)
    if len(path) != 2 or path[0] not in ("stages", "datasets", "languages"):
        return None
    section = along(node, path[:1])
    assert section is not None
    if isinstance(section.value, dict):
        own, others = str(path[1]), [k for k in section.value if k != path[1]]
    else:
        ids = [n.get("id") for n in section.elements()]
        names = [str(n.value) if n is not None else "" for n in ids]
        assert isinstance(path[1], int)
        own, others = names[path[1]], [n for i, n in enumerate(names) if n and i != path[1]]
    close = nearest(own, others) if own else None
    return f"did you mean `{close}`, which is defined?" if close and close != own else None


_TAGS = {"kind": ("text", "speech"), "objective": tuple(sorted(OBJECTIVES))}
_FORMS = {
    IDENTIFIER: "is not a name: lower-case letters, digits, `_`, `-`, a letter first",
    NAME: "is not a name: lower-case letters, digits, `.`, `_`, `-`, a letter first",
    VERSION: "is not a version such as `0.1.0`",
    BCP47: "is not a BCP 47 tag such as `ms`",
}
_VARIANTS = {"str", "int", "float", "bool", "constrained-str", "constrained-int", "constrained-float", "Use", "speech", "text", *OBJECTIVES}


def _is_variant(key: int | str) -> bool:
    """Whether pydantic made up this part of a location to name a variant of a union."""
    return isinstance(key, str) and (key in _VARIANTS or "[" in key)
