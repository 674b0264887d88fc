"""Reading and checking a recipe: every problem in one pass, each with its place. Never imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os.path import dirname, join, normpath
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qrecipe.errors import Place, Problem, RecipeError, nearest
from qrecipe.recipe import checks
from qrecipe.recipe.compose import compose_all
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.mistakes import problems_of
from qrecipe.recipe.nodes import Loc, along, changed, every_node, places, without
from qrecipe.recipe.paths import repository
from qrecipe.recipe.reader import Node
from qrecipe.recipe.recipe import Recipe
from qrecipe.recipe.salvage import Sound, salvage
from qrecipe.recipe.stage import Use
from qrecipe.redaction import looks_secret


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

    @cached_property
    def bounds(self) -> Path:
        """The folder that the recipe's paths stay in, unless a person allows others."""
        return repository(self.file)

    def path(self, text: str) -> Path:
        """A path of the recipe as an absolute path."""
        return (self.root / text).resolve()

    def shown(self, text: str) -> str:
        """How messages name a path of the recipe: from where the recipe was named, not from its folder."""
        return normpath(join(dirname(self.node.place.file), text))

    def resolved(self) -> dict[str, Any]:
        """The recipe after `extends`, `vars` and `--set`, as plain data."""
        plain = self.node.plain()
        assert isinstance(plain, dict)
        return plain

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


KNOCK_ON = {"QR011", "QR023", "QR025", "QR027", "QR028", "QR029", "QR034", "QR035", "QR045", "QR047", "QR084"}
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
    nodes = {n.place: n for n in every_node(node)}
    files = {n.place.file for n in nodes.values()}
    found = []
    for problem in problems:
        at = nodes.get(problem.place)
        if problem.note is None and at is not None and at.variables:
            given = ", ".join(f"`${name}` at {place}" for name, place in at.variables)
            problem = replace(problem, note=f"the value comes from {given}")
        elif (
            problem.note is None
            and problem.place.file != own
            and problem.place.file in files
            and not problem.place.file.startswith("--set")
        ):
            problem = replace(problem, note=f"{problem.place.file} is a template that {own} extends")
        found.append(problem)
    return found


def _secrets(node: Node) -> Iterator[Problem]:
    """A recipe is passed on, in a repository and in every bundle, so it holds no passwords and tokens."""
    for n in every_node(node):
        if isinstance(n.value, str) and looks_secret(n.value):
            help_ = "take it out, and give tokens in the environment (HF_TOKEN)"
            yield Problem("QR017", "this looks like a password or an access token", n.place, help_, length=n.length)


def _plannable(recipe: Recipe, node: Node, faults: set[Place]) -> Sound:
    """A recipe without faulty gates and names that are not there, so that the rest can be planned."""
    cuts: list[Loc] = []
    ids: set[str] = set()

    def unusable(name: str) -> bool:
        return name not in recipe.datasets

    def gates(found: Sequence[Gate], path: Loc) -> None:
        for j, gate in enumerate(found):
            if unusable(gate.data) or len(gate.given) != 1 or places(along(node, (*path, j))) & faults:
                cuts.append((*path, j))

    for i, stage in enumerate(recipe.stages):
        if stage.id in ids:
            cuts.append(("stages", i))
            continue
        ids.add(stage.id)
        for j, use in enumerate(stage.uses):
            path: Loc = ("stages", i, "data", j)
            if use.is_self and unusable(use.dataset):
                cuts.append(path)
            elif unusable(use.use):
                meant = nearest(use.use, recipe.datasets) or next(iter(recipe.datasets))
                at_use = (*path, "use") if isinstance(stage.data[j], Use) else path
                node = changed(node, at_use, lambda n, meant=meant: replace(n, value=meant))  # type: ignore[misc]  # bound now
        gates(stage.gates, ("stages", i, "gates"))
        if stage.select is not None and unusable(stage.select.data):
            cuts.append(("stages", i, "select"))
    gates(recipe.accept, ("accept",))
    for path in reversed(cuts):
        node = without(node, path)
    return salvage(node)


def _template_problems(node: Node) -> list[Problem]:
    """A template lacks what recipes add: missing fields and open variables are no problem; everything else is checked."""
    open_ = _open_variables(node)
    complete = _complete(node)
    try:
        Recipe.model_validate(complete.plain())
    except ValidationError as e:
        return [p for p in problems_of(e, complete) if p.code != "QR011" and p.place.line and p.place not in open_]
    return []


def _open_variables(node: Node) -> set[Place]:
    return {n.place for n in every_node(node) if isinstance(n.value, str) and "${" in n.value}


def _complete(node: Node) -> Node:
    fields = {k: v for k, v in node.items() if k != "template"}
    if "vars" in fields and isinstance(fields["vars"].value, dict):
        given = {k: v for k, v in fields["vars"].items() if v.value is not None}
        fields["vars"] = replace(fields["vars"], value=given)
    return Node(fields, node.place)
