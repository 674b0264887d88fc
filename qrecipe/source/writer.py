"""A value -> YAML text that the reader, and every reader of YAML 1.1 or 1.2, takes for the same value."""

from __future__ import annotations

import re
from typing import Any

import yaml

from qrecipe.source.reader import core_scalar

_NOT_PLAIN = re.compile("[\t\x85\u2028\u2029]")
"""Characters that PyYAML writes as they are where only an escape in quotes is safe."""


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.2 would take for a number as well: PyYAML by itself writes the text `1e5` plainly."""

    def ignore_aliases(self, data: Any) -> bool:
        """Values that occur twice are written twice."""
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    plain = isinstance(core_scalar(text), str) and not _NOT_PLAIN.search(text)
    style = None if plain else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def write_yaml(value: Any, width: float = 120) -> str:
    """Plain data as YAML, fields in the given order.

    >>> print(write_yaml({"bcp47": "no", "revision": "123e45", "lr": 1e-05}), end="")
    bcp47: 'no'
    revision: "123e45"
    lr: 1.0e-05
    """
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width)
    return text
