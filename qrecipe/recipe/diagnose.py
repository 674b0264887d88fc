"""From a tree to a recipe, as far as the tree has the right form: pydantic's errors become problems with their place and the
nearest right spelling, and the parts that they name are fixed or left out, so that one mistake does not hide the others.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from qrecipe.errors import MAX_PROBLEMS, Place, Problem, Problems, nearest, suggest
from qrecipe.recipe.dataset import HUB_ID, SpeechDataset, TextDataset
from qrecipe.recipe.fields import MEANT, fields_at, meaning_of, meant_field
from qrecipe.recipe.language import BCP47
from qrecipe.recipe.model import IDENTIFIER
from qrecipe.recipe.objectives import OBJECTIVES
from qrecipe.recipe.recipe import NAME, VERSION, Recipe
from qrecipe.source.nodes import Loc, along, changed, with_field, without
from qrecipe.source.reader import Node, Scalar, core_scalar

PLACEHOLDERS: dict[str, Scalar] = {"qrecipe": 1, "name": "unnamed", "version": "0.0.0", "bcp47": "und", "lr": 1e-5}
"""Values that stand in for missing ones while the rest of a recipe is checked."""
MAX_ROUNDS = 12
MAX_TRIED = 20
"""Problems of a recipe up to which remedies are looked for, each of which is tried before it is advised."""

_LETTERS = str.maketrans(dict(zip("ıøłđðɓɗƙƴŋħɛɔə", "ioldd" + "bdkynheoe", strict=True)) | {"þ": "th", "æ": "ae", "œ": "oe"})
"""Letters that are no letter of ASCII with a mark."""
_TAGS = {"kind": ("text", "speech"), "objective": tuple(sorted(OBJECTIVES))}
_FORMS = {
    IDENTIFIER: "is not a name: lower-case letters, digits, `_`, `-`, a letter first",
    NAME: "is not a name: lower-case letters, digits, `.`, `_`, `-`, a letter first",
    VERSION: "is not a version such as `0.1.0`",
    BCP47: "is not a BCP 47 tag such as `ms`",
    HUB_ID: "is not a hub id, which has the form OWNER/NAME",
}
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
_MESSAGES = {"too_short": "is empty", "string_too_short": "is empty", "finite_number": "should be a finite number"}
MAX_NAMES = 12
"""Names that a message lists."""
_SPEECH_ALONE = tuple(SpeechDataset.model_fields.keys() - TextDataset.model_fields.keys())
"""Fields that only datasets of recordings have."""
_WRONG_KIND = {"string_type", "list_type", "dict_type", "model_type", "int_type", "float_type", "bool_type", "literal_error"}
_VARIANTS = {"str", "int", "float", "bool", "constrained-str", "constrained-int", "constrained-float", "Use", "speech", "text", *OBJECTIVES}


@dataclass(frozen=True)
class Diagnosis:
    """The recipe that the sound parts of a tree make, if any, and the problems of the others."""

    recipe: Recipe | None
    node: Node
    """The tree without its faulty parts."""
    problems: Problems


def diagnose(node: Node) -> Diagnosis:
    """Builds a recipe from the parts of a tree that have the right form."""
    problems = Problems()
    for attempt in range(MAX_ROUNDS):
        try:
            return Diagnosis(Recipe.model_validate(node.plain()), node, problems)
        except ValidationError as e:
            if e.error_count() > MAX_PROBLEMS:
                message = f"{e.error_count() - MAX_PROBLEMS:,} more problems of form"
                more = Problem("QR012", message, Place(node.place.file))
                return Diagnosis(None, node, Problems([*problems_of(e, node), more]))
            later, known = problems_of(e, node), problems.places
            # a fix may leave other fields missing, or lists empty, which nobody wrote
            problems += [p for p in later if attempt == 0 or (p.code != "QR011" and p.place.line and not _echoes(p, known))]
            fixed = _fixed(node, e)
            if fixed is None:
                break
            node = fixed
    return Diagnosis(None, node, problems.in_order())


def _echoes(problem: Problem, known: set[Place]) -> bool:
    """Whether a problem only says what became of a part that another one is about."""
    return problem.place in known or problem.message.endswith(_MESSAGES["too_short"])


def problems_of(error: ValidationError, node: Node) -> Problems:
    """Every problem that pydantic reports of the values of a tree, in the order of the file."""
    errors = _one_variant(error.errors(include_url=False, include_context=True)[:MAX_PROBLEMS], node)
    misspelled = {(*e["loc"][:-1], meant_field(e["loc"])) for e in errors if e["type"] == "extra_forbidden"}
    problems = {}
    for e in errors:
        if e["type"] != "missing" or e["loc"] not in misspelled:
            problem = _problem(e, node)
            if problem.help is None and len(errors) <= MAX_TRIED:
                problem = replace(problem, help=_remedy(e["loc"], node) or (meaning_of(e["loc"]) if e["type"] in _KINDS else None))
            problems[(problem.place, problem.message)] = problem
    return Problems(problems.values()).in_order()


def _problem(error: Any, node: Node) -> Problem:
    loc, kind, context = error["loc"], error["type"], error.get("ctx", {})
    target, rest = _walk(node, loc)
    name = str(loc[-1]) if loc else "recipe"

    # fields that should not be there, or should be
    if kind == "extra_forbidden":
        return target.key_problem("QR010", f"unknown field `{name}`", suggest(MEANT.get(name, name), fields_at(loc[:-1])))
    if kind == "missing":
        return target.key_problem("QR011", f"`{name}` is missing", _sibling(loc[:-1], node) or meaning_of(loc))

    # `kind` and `objective`, which choose the model that the other fields are of
    tag = str(context.get("discriminator", "")).strip("'")
    if kind == "union_tag_not_found":
        choices = " or ".join(f"`{tag}: {t}`" for t in _TAGS[tag])
        return target.key_problem("QR011", f"`{tag}` is missing", _sibling(loc, node) or choices)
    if kind == "union_tag_invalid":
        tags = [t.strip(" '") for t in str(context.get("expected_tags", "")).split(",")]
        stated = str(context.get("tag"))
        return (target.get(tag) or target).problem("QR012", f"`{stated}` is no {tag}", suggest(stated, tags))

    # keys that people choose, and two fields of which one is needed
    if kind == "string_pattern_mismatch" and rest == ("[key]",):
        return target.key_problem("QR012", f"`{loc[-2]}` {_FORMS[IDENTIFIER]}")
    message, help_ = _value_message(error, target)
    if kind == "one_of":
        second = target.get(context.get("at", ""))
        if second is None:
            return target.problem("QR011", f"{_label(loc, node)}: {message}")
        return second.key_problem("QR012", f"{_label(loc, node)}: {message}")
    return target.problem("QR012", f"{_label(loc, node)}: {message}", help_)


def _value_message(error: Any, target: Node) -> tuple[str, str | None]:
    """The message of a wrong value, and what would help."""
    kind, value = error["type"], target.plain()
    if kind == "literal_error":
        message = f"should be {error.get('expected') or _expected(error)}"
        names = re.findall("`([^`]+)`", message)
        if len(names) > MAX_NAMES:
            message = f"should be one of {len(names)} names, which `qrecipe schema recipe` lists"
        longer = [f"`{n}`" for n in names if n.startswith(f"{value}-".lower())][:MAX_NAMES]
        close = nearest(str(value), names)
        return message, f"did you mean {', '.join(longer)}?" if longer else f"did you mean `{close}`?" if close else None
    if kind in _KINDS:
        return f"should be {error.get('expected') or _KINDS[kind]}", None
    if kind == "too_long":
        return f"has more than {error['ctx']['max_length']} entries", None
    if kind == "string_pattern_mismatch":
        pattern = error["ctx"]["pattern"]
        return f"`{value}` {_FORMS.get(pattern, f'does not have the form {pattern}')}", None
    message = str(error["msg"]).removeprefix("Input ")
    return _MESSAGES.get(kind) or message[:1].lower() + message[1:], None


def _remedy(loc: Loc, node: Node) -> str | None:
    """The remedy of a value that is nearly right; it was tried, and is right."""
    path = path_of(loc, node)
    target = along(node, path)
    if target is None or isinstance(target.value, (dict, list)):
        return None
    if target.spelling is not None and not isinstance(target.value, str) and _fits(target.spelling, path, node):
        return f'quote it: "{target.spelling}"'
    spelling = target.spelling if target.spelling is not None else str(target.value)
    for written in filter(None, _nearly(spelling)):
        if _fits(core_scalar(written), path, node):
            return f"write `{written}`"
    return None


def _nearly(spelling: str) -> Iterator[str]:
    """Values that a spelling may mean, the likelier first: numbers with another comma, versions of fewer parts, names with capitals."""
    number = spelling.strip().strip("\"'")
    yield number
    if re.fullmatch(r"\d{1,3}(?:[ ,_.']\d{3})+", number):
        yield re.sub(r"\D", "", number)
    yield number.replace(",", ".")
    if re.fullmatch(r"\d+(?:\.\d+)?", number):
        yield number + ".0" * (2 - number.count("."))
    yield {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(number.lower(), number)
    plain = ascii_name(number)
    head, *tail = re.split("[-_]", number)
    yield "-".join([head.lower(), *tail])
    yield plain.replace("_", "-")
    yield plain.replace(".", "-").replace("_", "-")


def ascii_name(text: str) -> str:
    """A name in the letters that names here have: without marks and capitals, `_` for what is neither letter nor digit.

    Empty where other letters are left: a part of a name is none.
    """
    letters = text.casefold().translate(_LETTERS)
    plain = "".join(c for c in unicodedata.normalize("NFKD", letters) if not unicodedata.combining(c))
    if any(c.isalpha() and not c.isascii() for c in plain):
        return ""
    return re.sub(r"[^a-z0-9._-]+", "_", plain).strip("._-0123456789")


def _fits(value: Scalar, path: Loc, node: Node) -> bool:
    """Whether a value at a path has no mistake of form."""
    tried = changed(node, path, lambda n: replace(n, value=value))
    try:
        Recipe.model_validate(tried.plain())
    except ValidationError as e:
        return all(path_of(x["loc"], tried)[: len(path)] != path for x in e.errors(include_url=False, include_context=False))
    return True


def _one_variant(errors: list[Any], node: Node) -> list[Any]:
    """pydantic reports every variant of a union (a name or a mapping, a number or `auto`); people mean one of them.

    Where some variant has the right type, errors of the others are dropped; where none has, one error stays for all,
    with what each of them expects.
    """
    groups: dict[Loc, list[Any]] = {}
    for e in errors:
        groups.setdefault(path_of(e["loc"], node), []).append(e)
    chosen = []
    for path, group in groups.items():
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in groups)
        wrong = [e for e in group if e["type"] in _WRONG_KIND]
        right = [e for e in group if e["type"] not in _WRONG_KIND]
        if len(group) == 1 and not deeper:
            chosen += group
        elif right or deeper:
            chosen += right
        else:
            chosen.append({**wrong[0], "expected": " or ".join(dict.fromkeys(_expected(e) for e in wrong))})
    return chosen


def _expected(error: Any) -> str:
    if error["type"] == "literal_error":
        return str(error["ctx"]["expected"]).replace("'", "`")
    return _KINDS[error["type"]]


def path_of(loc: Loc, node: Node) -> Loc:
    """The keys and indices of a pydantic location, without the names of union variants."""
    path: list[int | str] = []
    for i, key in enumerate(loc):
        child = node.get(key)
        if child is not None:
            node = child
            path.append(key)
        elif i + 1 == len(loc) and not (isinstance(key, str) and (key in _VARIANTS or "[" in key)):
            path.append(key)
    return tuple(path)


def _label(loc: Loc, node: Node) -> str:
    """A path as `--set` spells it: stages by their id."""
    words = []
    for key in path_of(loc, node):
        child = node.get(key)
        id_ = child.get("id") if child is not None and isinstance(key, int) else None
        words.append(str(id_.value) if id_ is not None else str(key))
        node = child or node
    return ".".join(words) or "recipe"


def _walk(node: Node, loc: Loc) -> tuple[Node, Loc]:
    """The deepest node along a pydantic location, and the part that names no node (missing or unknown fields, tags)."""
    for i, key in enumerate(loc):
        child = node.get(key)
        if child is not None:
            node = child
        elif i + 1 == len(loc):
            return node, loc[i:]
    return node, ()


def _sibling(loc: Loc, node: Node) -> str | None:
    """For an entry that lacks what a template's entry of nearly the same name has: that name."""
    path = path_of(loc, node)
    if len(path) != 2 or path[0] not in ("stages", "datasets", "languages"):
        return None
    section = along(node, path[:1])
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


