"""`extends`, `vars` and `--set`: from files to the one tree of nodes that a recipe means.

Maps merge key by key; `stages` merge by id; other lists and all scalars are replaced. Paths of datasets and of a base
folder are relative to the file that states them and are rewritten relative to the recipe. Reads local files only.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from string import Template

from qrecipe.errors import Place, Problem, RecipeError, nearest, suggest
from qrecipe.files import is_file
from qrecipe.recipe.reader import Node, Scalar, read_file, read_text

MAX_CHAIN = 8
_PATH_FIELDS = ("path", "reference")


class _Identifiers(Template):
    """`string.Template` with its default syntax: `$name`, `${name}`, `$$`."""


def compose(path: Path, sets: list[str], shown: str | None = None) -> Node:
    """The tree that `path` means after `extends`, `--set` and `vars`. Raises `RecipeError`."""
    root = path.resolve().parent
    node = _load(path, [], shown or str(path), root)
    for text in sets:
        node = _apply_set(node, text)
    return _substitute(node, template=node.get("template") is not None)


def _load(path: Path, chain: list[Path], shown: str, root: Path) -> Node:
    node = read_file(path, shown)
    if not isinstance(node.value, dict):
        raise RecipeError(Problem("QR012", "a recipe is a mapping of fields", node.place))
    node = _rebase(node, path.resolve().parent, root)
    assert isinstance(node.value, dict)
    extends = node.value.get("extends")
    if extends is None:
        return node
    parents = extends.elements() if isinstance(extends.value, list) else [extends]
    own = Node({k: v for k, v in node.value.items() if k != "extends"}, node.place)
    merged: Node | None = None
    for parent in parents:
        if not isinstance(parent.value, str) or not parent.value:
            raise RecipeError(Problem("QR012", "`extends` names a file or a list of files", parent.place))
        target = (path.resolve().parent / parent.value).resolve()
        steps = [*chain, path.resolve()]
        if target in steps:
            names = " -> ".join(p.name for p in [*steps, target])
            raise RecipeError(Problem("QR014", f"`extends` goes in a circle: {names}", parent.place, length=parent.length))
        if len(steps) >= MAX_CHAIN:
            raise RecipeError(Problem("QR014", f"`extends` is deeper than {MAX_CHAIN} files", parent.place))
        if not is_file(target):
            close = nearest(target.name, (p.name for p in target.parent.glob("*.y*ml")))
            spelled = os.path.join(os.path.dirname(parent.value), close) if close else None
            raise RecipeError(
                Problem(
                    "QR014",
                    f"`extends` names a missing file: {parent.value}",
                    parent.place,
                    f"did you mean `{spelled}`?" if spelled else None,
                    length=parent.length,
                )
            )
        loaded = _load(target, steps, _shown(target, path, shown), root)
        loaded = _without(loaded, "template")
        merged = loaded if merged is None else _merge(merged, loaded)
    return own if merged is None else replace(_merge(merged, own), place=node.place)


def _shown(target: Path, child: Path, child_shown: str) -> str:
    """How messages name a template: relative to the same folder as the file that extends it."""
    return os.path.normpath(os.path.join(os.path.dirname(child_shown), os.path.relpath(target, child.resolve().parent)))


def _without(node: Node, key: str) -> Node:
    assert isinstance(node.value, dict)
    return replace(node, value={k: v for k, v in node.value.items() if k != key})


def _merge(old: Node, new: Node, key: str = "") -> Node:
    if isinstance(old.value, dict) and isinstance(new.value, dict):
        merged = dict(old.value)
        for k, v in new.value.items():
            merged[k] = _merge(merged[k], v, k) if k in merged else v
        return replace(new, value=merged)
    if key == "stages" and isinstance(old.value, list) and isinstance(new.value, list):
        return replace(new, value=_merge_stages(old.value, new.value))
    return new


def _merge_stages(old: list[Node], new: list[Node]) -> list[Node]:
    """Stages of the same id merge where the template has them; a new one goes right before the next one that both have."""
    stages = list(old)
    for i, stage in enumerate(new):
        at = _position(stages, stage)
        if at is not None:
            stages[at] = _merge(stages[at], stage)
            continue
        following = (_position(stages, later) for later in new[i + 1 :])
        before = next((p for p in following if p is not None), len(stages))
        stages.insert(before, stage)
    return stages


def _position(stages: list[Node], stage: Node) -> int | None:
    return next((i for i, s in enumerate(stages) if _id(s) is not None and _id(s) == _id(stage)), None)


def _id(stage: Node) -> Scalar:
    found = stage.get("id")
    return found.value if found is not None and not isinstance(found.value, (dict, list)) else None


def _rebase(node: Node, folder: Path, root: Path) -> Node:
    """Rewrites the file's own relative paths relative to the recipe's folder."""

    def moved(n: Node) -> Node:
        if not isinstance(n.value, str) or os.path.isabs(n.value) or folder == root:
            return n
        return replace(n, value=os.path.relpath(folder / n.value, root))

    assert isinstance(node.value, dict)
    fields = dict(node.value)
    datasets = fields.get("datasets")
    if datasets is not None and isinstance(datasets.value, dict):
        rebased = {}
        for name, entry in datasets.value.items():
            if isinstance(entry.value, dict):
                entry = replace(entry, value={k: moved(v) if k in _PATH_FIELDS else v for k, v in entry.value.items()})
            rebased[name] = entry
        fields["datasets"] = replace(datasets, value=rebased)
    base = fields.get("base")
    model = base.get("model") if base is not None else None
    if base is not None and model is not None and isinstance(model.value, str) and model.value.startswith("."):
        assert isinstance(base.value, dict)
        fields["base"] = replace(base, value={**base.value, "model": moved(model)})
    return replace(node, value=fields)


def _apply_set(node: Node, text: str) -> Node:
    """`stages.text.epochs=3`: keys separated by dots, stages by id; the value is YAML."""
    place = Place("--set", 1, 1)
    path, equals, value = text.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise RecipeError(Problem("QR015", f"`{text}` is not of the form path=value", place, "for example --set stages.text.epochs=3"))
    try:
        new = read_text(value, "--set") if value.strip() else Node(None, place)
    except RecipeError as e:
        raise RecipeError(Problem("QR015", f"the value of `{text}` is not YAML: {e.problems[0].message}", place)) from None
    return _set(node, keys, replace(new, place=place), text)


def _set(node: Node, keys: list[str], new: Node, text: str) -> Node:
    place = Place("--set", 1, 1)
    if not keys:
        return new
    key, rest = keys[0], keys[1:]
    if isinstance(node.value, list):
        ids = [str(_id(n)) if _id(n) is not None else str(i) for i, n in enumerate(node.value)]
        numbers = [str(i) for i in range(len(ids))]
        index = ids.index(key) if key in ids else numbers.index(key) if key in numbers else None
        if index is None:
            raise RecipeError(Problem("QR015", f"`{text}`: there is no `{key}`", place, suggest(key, ids)))
        return replace(node, value=[_set(n, rest, new, text) if i == index else n for i, n in enumerate(node.value)])
    if isinstance(node.value, dict) or node.value is None:
        fields = dict(node.value) if isinstance(node.value, dict) else {}
        child = fields.get(key, Node({} if rest else None, place, place))
        fields[key] = replace(_set(child, rest, new, text), key_place=child.key_place or place)
        return replace(node, value=fields)
    raise RecipeError(Problem("QR015", f"`{text}`: `{key}` is asked of a value that has no fields", place))


def _substitute(node: Node, template: bool) -> Node:
    """Replaces `$name` in every value but those under `vars`. A value that is one variable keeps the variable's type.

    A variable that is `null` must be given by whoever extends the template; a template may leave it open.
    """
    table: dict[str, Scalar] = {}
    open_: set[str] = set()
    problems: list[Problem] = []
    vars_ = node.get("vars")
    for name, value in vars_.items() if vars_ is not None else ():
        if value.value is None:
            if template:
                table[name] = f"${{{name}}}"
            else:
                open_.add(name)
        elif isinstance(value.value, (dict, list)):
            problems.append(Problem("QR012", f"variable `{name}` must be a string, a number or a truth value", value.place))
        else:
            table[name] = value.value

    def walk(n: Node) -> Node:
        if isinstance(n.value, dict):
            return replace(n, value={k: v if n is node and k == "vars" else walk(v) for k, v in n.value.items()})
        if isinstance(n.value, list):
            return replace(n, value=[walk(v) for v in n.value])
        if not isinstance(n.value, str) or "$" not in n.value:
            return n
        template = _Identifiers(n.value)
        if not template.is_valid():
            problems.append(
                Problem("QR013", f"`{n.value}` holds a `$` that starts no variable", n.place, "write `$$` for a dollar", length=n.length)
            )
            return n
        used = template.get_identifiers()
        for name in used:
            if name in open_:
                problems.append(
                    Problem(
                        "QR013",
                        f"variable `${name}` has no value",
                        n.place,
                        f"the template leaves it open: write `vars: {{{name}: …}}`",
                        length=n.length,
                    )
                )
            elif name not in table:
                problems.append(
                    Problem(
                        "QR013",
                        f"variable `${name}` is not defined",
                        n.place,
                        suggest(name, table) + " (define it under `vars`)",
                        length=n.length,
                    )
                )
        if any(name not in table for name in used):
            return n
        if len(used) == 1 and n.value in (f"${used[0]}", f"${{{used[0]}}}"):
            return replace(n, value=table[used[0]])
        return replace(n, value=template.substitute({k: _spelled(v) for k, v in table.items()}))

    result = walk(node)
    if problems:
        raise RecipeError(problems)
    if vars_ is not None and not template:
        assert isinstance(result.value, dict)
        given = {k: v for k, v in vars_.items() if v.value is not None}
        result = replace(result, value={**result.value, "vars": replace(vars_, value=given)})
    return result


def _spelled(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
