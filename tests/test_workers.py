"""Workers: the results of one process, in order, whatever becomes of them; and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from qrecipe import workers


def pid_after(seconds: float) -> int:
    """The process that this ran in."""
    time.sleep(seconds)
    return os.getpid()


def uneven(number: int) -> int:
    """Its square, the sooner the larger."""
    time.sleep(0.002 * (10 - number % 10))
    return number * number


def dies_elsewhere(item: tuple[int, int]) -> int:
    """Ends any process but the first of the pair."""
    home, number = item
    if number % 5 == 3 and os.getpid() != home:
        os._exit(9)
    return number


def refuses(number: int) -> int:
    if number == 3:
        raise ValueError("not three")
    return number


def loads_torch(name: str) -> bool:
    """Whether reading recordings brings torch or librosa into a process."""
    import qrecipe.data.reading

    return any(m in sys.modules for m in ("torch", "librosa", "numba")) or qrecipe.data.reading.__name__ != name


@pytest.mark.slow
def test_results_are_in_order_and_made_elsewhere() -> None:
    assert list(workers.in_order(uneven, range(40), 2)) == [n * n for n in range(40)]
    pids = set(workers.in_order(pid_after, [0.01] * 30, 2))
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert set(workers.in_order(pid_after, [0.0] * 3, 0)) == {os.getpid()}


def test_what_a_lost_worker_was_at_is_done_here() -> None:
    items = [(os.getpid(), n) for n in range(20)]
    assert list(workers.in_order(dies_elsewhere, items, 2)) == list(range(20))


def test_where_no_process_can_be_started_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert list(workers.in_order(uneven, range(5), 2)) == [0, 1, 4, 9, 16]


def test_an_exception_reaches_the_caller() -> None:
    results = workers.in_order(refuses, range(6), 1)
    with pytest.raises(ValueError, match="not three"):
        list(results)


def test_a_reader_of_recordings_imports_neither_torch_nor_librosa() -> None:
    assert list(workers.in_order(loads_torch, ["qrecipe.data.reading"], 1)) == [False]


def test_workers_are_worth_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert [workers.spare(n) for n in (5, workers.WORTH, 10_000)] == [0, 1, workers.MOST]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert workers.spare(10_000) == 1


PROGRAM = """
import sys
from qrecipe import interrupts, workers
from tests.test_workers import pid_after
interrupts.install()
try:
    for pid in workers.in_order(pid_after, [0.05] * 1000, 2):
        print(pid, flush=True)
except KeyboardInterrupt:
    sys.exit(3)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGKILL, False)])
def test_workers_end_with_their_program_and_say_nothing(number: signal.Signals, group: bool) -> None:
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, "-c", PROGRAM]
    program = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=root, start_new_session=True
    )
    assert program.stdout is not None
    assert program.stderr is not None
    pids = {int(program.stdout.readline()) for _ in range(8)}
    (os.killpg if group else os.kill)(program.pid, number)
    assert program.wait(30) == (-number if number == signal.SIGKILL else 3)
    deadline = time.monotonic() + 10
    while any(map(_lives, pids)):
        assert time.monotonic() < deadline, "a worker outlived its program"
        time.sleep(0.02)
    assert program.stderr.read() == ""
    for pipe in (program.stdout, program.stderr):
        pipe.close()


def _lives(pid: int) -> bool:
    with suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z" if os.path.isdir("/proc/self") else True
    return False
