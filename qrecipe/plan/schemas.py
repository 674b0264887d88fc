"""JSON Schemas, generated from the models: what `schemas/` holds and what editors read."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from qrecipe.inputs.documents.check import DOCUMENTS
from qrecipe.recipe.docs import describe_fields
from qrecipe.recipe.recipe import Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@cache
def schemas() -> dict[str, dict[str, Any]]:
    """Every schema by name: `recipe` and the documents. To be read only."""
    describe_fields()
    return {"recipe": recipe_schema(), **{n: {"$schema": DIALECT, **m.model_json_schema()} for n, m in DOCUMENTS.items()}}


def recipe_schema() -> dict[str, Any]:
    """The schema of a recipe file.

    A file that `extends` another, or a template, may leave out what the other file gives, so `required` holds only
    for files that stand alone. Values may be `$name` or `${name}` in place of a number or a truth value.
    """
    # pydantic's schema is of a whole recipe; a copy of it without `required` is of a part
    whole = Recipe.model_json_schema(by_alias=True)
    whole["properties"]["datasets"]["additionalProperties"] = False  # names that do not fit `patternProperties`
    definitions = whole.pop("$defs")
    definitions["Search"]["properties"]["candidates"]["additionalProperties"] = False
    partial = _without_required(copy.deepcopy(definitions), suffix="Part")

    # fields that are used up when files are put together are no settings
    extends = {
        "description": "A file, or a list of files, that this one adds to: maps merge, stages merge by id, other lists are replaced.",
        "anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}],
    }
    remove = {
        "description": "Paths to take away from what is extended, such as `stages.talker` or `datasets.replay`.",
        "type": "array",
        "items": {"type": "string", "minLength": 1},
    }
    template = {"const": True, "description": "This file is a template: recipes extend it."}
    variables = {
        "type": "object",
        "description": "Values for `$name` and `${name}` in other values. null: whoever extends this file gives it.",
        "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
    }

    # both take them; only a part may remove
    extra = {"extends": extends, "template": template, "vars": variables}
    open_ = _without_required({"_": copy.deepcopy(whole)}, suffix="Part")["_Part"]
    for schema in (whole, open_):
        schema["properties"] = {**schema["properties"], **extra}
        schema["properties"]["qrecipe"].pop("default", None)
    open_["properties"]["remove"] = remove
    open_["required"] = ["qrecipe"]
    return {
        "$schema": DIALECT,
        "title": "qrecipe recipe",
        "description": whole.pop("description", ""),
        "if": {"anyOf": [{"required": ["extends"]}, {"required": ["template"]}]},
        "then": open_,
        "else": whole,
        "$defs": {**definitions, **partial},
    }


def _without_required(definitions: dict[str, Any], suffix: str) -> dict[str, Any]:
    """Copies of definitions in which nothing is required but what tells variants apart, under names of their own."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            out = {k: walk(v) for k, v in value.items()}
            if isinstance(out.get("$ref"), str):
                out["$ref"] += suffix
            if isinstance(out.get("mapping"), dict):
                out["mapping"] = {k: v + suffix for k, v in out["mapping"].items() if isinstance(v, str)}
            if "properties" in out and isinstance(out.get("required"), list):
                out["required"] = [r for r in out["required"] if r == "id"]
                if not out["required"]:
                    del out["required"]
            if "oneOf" in out and "discriminator" not in out:
                del out["oneOf"]  # which of several fields is given is known when the files are put together
            if "oneOf" in out and "discriminator" in out:
                out["anyOf"] = out.pop("oneOf")  # without their tag, two variants may both fit
                del out["discriminator"]
            types = out.get("type")
            if types in ("number", "integer", "boolean"):
                return {"anyOf": [out, {"type": "string", "pattern": r"^\$(\w+|\{\w+\})$"}]}
            return out
        if isinstance(value, list):
            return [walk(v) for v in value]
        return value

    return {f"{name}{suffix}": walk(schema) for name, schema in definitions.items()}
