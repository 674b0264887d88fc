"""From nodes to a `Recipe`, and from pydantic's errors to problems with a place.

Collects every problem in one pass. Never imports torch.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from qrecipe.errors import Place, Problem, RecipeError, nearest, suggest
from qrecipe.recipe import checks
from qrecipe.recipe.compose import compose
from qrecipe.recipe.docs import field_docs
from qrecipe.recipe.language import BCP47
from qrecipe.recipe.model import IDENTIFIER
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.reader import Node
from qrecipe.recipe.recipe import NAME, VERSION, Recipe
from qrecipe.redaction import looks_secret

Loc = tuple[int | str, ...]


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe with where it came from."""

    recipe: Recipe
    file: Path
    """The recipe's file, resolved."""
    node: Node
    """The tree that the recipe was made from, with places."""
    warnings: list[Problem] = field(default_factory=list)
    sets: tuple[str, ...] = ()
    """What `--set` changed."""

    @property
    def root(self) -> Path:
        """The folder that relative paths of the recipe start from."""
        return self.file.parent

    def path(self, text: str) -> Path:
        """A path of the recipe as an absolute path."""
        return (self.root / text).resolve()


def load(path: Path | str, sets: Iterable[str] = ()) -> LoadedRecipe:
    """Reads, composes and checks a recipe. Raises `RecipeError` with every problem; warnings are in the result."""
    loaded, problems = inspect(path, sets)
    errors = [p for p in problems if p.severity == "error"]
    if errors or loaded is None:
        raise RecipeError(errors or problems)
    return loaded


def inspect(path: Path | str, sets: Iterable[str] = ()) -> tuple[LoadedRecipe | None, list[Problem]]:
    """Every problem of a recipe, and the recipe if it can be built. Raises nothing that a recipe can cause."""
    file, sets = Path(path), tuple(sets)
    try:
        node = compose(file, list(sets), str(path))
    except RecipeError as e:
        return None, e.problems
    secret = list(_secrets(node))
    if secret:
        return None, secret
    template = node.get("template")
    if template is not None:
        if template.value is not True:
            return None, [Problem("QR012", "`template` is `true` or left out", template.place, length=template.length)]
        found = _template_problems(node)
        note = Problem("QR016", "this file is a template: recipes extend it", template.place, severity="warning", length=template.length)
        return None, found or [note]
    recipe, problems = _build(node)
    if recipe is None:
        return None, problems
    problems = checks.check(recipe, node, file.resolve().parent)
    loaded = LoadedRecipe(recipe, file.resolve(), node, [p for p in problems if p.severity == "warning"], sets)
    return loaded, problems


def _secrets(node: Node) -> Iterator[Problem]:
    """A recipe is passed on, in a repository and in every bundle, so it holds no passwords and tokens."""
    if isinstance(node.value, str) and looks_secret(node.value):
        help_ = "take it out, and give tokens in the environment (HF_TOKEN)"
        yield Problem("QR017", "this looks like a password or an access token", node.place, help_, length=node.length)
    for _, child in node.items():
        yield from _secrets(child)
    for child in node.elements():
        yield from _secrets(child)


def _build(node: Node) -> tuple[Recipe | None, list[Problem]]:
    try:
        return Recipe.model_validate(node.plain()), []
    except ValidationError as e:
        return None, _problems(e, node)


def _problems(error: ValidationError, node: Node) -> list[Problem]:
    found = {}
    for e in _one_variant(error.errors(include_url=False, include_context=True), node):
        problem = _problem(e, node)
        found[(problem.place, problem.message)] = problem
    return sorted(found.values(), key=lambda p: (p.place, p.code))


_WRONG_KIND = {"string_type", "list_type", "dict_type", "model_type", "int_type", "float_type", "bool_type", "literal_error"}


def _one_variant(errors: list[Any], node: Node) -> list[Any]:
    """pydantic reports every variant of a union (a name or a mapping, a number or `auto`); people mean one of them.

    Where some variant has the right type, errors of the others are dropped; where none has, one error stays for all,
    with what each of them expects.
    """
    groups: dict[Loc, list[Any]] = {}
    for e in errors:
        path = _path(e["loc"], node)
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


def _expected(error: Any) -> str:
    if error["type"] == "literal_error":
        return str(error["ctx"]["expected"]).replace("'", "`")
    return _KINDS[error["type"]]


def _path(loc: Loc, node: Node) -> Loc:
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
    for key in _path(loc, node):
        child = node.child(key)
        id_ = child.get("id") if child is not None and isinstance(key, int) else None
        words.append(str(id_.value) if id_ is not None else str(key))
        node = child or node
    return ".".join(words) or "recipe"


