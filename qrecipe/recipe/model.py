"""The base class of every settings model: unknown fields are refused, types are not coerced, values are frozen."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import PydanticCustomError


class Settings(BaseModel):
    """A part of a recipe. Field docstrings are the documentation and the schema's descriptions (`qrecipe.recipe.docs`)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, validate_default=True, defer_build=True)


IDENTIFIER = r"^[a-z][a-z0-9_-]{0,62}$"
Identifier = Annotated[str, Field(pattern=IDENTIFIER)]
"""A name of a dataset or stage: lower case, at most 63 characters; it becomes part of folder names."""

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


def one_of(first: str, a: object, second: str, b: object) -> None:
    """Refuses two fields that are both given or both left out. `at` names the field that a message points to."""
    if a is not None and b is not None:
        raise PydanticCustomError(
            "one_of", "give either {first} or {second}, not both", {"first": f"`{first}`", "second": f"`{second}`", "at": second}
        )
    if a is None and b is None:
        raise PydanticCustomError("one_of", "give either {first} or {second}", {"first": f"`{first}`", "second": f"`{second}`"})


def schema_of_one(*names: str) -> ConfigDict:
    """The rule of `one_of` for the JSON Schema: exactly one of the fields is present, and not null."""
    present: list[JsonValue] = [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names]
    return ConfigDict(json_schema_extra={"oneOf": present})