def _fixed(node: Node, error: ValidationError) -> Node | None:
    """The tree without what an error names: misspelled fields renamed, missing ones filled in, the rest left out."""
    errors = error.errors(include_url=False, include_context=True)
    for e in errors:
        if e["type"] == "extra_forbidden":
            node = _renamed(node, path_of(e["loc"], node), meant_field(e["loc"]))
    faulty: set[Loc] = set()
    for e in errors:
        if e["type"] != "extra_forbidden":
            node, path = _filled(node, e)
            faulty |= {path} if path is not None else set()
    if () in faulty:
        return None
    # from the last to the first, so that indices stay right
    for path in sorted(faulty, key=lambda p: [(isinstance(k, int), k if isinstance(k, int) else 0, str(k)) for k in p], reverse=True):
        node = without(node, path)
    return node


def _filled(node: Node, error: Any) -> tuple[Node, Loc | None]:
    """The tree with a stand-in for what an error misses; or as it is, with the path of what has to be left out."""
    kind, context, path = error["type"], error.get("ctx", {}), path_of(error["loc"], node)
    if kind == "missing":
        name, parent = str(error["loc"][-1]), along(node, path[:-1])
        if parent is None or parent.get(name) is not None:
            return node, None  # a misspelled field was meant
        if name not in PLACEHOLDERS:
            return node, path[:-1]
        return with_field(node, path[:-1], name, PLACEHOLDERS[name]), None
    if kind == "union_tag_not_found":
        tag, entry = context["discriminator"].strip("'"), along(node, path)
        if tag == "kind" and not (entry and any(entry.get(name) for name in _SPEECH_ALONE)):
            return node, path  # it may be of either kind, and each would find the other's rows wrong
        return with_field(node, path, tag, "speech"), None
    if kind == "union_tag_invalid":
        tag = context["discriminator"].strip("'")
        close = nearest(str(context["tag"]), _TAGS[tag])
        return (node, path) if close is None else (changed(node, (*path, tag), lambda n: replace(n, value=close)), None)
    if kind == "one_of" and "at" in context:
        return node, (*path, context["at"])
    if kind == "one_of" and path[:1] == ("stages",):
        return with_field(node, path, "epochs", 1.0), None
    return node, path


def _renamed(node: Node, path: Loc, meant: str | None) -> Node:
    parent = along(node, path[:-1])
    if meant is None or parent is None or parent.get(meant) is not None:
        return without(node, path)
    name = meant

    def rename(n: Node) -> Node:
        assert isinstance(n.value, dict)
        return replace(n, value={name if k == path[-1] else k: v for k, v in n.value.items()})

    return changed(node, path[:-1], rename)
