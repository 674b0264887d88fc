"""How the package is written: names, docstrings, lengths and parameters, as `docs/architecture.md` states them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import qrecipe

PACKAGE = Path(qrecipe.__file__).parent
PARTICIPLES = {"found", "given", "kept", "said", "told", "asked"}
MAX_LINES, COMMENTED, MAX_PARAMETERS = 60, 40, 6
Function = ast.FunctionDef | ast.AsyncFunctionDef


Node = tuple[str, list[str], ast.AST]


@pytest.fixture(scope="module")
def nodes() -> list[Node]:
    """Every node of every file, with the file's name and lines."""
    texts = {str(f.relative_to(PACKAGE)): f.read_text(encoding="utf-8") for f in sorted(PACKAGE.rglob("*.py"))}
    return [(name, lines, node) for name, text in texts.items() for lines in [text.splitlines()] for node in ast.walk(ast.parse(text))]


def functions(nodes: list[Node]) -> Iterator[tuple[str, list[str], Function]]:
    for name, lines, node in nodes:
        if isinstance(node, Function):
            yield f"{name}::{node.name}", lines[node.lineno - 1 : node.end_lineno], node


def test_docstrings_begin_with_their_noun(nodes: list[Node]) -> None:
    texts = [
        f"{name}:{node.lineno}"
        for name, _, node in nodes
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and str(node.value.value).startswith("What ")
    ]
    assert texts == []


def test_variables_are_named_for_the_thing(nodes: list[Node]) -> None:
    assert [f"{name}:{node.lineno} {node.id}" for name, _, node in nodes if isinstance(node, ast.Name) and node.id in PARTICIPLES] == []


def test_a_name_is_one_type(nodes: list[Node]) -> None:
    """Classes and aliases of types, wherever they are: who looks a name up reads the right one."""
    places: dict[str, list[str]] = {}
    for name, _, module in nodes:
        for node in module.body if isinstance(module, ast.Module) else []:
            targets = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                targets = [t.id for t in node.targets if isinstance(t, ast.Name) and re.fullmatch(r"[A-Z]\w*[a-z]\w*", t.id)]
            for target in targets:
                places.setdefault(target, []).append(name)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_functions_can_be_seen_whole(nodes: list[Node]) -> None:
    assert [name for name, lines, _ in functions(nodes) if len(lines) > MAX_LINES] == []
    uncommented = [name for name, lines, _ in functions(nodes) if len(lines) > COMMENTED and not any("#" in line for line in lines)]
    assert uncommented == []


def test_functions_take_few_parameters(nodes: list[Node]) -> None:
    """Verbs of the command line take their options, and kernels what a GPU is given."""
    many = []
    for name, _, node in functions(nodes):
        arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
        exempt = name.startswith("model/kernels/") or (name.startswith("cli/") and node.name == "command")
        if len(arguments) > MAX_PARAMETERS and not exempt:
            many.append(name)
    assert many == []
