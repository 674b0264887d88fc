"""What was heard before: one line of JSON for every listening, so that work that is interrupted goes on where it was.

A line is written as soon as a sample was listened to. Keys hold the content of everything that the answer depends on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qrecipe.files import digest


class Memory:
    """Answers by key, in a file that only grows; without a file, for this process alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        if path is None or not path.is_file():
            return
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                self._known[entry["key"]] = entry["value"]
            except (ValueError, KeyError, TypeError):
                continue  # the line that a killed process was writing

    def known(self, key: Any) -> Any:
        """The answer for a key that was asked before, else None."""
        return self._known.get(digest(key)[:32])

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """The answer for a key, made where it is not known yet. Answers are plain JSON."""
        name = digest(key)[:32]
        if name not in self._known:
            self._known[name] = value = make()
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with open(self._path, "a+b") as f:
                    end = f.tell()
                    if end:
                        f.seek(end - 1)
                        if f.read(1) != b"\n":
                            f.write(b"\n")
                    f.write(json.dumps({"key": name, "value": value}, ensure_ascii=False).encode() + b"\n")
        return self._known[name]
