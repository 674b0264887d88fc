"""What a person sees on a terminal, and what becomes of a run whose log nobody reads."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from qrecipe import interrupts
from qrecipe.errors import Place, Problem
from qrecipe.report.console import RunConsole
from qrecipe.report.problems import as_text
from qrecipe.report.tables import Printer
from qrecipe.report.terminal import wrapped
from tests.support import recipes

PROBLEM = Problem(
    "QR010", "unknown field `epoch`, which is not one of those that a stage has", Place("r.yaml"), "try `qrecipe show r.yaml`"
)
STEP = {"event": "step", "stage": "language", "step": 12, "of": 400, "losses": {"talker": 2.345, "predictor": 3.456}}
LONG = {"event": "remembering", "stage": "a_stage_with_a_long_name", "done": 1234, "of": 56789}


@pytest.fixture
def no_signal() -> Iterator[None]:
    yield
    interrupts.install()


# lines and colours


@pytest.mark.parametrize("width", [20, 40, 79])
def test_words_stay_whole(width: int) -> None:
    text = "error: the quick brown fox jumps over `qrecipe gc --delete` and /a/path/that/is/longer/than/the/line.yaml"
    lines = wrapped(text, width, indent=2).split("\n")
    assert " ".join(line.strip() for line in lines) == text
    assert all(line.startswith("  ") for line in lines[1:])
    assert any("`qrecipe gc --delete`" in line for line in lines)
    assert all(len(line) <= width or len(line.split()) == 1 or line.strip().startswith("`") for line in lines)


def test_problems_have_colours_on_a_terminal_alone() -> None:
    plain, coloured = as_text([PROBLEM]), as_text([PROBLEM], colours=True)
    assert "\x1b" not in plain
    assert coloured.startswith("\x1b[1;31merror[QR010]\x1b[0m: unknown field")
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_problems_are_broken_between_words() -> None:
    lines = as_text([PROBLEM], width=40).splitlines()
    assert lines[:3] == ["error[QR010]: unknown field `epoch`,", "  which is not one of those that a stage", "  has"]


# bars


@pytest.mark.parametrize("event", [STEP, LONG])
@pytest.mark.parametrize("width", [80, 100, 200])
def test_counts_and_times_are_never_cut(event: dict[str, Any], width: int) -> None:
    file = io.StringIO()
    with RunConsole(Console(file=file, force_terminal=True, width=width, highlight=False)) as console:
        console(event)
        assert console._progress is not None
        console._progress.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue()).replace("\r", "\n").splitlines()
    done, of = event.get("step", event.get("done")), event["of"]
    line = next(line for line in reversed(shown) if f" {done}/{of} " in line)
    assert re.search(r"\d:\d\d:\d\d (-|\d+):[\d-]+:[\d-]+ *$", line), line
    assert len(line.rstrip()) <= width


# a log that nobody reads


def _unread() -> Any:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


@pytest.mark.usefixtures("no_signal")
def test_a_log_without_a_reader_stops_as_a_signal_does() -> None:
    with _unread() as file, RunConsole(Printer(file=file)) as console:
        with pytest.raises(KeyboardInterrupt):
            console({"event": "resumed", "stage": "language", "step": 3})
        assert interrupts.came()
        console({"event": "resumed", "stage": "language", "step": 4})


@pytest.mark.usefixtures("no_signal")
def test_it_waits_for_the_end_of_what_must_be_whole() -> None:
    passed = []
    with _unread() as file, RunConsole(Printer(file=file)) as console, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        with interrupts.whole():
            console.say("a checkpoint")
            passed.append("written")
        passed.append("never")
    assert passed == ["written"]


@pytest.mark.usefixtures("no_signal")
def test_the_reason_for_an_end_is_not_replaced() -> None:
    with _unread() as file, RunConsole(Printer(file=file)) as console:
        console({"event": "run_failed", "error": "UserError", "message": "x"})
        assert not interrupts.came()


@pytest.mark.usefixtures("no_signal")
def test_a_full_disk_under_the_log_ends_nothing() -> None:
    with open("/dev/full", "w", encoding="utf-8") as file, RunConsole(Printer(file=file)) as console:
        console.say("x" * 100_000)
        console.say("y")
        assert not interrupts.came()


# streams


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("exec {q} validate recipe.yaml >&- 2>&-", 2),
        ("exec {q} show recipe.yaml <&- >&-", 0),
        ("{q} validate recipe.yaml 2> >(true); exit $?", 2),
        ("{q} schema recipe | true; exit ${{PIPESTATUS[0]}}", 0),
        ("exec {q} schema recipe > /dev/full", 2),
        ("PYTHONIOENCODING=ascii exec {q} validate recipe.yaml", 2),
        ("PYTHONIOENCODING=cp1252 exec {q} validate recipe.yaml --format json", 2),
    ],
)
def test_streams_of_every_kind(shell: str, code: int, tmp_path: Path) -> None:
    """Closed ones, unread ones and those of other encodings: the exit code stays what it is, and nobody sees a traceback."""
    changes = {"description": "ünïcødé 水"} if " show " in shell else {"näme": 1}
    recipes.write(tmp_path, recipes.recipe(**changes))
    command = shell.format(q=f"{sys.executable} -m qrecipe")
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    output = (done.stdout + done.stderr).decode("latin-1")
    assert done.returncode == code, output
    assert "Traceback" not in output
    assert "did not expect" not in output


def test_of_many_rows_that_are_skipped_the_first_are_shown() -> None:
    file = io.StringIO()
    with RunConsole(Printer(file=file, width=200)) as console:
        for name in ("speech", "dev"):
            console({"event": "dataset", "dataset": name, "rows": 4, "skipped": 400, "minutes": 1.0})
            for line in range(400):
                console({"event": "row_skipped", "dataset": name, "file": f"{name}.jsonl", "line": line, "message": "clipped"})
    lines = file.getvalue().splitlines()
    assert lines[1:3] == ["  skipped speech.jsonl:0: clipped", "  skipped speech.jsonl:1: clipped"]
    assert lines.count("  the others are in events.jsonl of the run's folder") == 2
    assert len(lines) == 2 * (1 + 8 + 1)