def _template_problems(node: Node) -> list[Problem]:
    """A template lacks what recipes add: missing fields and open variables are no problem; everything else is checked."""
    open_ = _open_variables(node)
    return [p for p in _problems_of(_complete(node)) if p.code != "QR011" and p.place.line and p.place not in open_]


def _open_variables(node: Node) -> set[Place]:
    if isinstance(node.value, str):
        return {node.place} if "${" in node.value else set()
    children = [*(v for _, v in node.items()), *node.elements()]
    return {place for child in children for place in _open_variables(child)}


def _problems_of(node: Node) -> list[Problem]:
    return _build(node)[1]


def _complete(node: Node) -> Node:
    fields = {k: v for k, v in node.items() if k != "template"}
    if "vars" in fields and isinstance(fields["vars"].value, dict):
        given = {k: v for k, v in fields["vars"].items() if v.value is not None}
        fields["vars"] = replace(fields["vars"], value=given)
    return Node(fields, node.place)


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


_TAGS = {"kind": ("text", "speech"), "objective": tuple(sorted(OBJECTIVES))}
_FORMS = {
    IDENTIFIER: "is not a name: lower-case letters, digits, `_`, `-`, a letter first",
    NAME: "is not a name: lower-case letters, digits, `.`, `_`, `-`, a letter first",
    VERSION: "is not a version such as `0.1.0`",
    BCP47: "is not a BCP 47 tag such as `ms`",
}


def _problem(error: Any, node: Node) -> Problem:
    loc: Loc = error["loc"]
    kind: str = error["type"]
    target, rest = _walk(node, loc)
    name = str(loc[-1]) if loc else "recipe"
    if kind == "extra_forbidden":
        place = target.key_place or target.place
        return Problem("QR010", f"unknown field `{name}`", place, suggest(name, _fields(loc[:-1])), length=target.key_length)
    if kind == "missing":
        return _missing(name, target, _describe(loc))
    if kind == "union_tag_not_found":
        tag = str(error.get("ctx", {}).get("discriminator", "")).strip("'")
        return _missing(tag, target, " or ".join(f"`{tag}: {t}`" for t in _TAGS[tag]))
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
    elif kind == "string_pattern_mismatch":
        message = f"`{value}` {_FORMS.get(error['ctx']['pattern'], 'does not have the form ' + error['ctx']['pattern'])}"
    elif kind == "one_of":
        second = target.get(error["ctx"].get("at", ""))
        if second is None:
            return Problem("QR011", f"{_label(loc, node)}: {message}", place, length=length)
        place, length = second.key_place or second.place, second.key_length
    return Problem("QR012", f"{_label(loc, node)}: {message}", place, help_, length=length)


def _is_variant(key: int | str) -> bool:
    """Whether pydantic made up this part of a location to name a variant of a union."""
    return isinstance(key, str) and (key in _VARIANTS or "[" in key)


_VARIANTS = {"str", "int", "float", "bool", "constrained-str", "constrained-int", "constrained-float", "Use", "speech", "text", "text_lm"}


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Every settings model that an annotation may hold at its top level."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _models(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [m for a in get_args(annotation) for m in _models(a)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return []


def _inside(annotation: Any, key: int | str) -> list[Any]:
    """Annotations of what stands under `key`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _inside(args[0], key)
    if origin in (Union, types.UnionType):
        return [x for a in args for x in _inside(a, key)]
    if origin is list and isinstance(key, int):
        return [args[0]]
    if origin is dict:
        return [args[1]]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, info in annotation.model_fields.items():
            if key in (info.alias or name, name):
                # pydantic takes the outer Annotated apart, so its metadata is put back
                return [info.annotation]
        if key in _tags(annotation):
            return [annotation]
    return []


def _tags(model: type[BaseModel]) -> set[str]:
    tags = {model.__name__}
    for discriminator in ("objective", "kind"):
        if discriminator in model.model_fields:
            tags.update(str(a) for a in get_args(model.model_fields[discriminator].annotation))
    return tags


def _fields(loc: Loc) -> set[str]:
    """The fields that are known at a location of the recipe."""
    found: list[Any] = [Recipe]
    for key in loc:
        found = [x for a in found for x in _inside(a, key)]
    return {info.alias or name for a in found for m in _models(a) for name, info in m.model_fields.items()}


def _describe(loc: Loc) -> str | None:
    found: list[Any] = [Recipe]
    for key in loc[:-1]:
        found = [x for a in found for x in _inside(a, key)]
    for model in (m for a in found for m in _models(a)):
        for name, info in model.model_fields.items():
            if loc[-1] in (info.alias or name, name):
                return field_docs(model).get(name)
    return None
