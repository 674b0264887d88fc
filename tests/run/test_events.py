"""The events of a run: their names, their order and their fields are a format that programs read."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import qrecipe
from qrecipe.report.console import BARS, LINES, NOTES, STAGE_LINES, RunConsole
from tests.support.events import outline
from tests.support.shared import Finished

HERE = Path(__file__).parent


def test_the_tiny_run_has_the_recorded_events(finished: Finished) -> None:
    assert outline(finished.runs / "tiny" / "events.jsonl") == (HERE / "events" / "tiny.txt").read_text(encoding="utf-8")


def emitted() -> set[str]:
    """Names of events that the package emits or tells, as its source names them."""
    source = "".join(f.read_text(encoding="utf-8") for f in Path(qrecipe.__file__).parent.rglob("*.py"))
    return set(re.findall(r"\.(?:emit|tell|event|progress)\(\s*\"([a-z_]+)\"", source))


def test_the_console_handles_every_event() -> None:
    handled = {name.removeprefix("_on_") for name, _ in inspect.getmembers(RunConsole) if name.startswith("_on_")}
    assert emitted() - handled - {*BARS, *LINES, *NOTES, *STAGE_LINES} == set()


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"event": "fitted", "stage": "text", "loss": 2.5}, "stage text: the temporary map is fitted, loss 2.500"),
        ({"event": "bundle", "path": "bundles/a-1.0.0"}, "bundle written: bundles/a-1.0.0"),
        ({"event": "run_failed", "error": "EngineError", "message": "it broke"}, ""),
        ({"event": "a_new_one", "stage": "text", "count": 3}, "a_new_one: stage text, count 3"),
    ],
)
def test_what_the_console_shows(event: dict[str, Any], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An event without a handler of its own is shown as it is, never dropped."""
    with RunConsole(Console(width=160, highlight=False)) as console:
        console({"time": 1.0, **json.loads(json.dumps(event))})
    assert capsys.readouterr().out.strip() == text
