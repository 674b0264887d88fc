"""From nodes to a `Recipe`, and from pydantic's errors to problems with a place.

Collects every problem in one pass. Never imports torch.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from qrecipe.errors import Problem, RecipeError, suggest
from qrecipe.recipe import checks
from qrecipe.recipe.compose import compose
from qrecipe.recipe.reader import Node, read_file
from qrecipe.recipe.recipe import Recipe

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
        alone = read_file(file)
        node = compose(file, list(sets), str(path))
    except RecipeError as e:
        return None, e.problems
    template = alone.get("template")
    if template is not None:
        if template.value is not True:
            return None, [Problem("QR012", "`template` is `true` or left out", template.place, length=template.length)]
        found = _template_problems(node)
        note = Problem("QR016", "this file is a template: recipes extend it", template.place, severity="warning")
        return None, found or [note]
    recipe, problems = _build(node)
    if recipe is None:
        return None, problems
    problems = checks.check(recipe, node, file.resolve().parent)
    loaded = LoadedRecipe(recipe, file.resolve(), node, [p for p in problems if p.severity == "warning"], sets)
    return loaded, problems


def _build(node: Node) -> tuple[Recipe | None, list[Problem]]:
    try:
        return Recipe.model_validate(node.plain()), []
    except ValidationError as e:
        return None, _problems(e, node)


def _problems(error: ValidationError, node: Node) -> list[Problem]:
    found = {}
    for e in error.errors(include_url=False, include_context=True):
        problem = _problem(e, node)
        found[(problem.place, problem.message)] = problem
    return sorted(found.values(), key=lambda p: (p.place, p.code))


def _template_problems(node: Node) -> list[Problem]:
    """A template lacks what recipes add, so missing fields are no problem; everything that is there is checked."""
    kept = [p for p in _problems_of(_complete(node)) if p.code != "QR011"]
    return [p for p in kept if p.place.line]


def _problems_of(node: Node) -> list[Problem]:
    return _build(node)[1]


def _complete(node: Node) -> Node:
    return Node({k: v for k, v in node.items() if k != "template"}, node.place)


def _walk(node: Node, loc: Loc) -> tuple[Node, Loc]:
    """The deepest node along a pydantic location, and the part that names no node (missing or unknown fields, tags)."""
    for i, key in enumerate(loc):
        child = node.child(key)
        if child is not None:
            node = child
        elif i + 1 == len(loc):
            return node, loc[i:]
    return node, ()


def _problem(error: Any, node: Node) -> Problem:
    loc: Loc = error["loc"]
    kind: str = error["type"]
    target, rest = _walk(node, loc)
    name = str(loc[-1]) if loc else "recipe"
    if kind == "extra_forbidden":
        place = target.key_place or target.place
        return Problem("QR010", f"unknown field `{name}`", place, suggest(name, _fields(loc[:-1])), length=target.key_length)
    if kind == "missing":
        place = target.key_place or target.place
        return Problem("QR011", f"`{name}` is missing", place, _describe(loc))
    if kind == "union_tag_not_found":
        tag = str(error.get("ctx", {}).get("discriminator", "")).strip("'")
        return Problem("QR011", f"`{tag}` is missing", target.key_place or target.place)
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
            f"`{loc[-2]}` is not a name: lower-case letters, digits, `_`, `-`, a letter first",
            key_node.key_place or key_node.place,
            length=key_node.key_length,
        )
    message = str(error["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    help_ = None
    value = target.plain()
    if kind == "literal_error":
        expected = str(error["ctx"]["expected"])
        message = f"should be {expected}"
        help_ = suggest(str(value), [w.strip("'") for w in expected.replace(" or ", ", ").split(", ")])
    elif kind == "string_type" and isinstance(value, (int, float, bool)):
        message = "should be a string"
        help_ = f'quote it: "{value}"'
    elif kind == "string_pattern_mismatch":
        message = f"`{value}` does not have the form {error['ctx']['pattern']}"
    label = ".".join(str(k) for k in loc if not _is_tag(k))
    return Problem("QR012", f"{label or 'recipe'}: {message}", target.place, help_, length=target.length)


def _is_tag(key: int | str) -> bool:
    return isinstance(key, str) and (key in {"speech", "text", "text_lm", "str", "Use", "[key]"} or "[" in key)


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
            if loc[-1] in (info.alias or name, name) and info.description:
                return info.description.split("\n")[0]
    return None
