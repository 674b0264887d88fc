"""`extends`, `remove`, `vars` and `--set`: from files to the one tree of nodes that a recipe means.

Maps merge key by key; `stages` merge by id; other lists and all scalars are replaced. Paths of datasets and of a base
folder are relative to the file that states them and are rewritten relative to the recipe. Reads local files only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template

from qrecipe.errors import Place, Problem, Problems, RecipeError, nearest, suggest
from qrecipe.files import is_file
from qrecipe.source import bounds
from qrecipe.source.nodes import without
from qrecipe.source.reader import Node, Scalar, read_file, read_text

MAX_CHAIN = 8
"""Files from a recipe to the end of its longest chain of `extends`."""
MAX_FILES = 32
"""Files that one recipe is made of."""
PATH_FIELDS = (
    ("datasets", "*", "path"),
    ("datasets", "*", "reference"),
    ("languages", "*", "respelling", "table"),
    ("teacher", "voices", "*"),
    ("stages", "*", "gates", "*", "ballots"),
    ("accept", "*", "ballots"),
)
"""Where paths stand; `*` is every entry."""


@dataclass(frozen=True)
class Composed:
    """The tree that a recipe means, with the problems of putting it together."""

    node: Node
    problems: Problems


def compose(path: Path, sets: list[str], shown: str | None = None) -> Composed:
    """The tree that `path` means after `extends`, `--set` and `vars`, as far as files can be read. Raises `RecipeError` where they cannot."""
    loading = _Loading(path.resolve().parent, bounds.followed(bounds.repository(path)))
    try:
        node = loading.load(path, [], shown or str(path))
    except RecipeError as e:
        raise RecipeError([*loading.problems, *e.problems]) from None
    if loading.broken:
        raise RecipeError(loading.problems)
    for text in sets:
        try:
            node = _apply_set(node, text)
        except RecipeError as e:
            loading.problems += e.problems
    node, missing = _substitute(node, node.get("template") is not None)
    loading.problems += missing
    return Composed(loading.rebased(node), loading.problems)


class _Loading:
    """Reads a recipe and what it extends, and remembers where each file lies."""

    def __init__(self, root: Path, allowed: tuple[str, ...]) -> None:
        self.root = root
        self.allowed = allowed
        self.problems = Problems()
        self.broken = False
        """Whether a file that is extended could not be read: what it brings is not known."""
        self.folders: dict[str, Path] = {}
        """A file's name in messages -> the file."""
        self._read: dict[tuple[Path, str], Node] = {}

    def load(self, path: Path, chain: list[Path], shown: str) -> Node:
        node = self._file(path, shown)
        if not isinstance(node.value, dict):
            raise RecipeError(node.problem("QR012", "a recipe is a mapping of fields"))
        extends, remove = node.get("extends"), node.get("remove")
        own = node.without("extends", "remove")
        merged: Node | None = None
        if extends is not None:
            parents = extends.elements() if isinstance(extends.value, list) else [extends]
            if not parents:
                self._wrong("QR012", "`extends` names a file or a list of files", extends)
            for parent in parents:
                loaded = self._parent(parent, path, chain, shown)
                if loaded is not None:
                    merged = loaded if merged is None else _merge(merged, loaded)
        if remove is not None:
            merged = self._removed(merged, remove)
        return own if merged is None else replace(_merge(merged, own), place=node.place)

    def _file(self, path: Path, shown: str) -> Node:
        key = (path.resolve(), shown)
        if key not in self._read:
            if len(self._read) >= MAX_FILES:
                raise RecipeError(Problem("QR014", f"the recipe is made of more than {MAX_FILES} files", Place(shown)))
            self.folders[shown] = path.resolve()
            self._read[key] = read_file(path, shown, self.problems)
        return self._read[key]

    def _wrong(self, code: str, message: str, node: Node, help_: str | None = None) -> None:
        self.problems.append(node.problem(code, message, help_))
        self.broken = True

    def _parent(self, parent: Node, child: Path, chain: list[Path], child_shown: str) -> Node | None:
        """A file that is extended, or None if it cannot be used, with a problem."""
        named = parent.value
        if not isinstance(named, str) or not named:
            self._wrong("QR012", "`extends` names a file or a list of files", parent)
            return None
        if "://" in named or os.path.isabs(named):
            self._wrong("QR014", f"`extends` names local files by a relative path: {named}", parent, "copy the file into the repository")
            return None
        steps = [*chain, child.resolve()]
        try:
            target = (child.resolve().parent / named).resolve()
        except (OSError, ValueError, RuntimeError):  # a NUL, a name that is too long, a circle of links
            self._wrong("QR014", f"`extends` names a missing file: {named}", parent)
            return None
        trail = " -> ".join(p.name for p in [*steps, target])
        if target in steps:
            self._wrong("QR014", f"`extends` goes in a circle: {trail}", parent)
        elif len(steps) >= MAX_CHAIN:
            self._wrong("QR014", f"`extends` is deeper than {MAX_CHAIN} files: {trail}", parent)
        elif not bounds.within(target, self.allowed):
            help_ = "copy the file into the repository, or allow its folder with `--allow` or QRECIPE_ALLOW"
            self._wrong("QR014", f"`extends` leads out of the recipe's repository: {named}", parent, help_)
        elif not is_file(target):
            close = _sibling(target)
            spelled = os.path.join(os.path.dirname(named), close) if close else None
            self._wrong("QR014", f"`extends` names a missing file: {named}", parent, f"did you mean `{spelled}`?" if spelled else None)
        else:
            try:
                return self.load(target, steps, _shown(target, child, child_shown)).without("template")
            except RecipeError as e:
                self.problems += e.problems
                self.broken = True
        return None

    def _removed(self, node: Node | None, remove: Node) -> Node | None:
        """The tree that is extended, less the parts that `remove` names."""
        for entry in remove.elements() if isinstance(remove.value, list) else [remove]:
            if not isinstance(entry.value, str) or not entry.value:
                message = "`remove` is a list of paths such as `stages.talker` or `datasets.replay`"
                self.problems.append(entry.problem("QR012", message))
            elif node is None:
                if not self.broken:
                    message = "`remove` takes away from what `extends` brings, and this file extends nothing"
                    self.problems.append(remove.key_problem("QR018", message))
                    return None
            else:
                node = self._less(node, entry, entry.value.split("."))
        return node

    def _less(self, node: Node, entry: Node, keys: list[str]) -> Node:
        at, path = node, list[int | str]()
        for i, key in enumerate(keys):
            names = _names(at)
            if key not in names:
                message = f"`remove` names `{entry.value}`, and what is extended has no `{key}`"
                close = nearest(key, names)
                whole = ".".join([*keys[:i], close or "", *keys[i + 1 :]])  # a help is written in place of the whole path
                self.problems.append(entry.problem("QR018", message, f"did you mean `{whole}`?" if close else suggest(key, names)))
                return node
            path.append(names.index(key) if isinstance(at.value, list) else key)
            at = at.at(path[-1])
        return without(node, tuple(path))

    def rebased(self, node: Node) -> Node:
        """Paths rewritten from the folder of the file that states them to the recipe's folder."""
        for path in PATH_FIELDS:
            node = self._rebased(node, path)
        is_folder = str(node.at("base", "model").value).startswith(".")
        return self._rebased(node, ("base", "model")) if is_folder else node

    def _rebased(self, node: Node, path: tuple[str, ...]) -> Node:
        if path:
            return node.mapped(lambda k, child: self._rebased(child, path[1:]) if path[0] in ("*", k) else child)
        file = self.folders.get(node.place.file)
        if not isinstance(node.value, str) or os.path.isabs(node.value) or file is None or file.parent == self.root:
            return node
        return replace(node, value=os.path.relpath(file.parent / node.value, self.root))


