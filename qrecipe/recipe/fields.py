"""Which fields a recipe has at a place, what they mean, and which one a misspelled word stands for."""

from __future__ import annotations

import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from qrecipe.errors import nearest
from qrecipe.recipe.docs import field_docs
from qrecipe.recipe.recipe import Recipe
from qrecipe.source.nodes import Loc

MEANT = {
    "learning_rate": "lr",
    "rate": "lr",
    "modules": "match",
    "parameters": "match",
    "threshold": "max",
    "file": "path",
    "dataset": "data",
}
"""Words of other programs for fields of this one."""


def meant_field(loc: Loc) -> str | None:
    """The field that an unknown one most likely stands for."""
    name = str(loc[-1])
    return nearest(MEANT.get(name, name), fields_at(loc[:-1]))


def fields_at(loc: Loc) -> set[str]:
    """The fields that are known at a location of the recipe."""
    return {info.alias or name for model in _models_at(loc) for name, info in model.model_fields.items()}


def meaning_of(loc: Loc) -> str | None:
    """The meaning of a field: the first sentence of its docstring."""
    for model in _models_at(loc[:-1]):
        for name, info in model.model_fields.items():
            if loc[-1] in (info.alias or name, name):
                first, more, _ = field_docs(model)[name].partition(". ")
                return first + more.rstrip()
    return None


def _models_at(loc: Loc) -> list[type[BaseModel]]:
    """Every settings model that may be at a location of the recipe."""
    annotations: list[Any] = [Recipe]
    for key in loc:
        annotations = [inner for a in annotations for variant in _variants(a) for inner in _inside(variant, key)]
    return [v for a in annotations for v in _variants(a) if isinstance(v, type) and issubclass(v, BaseModel)]


def _variants(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without unions and metadata around them."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _variants(args[0])
    return [v for a in args for v in _variants(a)] if origin in (Union, types.UnionType) else [annotation]


def _inside(variant: Any, key: int | str) -> list[Any]:
    """Annotations of the values under `key`."""
    origin, args = get_origin(variant), get_args(variant)
    if origin is list and isinstance(key, int):
        return [args[0]]
    if origin is dict:
        return [args[1]]
    if isinstance(variant, type) and issubclass(variant, BaseModel):
        for name, info in variant.model_fields.items():
            if key in (info.alias or name, name):
                return [info.annotation]
        if key in _tags(variant):
            return [variant]
    return []


def _tags(model: type[BaseModel]) -> set[str]:
    tags = {model.__name__}
    for discriminator in ("objective", "kind"):
        if discriminator in model.model_fields:
            tags.update(str(a) for a in get_args(model.model_fields[discriminator].annotation))
    return tags
