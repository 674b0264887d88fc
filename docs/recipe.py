"""Writes docs/recipe.md: docs/recipe.head.md, then tables of every field of a recipe, from the settings models.

    python docs/recipe.py

A field's docstring is its documentation here, in the JSON Schema and in editors. Never imports torch.
"""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from qrecipe.files import write_text
from qrecipe.recipe.base import Base
from qrecipe.recipe.dataset import Filter, SpeechDataset, TextDataset
from qrecipe.recipe.docs import describe_fields
from qrecipe.recipe.evaluator import Asr, Evaluators, Mos, Speaker
from qrecipe.recipe.gate import Bound, Gate, Select
from qrecipe.recipe.language import Init, Language, Respelling
from qrecipe.recipe.metrics import BUILTIN
from qrecipe.recipe.recipe import Checkpoints, Evaluation, Recipe
from qrecipe.recipe.rewards import TRANSFORMS
from qrecipe.recipe.search import Search
from qrecipe.recipe.stage import Batch, EmbeddingMatchStage, Lora, RespellStage, Reward, RewardStage, SpeechStage, TextLmStage, Train, Use
from qrecipe.recipe.teacher import Teacher

DOCS = Path(__file__).resolve().parent
WARNING = "<!-- Written by docs/recipe.py from docs/recipe.head.md and the models in qrecipe/recipe; `make docs` writes it again. -->"
Model = type[BaseModel]
TITLES: dict[Model, str] = {
    Recipe: "Fields of a recipe",
    Base: "base",
    Language: "languages",
    Init: "init",
    Respelling: "respelling",
    TextDataset: "datasets",
    SpeechDataset: "datasets",
    Filter: "filter",
    SpeechStage: "stages",
    TextLmStage: "stages",
    RespellStage: "stages",
    EmbeddingMatchStage: "stages",
    RewardStage: "stages",
    Reward: "reward",
    Search: "search",
    Use: "data",
    Train: "train",
    Lora: "lora",
    Batch: "batch",
    Gate: "gates and accept",
    Select: "select",
    Bound: "bounds of select",
    Teacher: "teacher",
    Evaluation: "evaluation",
    Evaluators: "evaluators",
    Asr: "asr",
    Speaker: "speaker",
    Mos: "mos",
    Checkpoints: "checkpoints",
}
"""Heading of the section that documents a model; several models may share one."""
SCALARS = {Any: "part of a recipe", str: "text", int: "whole number", float: "number", bool: "true or false"}


def page() -> str:
    """The whole of docs/recipe.md."""
    describe_fields()
    parts = [
        WARNING,
        (DOCS / "recipe.head.md").read_text(encoding="utf-8").strip(),
        *_sections(Recipe, Base, Language, Init, Respelling),
        _variants([TextDataset, SpeechDataset], "kind", "Manifests by name. Fields of both kinds:"),
        *_sections(Filter),
        _variants(
            [SpeechStage, TextLmStage, RespellStage, EmbeddingMatchStage, RewardStage],
            "objective",
            "What trains, on what, towards which objective. Fields of all objectives:",
        ),
        *_sections(Reward, Use, Train, Lora, Batch, Gate),
        _metrics(),
        *_sections(Select, Bound, Teacher, Evaluation, Evaluators, Asr, Speaker, Mos, Search, Checkpoints),
    ]
    return "\n\n".join(parts) + "\n"


def _sections(*models: Model) -> list[str]:
    return [f"## {TITLES[m]}\n\n{_doc(m)}\n\n{_table(_fields(m))}" for m in models]


def _variants(models: list[Model], tag: str, intro: str) -> str:
    """One section for models that a tag tells apart: what all have first, then what each adds."""
    shared = {n: i for n, i in _fields(models[0]).items() if n != tag and all(n in _fields(m) for m in models)}
    parts = [f"## {TITLES[models[0]]}", intro, _table(shared)]
    for model in models:
        own = {n: i for n, i in _fields(model).items() if n not in shared}
        (value,) = get_args(own[tag].annotation)
        parts += [f"### {tag}: {value}", _doc(model), _table(own)]
    return "\n\n".join(parts)


def _metrics() -> str:
    lines = [
        "## Metrics",
        "",
        "For `metric` of a gate, of `select` and of a reward. Packages can add more through the entry-point group `qrecipe.metrics`.",
        "",
    ]
    lines += ["| metric | what it is | unit | better | read from | as a reward, between 0 and 1 |", "|---|---|---|---|---|---|"]
    sources = {"teacher_forced": "recordings", "generated": "generated speech", "ballots": "ballots of listeners"}
    better = {"one": "close to 1", "match": "close to the recordings'"}
    for m in BUILTIN.values():
        reward = TRANSFORMS[m.reward].description + ("; recordings alone" if m.compares else "") if m.reward else "-"
        lines.append(f"| `{m.name}` | {m.description} | {m.unit} | {better.get(m.better, m.better)} | {sources[m.source]} | {reward} |")
    return "\n".join(lines)


def _fields(model: Model) -> dict[str, FieldInfo]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _doc(model: Model) -> str:
    return " ".join((model.__doc__ or "").split())


def _table(fields: dict[str, FieldInfo]) -> str:
    lines = ["| field | type | default | what it means |", "|---|---|---|---|"]
    for name, info in fields.items():
        assert info.description, f"{name} has no docstring"
        meaning = " ".join(info.description.split()).replace("|", "\\|")
        lines.append(f"| `{name}` | {_type(info.annotation, info.metadata)} | {_default(info)} | {meaning} |")
    return "\n".join(lines)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    if info.default is None:
        return "none"
    if isinstance(info.default, BaseModel):
        return "its defaults"
    return f"`{json.dumps(info.default)}`"


def _type(annotation: Any, metadata: list[Any]) -> str:
    """A type in words, with its limits."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [m for a in args[1:] for m in (a.metadata if isinstance(a, FieldInfo) else [a])]
        return _type(args[0], [*limits, *metadata])
    if origin in (Union, types.UnionType):
        found = dict.fromkeys(_type(a, []) for a in args if a is not type(None))
        return " or ".join(found) + _limits(metadata)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(a) if not isinstance(a, str) else a}`" for a in args)
    if origin is list:
        return f"list of {_type(args[0], [])}"
    if origin is dict:
        return f"map from name to {_type(args[1], [])}"
    if annotation in TITLES:
        title = TITLES[annotation]
        return f"[{title}](#{title.replace(' ', '-')})"
    return SCALARS[annotation] + _limits(metadata)


def _limits(metadata: list[Any]) -> str:
    """Bounds of a number and the pattern of a text; that a text may not be empty goes without saying."""
    signs = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    found = [f"{word} {getattr(m, key)}" for m in metadata for key, word in signs.items() if hasattr(m, key)]
    found += [f"`{m.pattern}`".replace("|", "\\|") for m in metadata if getattr(m, "pattern", None)]
    return " (" + ", ".join(found) + ")" if found else ""


if __name__ == "__main__":
    write_text(DOCS / "recipe.md", page())
    print(f"wrote {DOCS / 'recipe.md'}")
