"""The command line: in a process of its own as people start it, or in this one, which imports nothing again."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

import pytest

from qrecipe.cli import main


def process(*arguments: str, cwd: Path, environment: dict[str, str]) -> CompletedProcess[str]:
    """`python -m qrecipe` with its output."""
    command = [sys.executable, "-m", "qrecipe", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def here(*arguments: str, cwd: Path, environment: dict[str, str]) -> CompletedProcess[str]:
    """The same through `main`, the working folder and the environment put back afterwards."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return CompletedProcess(arguments, ended.value.code, *(stream.buffer.getvalue().decode() for stream in (out, err)))