def _sibling(path: Path) -> str | None:
    """The recipe of the same folder that was most likely meant."""
    try:
        return nearest(path.name, (p.name for p in path.parent.glob("*.y*ml")))
    except (OSError, ValueError):
        return None


def _shown(target: Path, child: Path, child_shown: str) -> str:
    """How messages name a template: relative to the same folder as the file that extends it."""
    return os.path.normpath(os.path.join(os.path.dirname(child_shown), os.path.relpath(target, child.resolve().parent)))


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
    shared = {_id(s) for s in old} - {None}
    merged: set[Scalar] = set()
    for i, stage in enumerate(new):
        id_ = _id(stage)
        at = _position(stages, stage) if id_ in shared and id_ not in merged else None
        if at is not None:  # a second one of the same file stays a second one, which is a mistake
            stages[at] = _merge(stages[at], stage)
        else:
            following = (_position(stages, later) for later in new[i + 1 :] if _id(later) in shared and _id(later) not in merged)
            stages.insert(next((p for p in following if p is not None), len(stages)), stage)
        merged.add(id_)
    return stages


def _position(stages: list[Node], stage: Node) -> int | None:
    return next((i for i, s in enumerate(stages) if _id(s) is not None and _id(s) == _id(stage)), None)


def _id(stage: Node) -> Scalar:
    id_ = stage.get("id")
    return id_.value if id_ is not None and not isinstance(id_.value, (dict, list)) else None


def _names(node: Node) -> list[str]:
    """How a path names the children of a node: keys, ids of stages, numbers of other elements."""
    if isinstance(node.value, list):
        return [str(_id(n)) if _id(n) is not None else str(i) for i, n in enumerate(node.value)]
    return [k for k, _ in node.items()]


def _apply_set(node: Node, text: str) -> Node:
    """`stages.text.epochs=3`: keys separated by dots, stages by id; the value is YAML."""
    whole = Place(f"--set {text}", 1, 1, max(1, len(text)))
    path, equals, value = text.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise RecipeError(Problem("QR015", f"`{text}` is not of the form path=value", whole, "for example --set stages.text.epochs=3"))
    start = len(path) + 1
    try:
        new = read_text(value, whole.file) if value.strip() else Node(None, whole)
    except RecipeError as e:
        raise RecipeError([_of_set(text, p, start) for p in e.problems]) from None
    return _set(node, keys, 0, _shifted(new, start), whole)


