"""Where and when numba compiles: no two living processes have the same folder, and nothing is compiled before it is called."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qrecipe.model.dsp import FOLDER, _when_called, claimed

CLAIMS = f"""
import os, sys
from qrecipe.model.dsp import compile_apart
compile_apart()
print(os.environ["{FOLDER}"], flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def start(cache: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], Path]]]:
    """Starts a process that claims a folder and waits; gives it and the folder."""
    started = []

    def process(**given: str) -> tuple[subprocess.Popen[str], Path]:
        environment = {**{k: v for k, v in os.environ.items() if k != FOLDER}, **given}
        child = subprocess.Popen([sys.executable, "-c", CLAIMS], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(child)
        assert child.stdout is not None
        return child, Path(child.stdout.readline().strip())

    yield process
    for child in started:
        if child.returncode is None:
            child.communicate("\n")


@pytest.mark.slow
def test_processes_at_once_compile_apart(start: Callable[..., tuple[subprocess.Popen[str], Path]], cache: Path) -> None:
    first, mine = start()
    _, other = start()
    _, child = start(**{FOLDER: str(mine)})  # as a process that the first one starts
    assert len({mine, other, child}) == 3
    assert {mine.parent, other.parent, child.parent} == {cache / "numba"}
    (mine / "compiled").write_text("kept")
    first.send_signal(signal.SIGKILL)
    first.wait()
    _, inherited = start()
    assert inherited == mine
    assert (inherited / "compiled").read_text() == "kept"


def test_a_folder_that_is_given_is_used(start: Callable[..., tuple[subprocess.Popen[str], Path]], tmp_path: Path) -> None:
    assert start(**{FOLDER: str(tmp_path)})[1] == tmp_path


def test_where_nothing_can_be_written_it_is_temporary(start: Callable[..., tuple[subprocess.Popen[str], Path]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    child, folder = start(QRECIPE_CACHE=str(tmp_path / "file"))
    assert folder.is_dir()
    child.communicate("\n")
    assert not folder.exists()


def test_one_process_claims_two(tmp_path: Path) -> None:
    assert claimed(tmp_path) != claimed(tmp_path)


def test_a_function_is_compiled_when_it_is_first_called() -> None:
    compiled = []

    def compiler(signature: str) -> Callable[..., Any]:
        return lambda function: compiled.append((signature, function.__name__)) or function

    @_when_called(compiler)("(n)->(n)")
    def double(x: int) -> int:
        return 2 * x

    assert compiled == []
    assert [double(2), double(3)] == [4, 6]
    assert compiled == [("(n)->(n)", "double")]
