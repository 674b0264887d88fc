"""Events of a run: one JSON object a line in `events.jsonl`, passed on to a listener at the same time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from qrecipe.files import NOT_UTF8, writing
from qrecipe.redaction import redact

EVENTS = "events.jsonl"
PROGRESS = "progress.json"
"""The last progress that was told and not recorded; there is none while nothing runs."""
PROGRESS_SECONDS = 1.0
"""Between two writes of it."""
Event = dict[str, Any]
Listener = Callable[[Event], None]
"""Gets every event of a run: `event` is its kind."""


class Events:
    """Appends events to a file and passes them on. Every event has `event` (its kind) and `time` (seconds since 1970)."""

    def __init__(self, path: Path | None, listener: Listener | None = None) -> None:
        self._file: TextIO | None = None
        if path is not None:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                _end_line(path)
                self._file = open(path, "a", encoding="utf-8", errors=NOT_UTF8)  # noqa: SIM115  # closed by close()
        self._listener = listener
        self._progress = None if path is None else path.with_name(PROGRESS)
        self._written = 0.0

    def emit(self, event: str, **fields: Any) -> None:
        """Records an event."""
        entry = {"event": event, "time": round(time.time(), 3), **fields}
        if self._file is not None:
            with writing(Path(self._file.name)):
                self._file.write(redact(json.dumps(entry, ensure_ascii=False)) + "\n")
                self._file.flush()
        if self._listener is not None:
            self._listener(entry)

    def tell(self, event: str, **fields: Any) -> None:
        """Passes progress on without recording it, and leaves the last of it for those who watch the run's folder."""
        if self._progress is not None and time.monotonic() - self._written >= PROGRESS_SECONDS:
            self._written = time.monotonic()
            with suppress(OSError):  # it is worth no run
                beside = self._progress.with_name(f".{PROGRESS}.tmp")
                beside.write_text(redact(json.dumps({"event": event, "time": time.time(), **fields}, default=str)), "utf-8", NOT_UTF8)
                beside.replace(self._progress)
        if self._listener is not None:
            self._listener({"event": event, **fields})

    def evaluating(self, what: str, done: int, of: int) -> None:
        """Passes on how far an evaluation is: `speaking` and `listening`."""
        self.tell("speaking" if what.startswith("speaking") else "listening", what=what, done=done, of=of)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            with suppress(OSError):  # what is left to write found no room before
                self._file.close()
            self._file = None
        if self._progress is not None:
            with suppress(OSError):
                self._progress.unlink()


def _end_line(path: Path) -> None:
    """A run that was killed may have left half a line; the next event starts on a line of its own."""
    if path.is_file() and path.stat().st_size:
        with open(path, "rb+") as f:
            f.seek(-1, 2)
            if f.read(1) != b"\n":
                f.write(b"\n")
