"""Runs `qrecipe` in processes that die: killed at named points, after a time, or told that the disk is full.

`Nursery` starts one process that imports everything and opens the embedded base; every run is forked from it, so that a
run takes a second or two and not the seconds of importing torch. As a script, this file is that process. Runs have as many
threads as torch takes by itself, as people's do.

A fault is `POINT ACTION`. Points count from 1:

    event:NAME:N        before the Nth event NAME is told (step, select, checkpoint, encoding, speaking, verdict, ...)
    before:PATTERN:N    before the Nth rename to a name that matches PATTERN (fnmatch)
    after:PATTERN:N     right after it
    sync:PATTERN:N      when the Nth file of such a name is synced

Actions: `kill` (SIGKILL), `term`, `int`, `hup`, `quit`, `twice` (two SIGTERM), `freeze` (SIGSTOP), `full` (ENOSPC),
`memory` (a GPU without memory), `unread` (nobody reads standard error any more).

`run_ranks` starts several ranks as torchrun does: when one fails, the others get SIGTERM, and SIGKILL half a minute later.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
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
            env={**default_threads(), "PYTHONPATH": str(ROOT), "TORCH_CPP_LOG_LEVEL": "ERROR"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run_ranks(
        self,
        *arguments: object,
        cwd: Path,
        ranks: int = 2,
        fault: str | None = None,
        at: int = 1,
        of_rank: dict[str, str] | None = None,
        **environment: str,
    ) -> list[Ended]:
        """One run of several ranks to its end; the fault is of rank `at`, and so is `of_rank` of the environment."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **environment}
        own = [{"RANK": str(r), "LOCAL_RANK": str(r), **shared, **((of_rank or {}) if r == at else {})} for r in range(ranks)]
        faults = [fault if r == at else None for r in range(ranks)]
        return self._order(arguments, cwd, own, faults, None, None)

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
        return self._order(arguments, cwd, [environment], [fault], kill_after, term_after)[0]

    def _order(
        self,
        arguments: tuple[object, ...],
        cwd: Path,
        environments: list[dict[str, str]],
        faults: list[str | None],
        kill_after: float | None,
        term_after: float | None,
    ) -> list[Ended]:
        order = {
            "arguments": [str(a) for a in arguments],
            "cwd": str(cwd),
            "faults": faults,
            "kill_after": kill_after,
            "term_after": term_after,
            "environments": environments,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the nursery has died"
        all_ended = [Ended(**e) for e in json.loads(answer)]
        for ended in all_ended:
            assert "Traceback" not in ended.err, ended.err
        return all_ended

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
    elif action == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "memory":
        import torch

        raise torch.OutOfMemoryError("a test takes it")
    elif action == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    else:
        raise AssertionError(action)


def arm(fault: str) -> None:
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


def _child(order: dict[str, Any], rank: int, out: int, err: int, opened: Any, threads: int) -> None:
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.environ.update(order["environments"][rank])
    os.chdir(os.environ.get("PLACE", order["cwd"]))
    import torch

    from qrecipe import peers
    from qrecipe.cli import main
    from qrecipe.run import session
    from qrecipe.world import World

    torch.set_num_threads(int(order["environments"][rank].get("OMP_NUM_THREADS", threads)))
    peers.SILENT_SECONDS, peers.GRACE_SECONDS = 4.0, 3.0
    session.open_model = lambda info, world=None: replace(opened, world=world or World())  # type: ignore[assignment]
    if order["faults"][rank]:
        arm(order["faults"][rank])
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
    from qrecipe.hashes import FileHashes
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
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            files = [
                (stack.enter_context(tempfile.TemporaryFile("w+")), stack.enter_context(tempfile.TemporaryFile("w+")))
                for _ in order["faults"]
            ]
            pids = [_fork(order, rank, out.fileno(), err.fileno(), opened, threads) for rank, (out, err) in enumerate(files)]
            codes = _wait(pids, began, order["kill_after"], order["term_after"])
            answer = []
            for (out, err), (code, seconds) in zip(files, codes, strict=True):
                out.seek(0)
                err.seek(0)
                answer.append({"code": code, "out": out.read(), "err": err.read(), "seconds": seconds})
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _fork(order: dict[str, Any], rank: int, out: int, err: int, opened: Any, threads: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _child(order, rank, out, err, opened, threads)
    except SystemExit as e:
        code = int(e.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _wait(pids: list[int], began: float, kill_after: float | None, term_after: float | None) -> list[tuple[int, float]]:
    """(Exit code, seconds) of every process, with signals after a time, and a launcher's signals once one has failed."""
    ended: dict[int, tuple[int, float]] = {}
    while len(ended) < len(pids):
        now = time.monotonic() - began
        for pid in pids:
            if pid not in ended and (status := os.waitpid(pid, os.WNOHANG))[0]:
                ended[pid] = (os.waitstatus_to_exitcode(status[1]), round(now, 3))
        if kill_after is not None and now >= kill_after:
            _signal(pids, ended, signal.SIGKILL)
            kill_after = None
        if term_after is not None and now >= term_after:
            _signal(pids, ended, signal.SIGTERM)
            term_after, kill_after = None, None if len(pids) == 1 else now + 30
        if any(code for code, _ in ended.values()) and kill_after is None:
            _signal(pids, ended, signal.SIGTERM)
            kill_after = now + 30
        time.sleep(0.002)
    return [ended[pid] for pid in pids]


def _signal(pids: list[int], ended: dict[int, Any], number: int) -> None:
    for pid in pids:
        if pid not in ended:
            stands = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
            os.kill(pid, signal.SIGKILL if stands else number)  # a process that stands still gets no other signal


if __name__ == "__main__":
    _serve()
