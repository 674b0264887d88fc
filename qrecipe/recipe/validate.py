"""From nodes to a `Recipe`, and from pydantic's errors to problems with a place.

Collects every problem in one pass. Never imports torch.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from qrecipe.errors import MOST, Place, Problem, RecipeError, nearest, suggest
from qrecipe.recipe import checks
from qrecipe.recipe.compose import compose_all
from qrecipe.recipe.docs import field_docs
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.language import BCP47
from qrecipe.recipe.model import IDENTIFIER
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.reader import Node, Scalar
from qrecipe.recipe.recipe import NAME, VERSION, Recipe
from qrecipe.recipe.stage import Use
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

    def noted(self, problems: Iterable[Problem]) -> list[Problem]:
        """Problems with a note where a value comes from a template or from a variable."""
        return _noted(problems, self.node)


def load(path: Path | str, sets: Iterable[str] = ()) -> LoadedRecipe:
    """Reads, composes and checks a recipe. Raises `RecipeError` with every problem; warnings are in the result."""
    loaded, problems = inspect(path, sets)
    errors = [p for p in problems if p.severity == "error"]
    if errors or loaded is None:
        raise RecipeError(errors or problems)
    return loaded


def inspect(path: Path | str, sets: Iterable[str] = ()) -> tuple[LoadedRecipe | None, list[Problem]]:
    """Every problem of a recipe, and the recipe if it can be built. Raises nothing that a recipe can cause.

    With errors among the problems the recipe is what remains of it without its faulty parts: good for finding more
    problems, not for running.
    """
    file, sets = Path(path), tuple(sets)
    try:
        composed = compose_all(file, list(sets), str(path))
    except RecipeError as e:
        return None, e.problems
    node, problems = composed.node, list(composed.problems)
    secret = list(_secrets(node))
    if secret:
        return None, secret
    template = node.get("template")
    if template is not None:
        if template.value is not True:
            return None, [Problem("QR012", "`template` is `true` or left out", template.place, length=template.length)]
        found = [*problems, *_template_problems(node)]
        note = Problem("QR016", "this file is a template: recipes extend it", template.place, severity="warning", length=template.length)
        return None, found or [note]
    sound = salvage(node)
    said = {p.place for p in problems}
    problems += [p for p in sound.problems if p.place not in said]
    if sound.recipe is None:
        return None, _noted(problems, node)
    found = checks.check(sound.recipe, sound.node, file.resolve().parent, node)
    problems = _noted(with_more(problems, found), node)
    faulty = any(p.severity == "error" for p in problems)
    sound = _plannable(sound.recipe, sound.node, {p.place for p in problems}) if faulty else sound
    if sound.recipe is None:
        return None, problems
    warnings = [p for p in problems if p.severity == "warning"]
    return LoadedRecipe(sound.recipe, file.resolve(), sound.node, warnings, sets), problems


KNOCK_ON = {"QR011", "QR023", "QR025", "QR027", "QR028", "QR029", "QR034", "QR035", "QR045", "QR047"}
"""Problems that the faulty parts of a recipe may cause by being left out."""


def with_more(problems: list[Problem], found: Iterable[Problem]) -> list[Problem]:
    """Problems with those that a later look at the same recipe found.

    Where the first are errors, the later look saw the recipe without its faulty parts, so what those may have caused
    is left out.
    """
    if any(p.severity == "error" for p in problems):
        said = {p.place for p in problems}
        found = [p for p in found if p.severity == "error" and p.code not in KNOCK_ON and p.place not in said]
    known = set(problems)
    return sorted([*problems, *(p for p in dict.fromkeys(found) if p not in known)], key=lambda p: (p.place, p.code))


def _noted(problems: Iterable[Problem], node: Node) -> list[Problem]:
    own = node.place.file
    nodes = {n.place: n for n in _all_nodes(node)}
    places = {n.place.file for n in nodes.values()}
    found = []
    for problem in problems:
        at = nodes.get(problem.place)
        if problem.note is None and at is not None and at.variables:
            given = ", ".join(f"`${name}` at {place}" for name, place in at.variables)
            problem = replace(problem, note=f"the value comes from {given}")
        elif (
            problem.note is None
            and problem.place.file != own
            and problem.place.file in places
            and not problem.place.file.startswith("--set")
        ):
            problem = replace(problem, note=f"{problem.place.file} is a template that {own} extends")
        found.append(problem)
    return found


def _all_nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in (*(v for _, v in node.items()), *node.elements()):
        yield from _all_nodes(child)


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


@dataclass(frozen=True)
class Sound:
    """What of a recipe has the right form."""

    recipe: Recipe | None
    node: Node
    problems: list[Problem]


def _plannable(recipe: Recipe, node: Node, faults: set[Place]) -> Sound:
    """A recipe without faulty gates and names that are not there, so that the rest can be planned."""
    cuts: list[Loc] = []
    ids: set[str] = set()

    def unusable(name: str) -> bool:
        return name not in recipe.datasets

    def gates(found: Sequence[Gate], path: Loc) -> None:
        for j, gate in enumerate(found):
            if unusable(gate.data) or len(gate.given) != 1 or _places(_along(node, (*path, j))) & faults:
                cuts.append((*path, j))

    for i, stage in enumerate(recipe.stages):
        if stage.id in ids:
            cuts.append(("stages", i))
            continue
        ids.add(stage.id)
        for j, use in enumerate(stage.uses):
            if unusable(use.use):
                path: Loc = ("stages", i, "data", j)
                meant = nearest(use.use, recipe.datasets) or next(iter(recipe.datasets))
                at_use = (*path, "use") if isinstance(stage.data[j], Use) else path
                node = _changed(node, at_use, lambda n, meant=meant: replace(n, value=meant))  # type: ignore[misc]  # bound now
        gates(stage.gates, ("stages", i, "gates"))
        if stage.select is not None and unusable(stage.select.data):
            cuts.append(("stages", i, "select"))
    gates(recipe.accept, ("accept",))
    for path in reversed(cuts):
        node = _cut(node, path)
    return salvage(node)


def _places(node: Node | None) -> set[Place]:
    return {p for n in _all_nodes(node) for p in (n.place, n.key_place) if p is not None} if node is not None else set()


PLACEHOLDERS: dict[str, Scalar] = {"qrecipe": 1, "name": "unnamed", "version": "0.0.0", "bcp47": "und", "lr": 1e-5}
"""Values that stand in for missing ones while the rest of a recipe is checked."""
ROUNDS = 12


def salvage(node: Node) -> Sound:
    """Builds a recipe from the parts that have the right form, so that one mistake does not hide the others."""
    problems: list[Problem] = []
    for attempt in range(ROUNDS):
        try:
            return Sound(Recipe.model_validate(node.plain()), node, problems)
        except ValidationError as e:
            if e.error_count() > MOST:
                more = Problem("QR012", f"{e.error_count() - MOST:,} more problems of form", Place(node.place.file))
                return Sound(None, node, [*_problems(e, node), more])
            said = {p.place for p in problems}
            found = _problems(e, node)
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
            node = _renamed(node, _path(e["loc"], node), _meant(e["loc"]))
    for e in errors:
        path = _path(e["loc"], node)
        last = str(e["loc"][-1]) if e["loc"] else ""
        if e["type"] == "extra_forbidden":
            continue
        if e["type"] == "missing":
            parent = _along(node, path[:-1])
            if parent is None or parent.get(last) is not None:
                continue  # a misspelled field was meant
            if last in PLACEHOLDERS:
                node = _filled(node, path[:-1], last, PLACEHOLDERS[last])
            else:
                cuts.add(path[:-1])
        elif e["type"] == "union_tag_not_found":
            tag = e["ctx"]["discriminator"].strip("'")
            node = _filled(node, path, tag, "speech")
        elif e["type"] == "one_of" and "at" in e["ctx"]:
            cuts.add((*path, e["ctx"]["at"]))
        elif e["type"] == "one_of" and path[:1] == ("stages",):
            node = _filled(node, path, "epochs", 1.0)
        else:
            cuts.add(path)
    if () in cuts:
        return None
    for path in sorted(cuts, key=lambda p: [(isinstance(k, int), k if isinstance(k, int) else 0, str(k)) for k in p], reverse=True):
        node = _cut(node, path)
    return node


_MEANT = {
    "learning_rate": "lr",
    "rate": "lr",
    "modules": "match",
    "parameters": "match",
    "threshold": "max",
    "file": "path",
    "dataset": "data",
}
"""Words of other programs for fields of this one."""


def _meant(loc: Loc) -> str | None:
    """The field that an unknown one most likely stands for."""
    name = str(loc[-1])
    return nearest(_MEANT.get(name, name), _fields(loc[:-1]))


def _along(node: Node, path: Loc) -> Node | None:
    found: Node | None = node
    for key in path:
        found = found.child(key) if found is not None else None
    return found


def _changed(node: Node, path: Loc, change: Callable[[Node], Node]) -> Node:
    """The tree with the node at a path changed; unchanged if there is none."""
    if not path:
        return change(node)
    child = node.child(path[0])
    if child is None:
        return node
    new = _changed(child, path[1:], change)
    if isinstance(node.value, dict):
        return replace(node, value={k: new if k == path[0] else v for k, v in node.value.items()})
    return replace(node, value=[new if i == path[0] else v for i, v in enumerate(node.elements())])


def _cut(node: Node, path: Loc) -> Node:
    def without(parent: Node) -> Node:
        if isinstance(parent.value, dict):
            return replace(parent, value={k: v for k, v in parent.value.items() if k != path[-1]})
        return replace(parent, value=[v for i, v in enumerate(parent.elements()) if i != path[-1]])

    return _changed(node, path[:-1], without)


def _renamed(node: Node, path: Loc, meant: str | None) -> Node:
    parent = _along(node, path[:-1])
    if meant is None or parent is None or parent.get(meant) is not None:
        return _cut(node, path)
    name = meant

    def rename(n: Node) -> Node:
        assert isinstance(n.value, dict)
        return replace(n, value={name if k == path[-1] else k: v for k, v in n.value.items()})

    return _changed(node, path[:-1], rename)


def _filled(node: Node, path: Loc, name: str, value: Scalar) -> Node:
    """The tree with a field that is missing; its place has no line, so that nothing is said of it."""

    def fill(n: Node) -> Node:
        fields = n.value if isinstance(n.value, dict) else {}
        return replace(n, value={**fields, name: Node(value, Place(n.place.file))})

    return _changed(node, path, fill)


def _problems(error: ValidationError, node: Node) -> list[Problem]:
    found = {}
    kept = _one_variant(error.errors(include_url=False, include_context=True)[:MOST], node)
    meant = {(*e["loc"][:-1], _meant(e["loc"])) for e in kept if e["type"] == "extra_forbidden"}
    for e in kept:
        if e["type"] == "missing" and e["loc"] in meant:
            continue  # the misspelled one is reported
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


def _sibling(loc: Loc, node: Node) -> str | None:
    """For an entry that lacks what a template's entry of nearly the same name has: that name."""
    path = _path(loc, node)
    if len(path) != 2 or path[0] not in ("stages", "datasets", "languages"):
        return None
    section = _along(node, path[:1])
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


def _problem(error: Any, node: Node) -> Problem:
    loc: Loc = error["loc"]
    kind: str = error["type"]
    target, rest = _walk(node, loc)
    name = str(loc[-1]) if loc else "recipe"
    if kind == "extra_forbidden":
        place = target.key_place or target.place
        return Problem(
            "QR010", f"unknown field `{name}`", place, suggest(_MEANT.get(name, name), _fields(loc[:-1])), length=target.key_length
        )
    if kind == "missing":
        return _missing(name, target, _sibling(loc[:-1], node) or _describe(loc))
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