def _of_set(text: str, p: Problem, start: int) -> Problem:
    column = start + p.place.column if p.place.line == 1 else start + 1
    message = f"the value of `{text}` cannot be read: {p.message.removeprefix('not YAML: ')}"
    return Problem("QR015", message, Place(p.place.file, 1, column), p.help)


def _shifted(node: Node, by: int) -> Node:
    """A value of `--set` with the places that it has in the argument."""

    def moved(place: Place | None) -> Place | None:
        return replace(place, column=place.column + by) if place is not None and place.line == 1 else place

    place = node.place if node.value is None and by else moved(node.place)
    assert place is not None
    return replace(node.mapped(lambda _, child: _shifted(child, by)), place=place, key_place=moved(node.key_place))


def _set(node: Node, keys: list[str], at: int, new: Node, whole: Place) -> Node:
    if at == len(keys):
        return new
    key = keys[at]
    here = replace(whole, column=1 + len(".".join(keys[:at])) + (at > 0), length=len(key))
    text = whole.file.removeprefix("--set ")

    def wrong(message: str, help_: str | None = None) -> RecipeError:
        return RecipeError(Problem("QR015", f"`{text}`: {message}", here, help_))

    if isinstance(node.value, list):
        ids = _names(node)
        numbers = [str(i) for i in range(len(ids))]
        index = ids.index(key) if key in ids else numbers.index(key) if key in numbers else None
        if index is None:
            raise wrong(f"there is no `{key}`", suggest(key, ids))
        return node.mapped(lambda i, child: _set(child, keys, at + 1, new, whole) if i == index else child)
    if isinstance(node.value, dict) or node.value is None:
        fields = dict(node.value) if isinstance(node.value, dict) else {}
        child = fields.get(key)
        if child is None:
            child = Node({} if at + 1 < len(keys) else None, here, here)
        fields[key] = replace(_set(child, keys, at + 1, new, whole), key_place=child.key_place or here)
        return replace(node, value=fields)
    raise wrong(f"`{key}` is asked of a value that has no fields")


class _Variables:
    """The values of `vars`, and which of them are open."""

    def __init__(self, node: Node, template: bool) -> None:
        self.problems = Problems()
        self.table: dict[str, Scalar] = {}
        self.nodes: dict[str, Node] = {}
        self.open: set[str] = set()
        vars_ = node.get("vars")
        for name, value in vars_.items() if vars_ is not None else ():
            self.nodes[name] = value
            if value.value is None and template:
                self.table[name] = f"${{{name}}}"
            elif value.value is None:
                self.open.add(name)
            elif isinstance(value.value, (dict, list)):
                message = f"variable `{name}` must be a string, a number or a truth value"
                self.problems.append(Problem("QR012", message, value.place.start))
                self.open.add(name)
            else:
                self.table[name] = value.value

    def missing(self, name: str, node: Node) -> Problem | None:
        """Why a value cannot use a variable."""
        if name in self.table or (name in self.open and self.nodes[name].value is not None):
            return None
        if name in self.open:
            help_ = f"the template leaves it open: write `vars: {{{name}: …}}`"
            return node.problem("QR013", f"variable `${name}` has no value", help_)
        help_ = suggest(name, self.table) + " (define it under `vars`)"
        return node.problem("QR013", f"variable `${name}` is not defined", help_)

    def put_into(self, node: Node) -> Node:
        """A string with its variables replaced; one variable alone keeps the variable's type."""
        assert isinstance(node.value, str)
        template = Template(node.value)
        if not template.is_valid():
            message = f"`{node.value}` holds a `$` that starts no variable"
            self.problems.append(node.problem("QR013", message, "write `$$` for a dollar"))
            return node
        names = template.get_identifiers()
        self.problems += [p for p in (self.missing(name, node) for name in names) if p is not None]
        if any(name not in self.table for name in names):
            return node
        variables = tuple((name, self.nodes[name].place) for name in names)
        if len(names) == 1 and node.value in (f"${names[0]}", f"${{{names[0]}}}"):
            return replace(node, value=self.table[names[0]], spelling=self.nodes[names[0]].spelling, variables=variables)
        return replace(node, value=template.substitute({k: _spelled(v) for k, v in self.table.items()}), variables=variables)


def _substitute(node: Node, template: bool) -> tuple[Node, Problems]:
    """Replaces `$name` in every value but those under `vars`. A value that is one variable keeps the variable's type.

    A variable that is `null` must be given by whoever extends the template; a template may leave it open.
    """
    variables = _Variables(node, template)

    def walk(n: Node) -> Node:
        if isinstance(n.value, str):
            return variables.put_into(n) if "$" in n.value else n
        return n.mapped(lambda k, child: child if n is node and k == "vars" else walk(child))

    result = walk(node)
    vars_ = node.get("vars")
    if vars_ is not None and isinstance(vars_.value, dict) and not template:
        assert isinstance(result.value, dict)
        defined = {k: v for k, v in vars_.items() if k not in variables.open}
        result = replace(result, value={**result.value, "vars": replace(vars_, value=defined)})
    return result, variables.problems


def _spelled(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
