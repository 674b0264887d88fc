"""Docstrings of settings' fields, read from the source when they are asked for.

Pydantic can read them whenever a class is made (`use_attribute_docstrings`), which would cost every start a tenth of a
second for texts that only schemas, the reference and a few messages show.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache

from pydantic import BaseModel

from qrecipe.recipe.model import Settings


@cache
def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """Field name -> docstring, those of base classes included."""
    docs: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls in (BaseModel, Settings):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(node, ast.ClassDef)
        for field, doc in zip(node.body, node.body[1:], strict=False):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant) and isinstance(doc.value.value, str):
                docs[field.target.id] = inspect.cleandoc(doc.value.value)
    return docs


def settings_models(root: type[BaseModel] = Settings) -> list[type[BaseModel]]:
    """Every settings model that is imported."""
    return [model for child in root.__subclasses__() for model in (child, *settings_models(child))]


def describe_fields() -> None:
    """Gives every settings model its fields' docstrings as descriptions, for JSON Schemas and the reference."""
    models = settings_models()
    for model in models:
        docs = field_docs(model)
        for name, info in model.model_fields.items():
            info.description = docs.get(name)
    for model in models:
        model.model_rebuild(force=True)
