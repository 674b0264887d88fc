"""Reading and checking a recipe: every problem in one pass, each with its place. Never imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os.path import dirname, join, normpath
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qrecipe.errors import CODES, Place, Problem, Problems, RecipeError, nearest
from qrecipe.recipe import checks
from qrecipe.recipe.diagnose import Diagnosis, diagnose, problems_of
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.recipe import Recipe
from qrecipe.recipe.stage import Use
from qrecipe.redaction import looks_secret
from qrecipe.source import paths
from qrecipe.source.bounds import repository
from qrecipe.source.compose import compose
from qrecipe.source.nodes import Loc, along, changed, every_node, places, without
from qrecipe.source.reader import Node


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe with its source."""

    recipe: Recipe
    file: Path
    """The recipe's file, resolved."""
    node: Node
    """The tree that the recipe was made from, with places."""
    warnings: Problems = field(default_factory=Problems)
    sets: tuple[str, ...] = ()
    """Values of `--set`."""

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
        return paths.find(self.root, text)[0].resolve()

    def shown(self, text: str) -> str:
        """How messages name a path of the recipe: from where the recipe was named, not from its folder."""
        return normpath(join(dirname(self.node.place.file), text))

    def resolved(self) -> dict[str, Any]:
        """The recipe after `extends`, `vars` and `--set`, as plain data."""
        plain = self.node.plain()
        assert isinstance(plain, dict)
        return plain

    def noted(self, problems: Iterable[Problem]) -> Problems:
        """Problems with a note where a value comes from a template or from a variable."""
        return _noted(problems, self.node)


def load(path: Path | str, sets: Iterable[str] = ()) -> LoadedRecipe:
    """Reads, composes and checks a recipe. Raises `RecipeError` with every problem; warnings are in the result."""
    loaded, problems = inspect(path, sets)
    if problems.errors or loaded is None:
        raise RecipeError(problems.errors or problems)
    return loaded


def inspect(path: Path | str, sets: Iterable[str] = ()) -> tuple[LoadedRecipe | None, Problems]:
    """Every problem of a recipe, and the recipe if it can be built. Raises nothing that a recipe can cause.

    With errors among the problems the recipe is what remains of it without its faulty parts: good for finding more
    problems, not for running.
    """
    file, sets = Path(path), tuple(sets)
    try:
        composed = compose(file, list(sets), str(path))
    except RecipeError as e:
        return None, e.problems
    node, problems = composed.node, Problems(composed.problems)

    # Neither a recipe with a secret in it nor a template is looked at any further.
    secrets = Problems(_secrets(node))
    if secrets:
        return None, secrets
    template = node.get("template")
    if template is not None:
        if template.value is not True:
            return None, Problems([template.problem("QR012", "`template` is `true` or left out")])
        problems += _template_problems(node)
        return None, problems or Problems([template.problem("QR016", "this file is a template: recipes extend it")])

    # What has the right form is checked although other parts have not, and planned although some checks fail.
    diagnosis = diagnose(node)
    problems += [p for p in diagnosis.problems if p.place not in problems.places]
    if diagnosis.recipe is None:
        return None, _noted(problems, node)
    later = checks.check(diagnosis.recipe, diagnosis.node, file.resolve().parent, node)
    problems = _noted(with_more(problems, later), node)
    if problems.errors:
        diagnosis = _plannable(diagnosis.recipe, diagnosis.node, problems.places)
    if diagnosis.recipe is None:
        return None, problems
    return LoadedRecipe(diagnosis.recipe, file.resolve(), diagnosis.node, problems.warnings, sets), problems


def with_more(problems: Problems, later: Iterable[Problem]) -> Problems:
    """Problems with those of a later check of the same recipe.

    Where the first are errors, the later check saw the recipe without its faulty parts, so what those may have caused
    is left out.
    """
    if problems.errors:
        places = problems.places
        later = [p for p in later if p.severity == "error" and not CODES[p.code].knock_on and p.place not in places]
    known = set(problems)
    return Problems([*problems, *(p for p in dict.fromkeys(later) if p not in known)]).in_order()


def _noted(problems: Iterable[Problem], node: Node) -> Problems:
    own = node.place.file
    nodes = {n.place: n for n in every_node(node)}
    templates = {n.place.file for n in nodes.values() if n.place.file != own and not n.place.file.startswith("--set")}
    noted = Problems()
    for problem in problems:
        at, file = nodes.get(problem.place), problem.place.file
        if problem.note is None and at is not None and at.variables:
            variables = ", ".join(f"`${name}` at {place}" for name, place in at.variables)
            problem = replace(problem, note=f"the value comes from {variables}")
        elif problem.note is None and file in templates:
            problem = replace(problem, note=f"{file} is a template that {own} extends")
        noted.append(problem)
    return noted


def _secrets(node: Node) -> Iterator[Problem]:
    """A recipe is passed on, in a repository and in every bundle, so it holds no passwords and tokens."""
    for n in every_node(node):
        if isinstance(n.value, str) and looks_secret(n.value):
            help_ = "take it out, and give tokens in the environment (HF_TOKEN)"
            yield n.problem("QR017", "this looks like a password or an access token", help_)


def _plannable(recipe: Recipe, node: Node, faults: set[Place]) -> Diagnosis:
    """A recipe without faulty gates and undefined names, so that the rest can be planned."""
    cuts: list[Loc] = []
    ids: set[str] = set()

    def unusable(name: str) -> bool:
        return name not in recipe.datasets

    def cut_gates(gates: Sequence[Gate], path: Loc) -> None:
        for j, gate in enumerate(gates):
            if unusable(gate.data) or len(gate.thresholds) != 1 or places(along(node, (*path, j))) & faults:
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
        cut_gates(stage.gates, ("stages", i, "gates"))
        select: Loc = ("stages", i, "select")
        if stage.select is not None and (unusable(stage.select.data) or places(along(node, select)) & faults):
            cuts.append(select)
    cut_gates(recipe.accept, ("accept",))
    for path in reversed(cuts):
        node = without(node, path)
    return diagnose(node)


def _template_problems(node: Node) -> list[Problem]:
    """A template lacks what recipes add: missing fields and open variables are no problem; everything else is checked."""
    fields = {k: v for k, v in node.items() if k != "template"}
    if "vars" in fields and isinstance(fields["vars"].value, dict):
        defined = {k: v for k, v in fields["vars"].items() if v.value is not None}
        fields["vars"] = replace(fields["vars"], value=defined)
    complete = Node(fields, node.place)
    open_places = {n.place for n in every_node(node) if isinstance(n.value, str) and "${" in n.value}
    try:
        Recipe.model_validate(complete.plain())
    except ValidationError as e:
        return [p for p in problems_of(e, complete) if p.code != "QR011" and p.place.line and p.place not in open_places]
    return []
