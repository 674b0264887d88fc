"""Runs `qrecipe` in processes that die: killed at named points, after a time, or told that the disk is full.

`Nursery` starts one process that imports everything and opens the embedded base; every run is forked from it, so that a
run takes a second or two and not the seconds of importing torch. As a script, this file is that process. Runs have as many
threads as torch takes by itself, as people's do.

A fault is `POINT ACTION`. Points count from 1:

    event:NAME:N        before the Nth event NAME is told (step, select, checkpoint, encoding, speaking, verdict, ...)
    before:PATTERN:N    before the Nth rename to a name that matches PATTERN (fnmatch)
    after:PATTERN:N     right after it
    sync:PATTERN:N      when the Nth file of such a name is synced

Actions: `kill` (SIGKILL), `term`, `int`, `hup`, `quit`, `twice` (two SIGTERM), `full` (ENOSPC), `unread` (nobody reads
standard error any more).
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.threads import default_threads

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    """Exit code, or minus the signal."""
    out: str
    err: str
    seconds: float

    @property
    def result(self) -> dict[str, Any]:
        """The object of the last line of standard output."""
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found


class Nursery:
    """The process from which runs are forked. Close it at the end."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.crash"],
            cwd=ROOT,
            env={**default_threads(), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *arguments: object,
        cwd: Path,
        fault: str | None = None,
        kill_after: float | None = None,
        term_after: float | None = None,
        **environment: str,
    ) -> Ended:
        """One run to its end, whatever that is."""
        order = {
            "arguments": [str(a) for a in arguments],
            "cwd": str(cwd),
            "fault": fault,
            "kill_after": kill_after,
            "term_after": term_after,
            "environment": environment,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the nursery has died"
        ended = Ended(**json.loads(answer))
        assert "Traceback" not in ended.err, ended.err
        return ended

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


SIGNALS = {"term": signal.SIGTERM, "int": signal.SIGINT, "hup": signal.SIGHUP, "quit": signal.SIGQUIT}


def _act(action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action in SIGNALS:
        os.kill(os.getpid(), SIGNALS[action])
    elif action == "twice":
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    elif action == "unread":
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 2)
    elif action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    else:
        raise AssertionError(action)


def _arm(fault: str) -> None:
    """Wraps what the fault's point is about."""
    point, action = fault.split()
    kind, pattern, number = point.split(":")
    count = 0

    def reached(name: str) -> None:
        nonlocal count
        if fnmatch.fnmatch(name, pattern):
            count += 1
            if count == int(number):
                _act(action)

    if kind == "event":
        from qrecipe.run.events import Events

        def watched(method: Any) -> Any:
            def call(self: Any, event: str, **fields: Any) -> None:
                reached(event)
                method(self, event, **fields)

            return call

        Events.emit = watched(Events.emit)  # type: ignore[method-assign]
        Events.tell = watched(Events.tell)  # type: ignore[method-assign]
        return

    def renaming(function: Callable[..., None]) -> Callable[..., None]:
        def call(source: Any, target: Any) -> None:
            if kind == "before":
                reached(Path(target).name)
            function(source, target)
            if kind == "after":
                reached(Path(target).name)

        return call

    def syncing(function: Callable[[int], None]) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            reached(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
            function(descriptor)

        return call

    if kind == "sync":
        os.fsync = syncing(os.fsync)
    else:
        os.replace, os.rename = renaming(os.replace), renaming(os.rename)


def _child(order: dict[str, Any], out: int, err: int, opened: Any, threads: int) -> None:
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.environ.update(order["environment"])
    os.chdir(order["cwd"])
    import torch

    from qrecipe.cli import main
    from qrecipe.run import engine

    torch.set_num_threads(threads)

    engine.open_model = lambda info: opened
    if order["fault"]:
        _arm(order["fault"])
    main(order["arguments"])


def _serve() -> None:
    """Reads orders, forks, waits, answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and a run keeps to that
    import tempfile

    import numpy as np
    import torch

    import qrecipe.cli.run
    import qrecipe.run.engine  # noqa: F401
    from qrecipe.errors import Place
    from qrecipe.files import FileHashes
    from qrecipe.inputs.fetch import resolve
    from qrecipe.model.dsp import librosa
    from qrecipe.model.load import open_model
    from qrecipe.recipe.base import Base

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a process that has begun others cannot be forked; its children begin theirs
    librosa().effects.trim(np.random.default_rng(0).standard_normal(24_000))  # it imports what it needs at the first call
    opened = open_model(resolve(Base(model="builtin:mini"), Path.cwd(), Place("crash"), FileHashes()))
    for line in sys.stdin:
        order = json.loads(line)
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            began = time.monotonic()
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    _child(order, out.fileno(), err.fileno(), opened, threads)
                except SystemExit as e:
                    code = int(e.code or 0)
                except BaseException:
                    import traceback

                    traceback.print_exc()
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
            code = _wait(pid, began, order["kill_after"], order["term_after"])
            out.seek(0)
            err.seek(0)
            answer = {"code": code, "out": out.read(), "err": err.read(), "seconds": round(time.monotonic() - began, 3)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _wait(pid: int, began: float, kill_after: float | None, term_after: float | None) -> int:
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        now = time.monotonic() - began
        if kill_after is not None and now >= kill_after:
            os.kill(pid, signal.SIGKILL)
            kill_after = None
        if term_after is not None and now >= term_after:
            os.kill(pid, signal.SIGTERM)
            term_after = None
        time.sleep(0.002)


if __name__ == "__main__":
    _serve()
