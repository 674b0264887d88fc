"""A study as data: which runs it has, and the recipe that each of them is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qrecipe.errors import Place, Problem, Problems, RecipeError, suggest
from qrecipe.source.reader import Node, read_file

Fragment = dict[str, Any]
"""A piece of recipe."""
FIELDS = ("study", "name", "recipe", "factors", "results", "seeds", "centre", "vary", "also")


@dataclass(frozen=True)
class Run:
    """One run: the levels in which it differs from the centre, and its seed."""

    levels: dict[str, str]
    seed: int

    @property
    def id(self) -> str:
        """`centre`, or what differs from it, such as `first=respell, minutes=5`."""
        return ", ".join(f"{k}={v}" for k, v in self.levels.items()) or "centre"


@dataclass(frozen=True)
class Study:
    """A study, read and checked."""

    file: Path
    name: str
    recipe: Path
    results: Path
    seeds: list[int]
    centre: dict[str, str]
    factors: dict[str, dict[str, Fragment]] = field(repr=False)
    points: list[dict[str, str]]
    """What differs from the centre, a run each; the centre itself, which differs in nothing, first."""

    def runs(self) -> list[Run]:
        """Every run, seed by seed, so that the first pass over all of them is over soonest."""
        return [Run(levels, seed) for seed in self.seeds for levels in self.points]

    def recipe_of(self, run: Run, folder: Path) -> Fragment:
        """The recipe that a run is, as it stands in `folder`."""
        merged: Fragment = {}
        for factor, level in {**self.centre, **run.levels}.items():
            merged = _laid_over(merged, self.factors[factor][level])
        name = re.sub(r"[^a-z0-9]+", "-", f"study-{self.name}-{run.id}").strip("-")[:56]
        head = {"qrecipe": 1, "extends": os.path.relpath(self.recipe, folder), "name": f"{name}-s{run.seed}", "seed": run.seed}
        return {**head, **merged}


def _laid_over(below: Fragment, above: Fragment) -> Fragment:
    """Maps merge, stages merge by id, `remove` adds up, everything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if key == "remove":
            merged[key] = [*(old or []), *value]
        elif key == "stages" and old is not None:
            stages = {s["id"]: s for s in old}
            for stage in value:
                stages[stage["id"]] = _laid_over(stages.get(stage["id"], {}), stage)
            merged[key] = list(stages.values())
        elif isinstance(value, dict) and isinstance(old, dict):
            merged[key] = _laid_over(old, value)
        else:
            merged[key] = value
    gone = {r.removeprefix("stages.") for r in merged.get("remove", []) if r.startswith("stages.")}
    if gone and "stages" in merged:
        merged["stages"] = [s for s in merged["stages"] if s["id"] not in gone]
    return merged


def load(path: Path) -> Study:
    """Reads a study. Raises `RecipeError` with every problem's place."""
    node = read_file(path)
    problems = Problems()
    for key, child in node.items():
        if key not in FIELDS:
            problems.append(child.key_problem("QR010", f"unknown field `{key}`", suggest(key, FIELDS)))
    missing = [k for k in FIELDS if node.get(k) is None and k not in ("also",)]
    problems += [node.problem("QR011", f"`{k}` is missing") for k in missing]
    problems.raise_any(RecipeError)
    folder = path.parent
    factors: Any = read_file(folder / str(node.get("factors").value)).plain()  # type: ignore[union-attr]  # it is there
    plain: Any = node.plain()
    points: list[dict[str, str]] = [{}]
    points += [{f: level} for f in plain["vary"] for level in factors.get(f, {}) if level != plain["centre"].get(f)]
    points += plain.get("also") or []
    for n in _levels(node):
        problems += _unknown(n, factors)
    lacking = [f for f in factors if f not in plain["centre"]]
    problems += [Problem("QR011", f"`centre` has no level of `{f}`", Place(str(path))) for f in lacking]
    problems += [
        Problem("QR020", f"no factor is called `{f}`", Place(str(path)), suggest(f, factors)) for f in plain["vary"] if f not in factors
    ]
    if len({tuple(sorted(p.items())) for p in points}) < len(points):
        problems.append(Problem("QR023", "two runs are the same", Place(str(path))))
    problems.raise_any(RecipeError)
    names = (folder / plain["recipe"], folder / plain["results"])
    return Study(path, plain["name"], *names, plain["seeds"], plain["centre"], factors, points)


def _levels(node: Node) -> list[Node]:
    centre, also = node.get("centre"), node.get("also")
    return [*([centre] if centre is not None else []), *(also.elements() if also is not None else [])]


def _unknown(node: Node, factors: dict[str, dict[str, Fragment]]) -> Problems:
    problems = Problems()
    for factor, level in node.items():
        if factor not in factors:
            problems.append(level.key_problem("QR020", f"no factor is called `{factor}`", suggest(factor, factors)))
        elif level.value not in factors[factor]:
            message = f"`{factor}` has no level `{level.value}`"
            problems.append(level.problem("QR020", message, suggest(str(level.value), factors[factor])))
    return problems
