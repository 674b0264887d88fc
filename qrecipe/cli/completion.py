"""`qrecipe completion`, and what the shell completes: recipes, stages, templates, codes. Never imports torch."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> int:
    """Print the script that completes verbs, options, recipes and stages in SHELL.

    For bash: eval "$(qrecipe completion bash)" in ~/.bashrc, likewise in ~/.zshrc;
    for fish: qrecipe completion fish > ~/.config/fish/completions/qrecipe.fish
    """
    from qrecipe.cli.app import app

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(app, {}, "qrecipe", "_QRECIPE_COMPLETE").source())
    return 0


def complete_recipes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Recipes below the working folder that begin with what was typed, by path or by name, and folders on the way."""
    paths = [p for p in _recipes(Path(incomplete).parent if "/" in incomplete else Path()) if str(p).startswith(incomplete)]
    if not paths and "/" not in incomplete:
        paths = [p for p in _recipes(Path("recipes")) if p.name.startswith(incomplete)]
    return [CompletionItem(str(p)) for p in paths] or [CompletionItem(incomplete, type="file")]


def complete_stages(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of the stages of the recipe or the run folder that the command line names already."""
    *before, word = incomplete.split(",")
    head = "".join(f"{b}," for b in before)
    return [CompletionItem(head + i) for i in _stage_ids(context) if i.startswith(word) and i not in before]


def complete_sets(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Paths of the recipe's values, one level at a time."""
    from qrecipe.errors import QRecipeError
    from qrecipe.recipe import load

    try:
        value = load(_named(context)).recipe.model_dump(mode="json", by_alias=True)
    except (QRecipeError, OSError, StopIteration):
        return []
    node: object = value
    *path, word = incomplete.split(".")
    for key in path:
        node = _children(node).get(key)
    head = "".join(f"{p}." for p in path)
    items = [head + k + ("=" if not isinstance(v, (dict, list)) else "") for k, v in _children(node).items() if k.startswith(word)]
    return [CompletionItem(i, type="nospace") for i in items]


def complete_templates(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the shipped templates."""
    from qrecipe.shipped import templates

    return [CompletionItem(n) for n in templates() if n.startswith(incomplete)]


def complete_codes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Codes of problems with their meaning."""
    from qrecipe.errors import CODES

    return [CompletionItem(c, help=kind.meaning) for c, kind in CODES.items() if c.startswith(incomplete.upper())]


def _recipes(folder: Path) -> Iterator[Path]:
    """Recipes of a folder and of `recipes` in it: YAML files that state a version of the format."""
    for place in (folder, folder / "recipes"):
        for path in sorted(place.glob("*.y*ml")):
            try:
                with open(path, encoding="utf-8") as f:
                    if "\nqrecipe:" in "\n" + f.read(4096):
                        yield path
            except (OSError, UnicodeDecodeError):
                continue


def _named(context: click.Context) -> Path:
    """The recipe that the command line names."""
    file = context.params.get("file") or next(w for w in _words() if w.endswith((".yaml", ".yml")))
    return Path(file)


def _words() -> list[str]:
    """The words typed so far: click drops the arguments when the option before the cursor has no value yet."""
    try:
        return shlex.split(os.environ.get("COMP_WORDS", ""))
    except ValueError:  # an open quote
        return []


def _stage_ids(context: click.Context) -> list[str]:
    from qrecipe.errors import QRecipeError
    from qrecipe.recipe import inspect
    from qrecipe.run.record import RECORD, read_record

    folder = next((w for w in _words() if (Path(w) / RECORD).is_file()), None)
    try:
        if folder is not None:
            record = read_record(Path(folder))
            return [s.id for s in record.stages] if record is not None else []
        loaded, _ = inspect(_named(context))
    except (QRecipeError, OSError, ValueError, KeyError, StopIteration):
        return []
    return [s.id for s in loaded.recipe.stages] if loaded is not None else []


def _children(value: object) -> dict[str, object]:
    if isinstance(value, dict):
        return value
    if isinstance(value, list):
        return {str(v["id"]) if isinstance(v, dict) and "id" in v else str(i): v for i, v in enumerate(value)}
    return {}
