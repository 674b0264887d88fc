"""Worker processes that carry out runs side by side: who does what, what is told meanwhile, and how all of them stop."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from work import Item, Row, asked

WORKER = Path(__file__).with_name("work.py")
QUIET = 20.0
"""Seconds without a line after which a line says what the workers are at."""
PATIENCE = 45.0
"""Seconds that workers have to keep what they have done when they are stopped."""


class _Worker:
    """One process. What it says goes into a queue, as (worker, message); None for a message once it has ended."""

    def __init__(self, number: int, jobs: int, gpus: list[str], log: Path, said: queue.Queue[Any]) -> None:
        environment = dict(os.environ)
        if jobs > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        self.item: Item | None = None
        self.at = ""
        self.log = log
        with open(log, "ab") as errors:
            # a process group of its own: Ctrl-C is for the parent alone, which tells the workers
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
                encoding="utf-8",
                process_group=0,
            )
        threading.Thread(target=self._listen, args=(said,), daemon=True).start()

    def _listen(self, said: queue.Queue[Any]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):  # the line that it was writing when it was stopped
                said.put((self, json.loads(line)))
        said.put((self, None))

    def ask(self, item: Item | None, keep: bool) -> None:
        """Gives it a run, or nothing more to do."""
        assert self.process.stdin is not None
        self.item, self.at = item, "starting"
        try:
            if item is None:
                self.process.stdin.close()
            else:
                self.process.stdin.write(asked(item, keep))
                self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and its queue says so


def gpus() -> list[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them; none on a machine without."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [g for g in given.split(",") if g]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


class Stop:
    """Whether a person or a clock has asked for the end; a handler for signals."""

    def __init__(self) -> None:
        self.asked = 0
        """How often. From the second time on nobody waits."""

    def __call__(self, *signal_and_frame: object) -> None:
        """Asks for the end."""
        self.asked += 1


def carry_out(
    items: list[Item], jobs: int, keep: bool, logs: Path, say: Callable[[str], None], stop: Stop
) -> Iterator[tuple[Item, Row | str]]:
    """Gives every run with its row as it ends, or with the reason why it failed.

    Args:
        items: the runs, begun in this order.
        jobs: worker processes at most; they are spread over the GPUs.
        keep: keep weights and samples.
        logs: folder of what workers print.
        say: told a line for people.
        stop: once asked, workers stop when they have kept what they did, and rows that were on their way are still given.
    """
    said: queue.Queue[Any] = queue.Queue()
    logs.mkdir(parents=True, exist_ok=True)
    waiting = list(reversed(items))
    there = gpus()
    jobs = min(jobs, len(items))
    workers = [_Worker(i, jobs, there, logs / f"worker-{i}.log", said) for i in range(jobs)]
    last = time.monotonic()
    try:
        for worker in workers:
            worker.ask(waiting.pop(), keep)
        while not stop.asked and any(w.item is not None for w in workers):
            worker, message = _next(said)
            if time.monotonic() - last > QUIET:
                last = time.monotonic()
                say("  " + "; ".join(f"{w.item.label}: {w.at}" for w in workers if w.item is not None))
            if worker is None or worker.item is None:
                continue
            if message is not None and "event" in message:
                worker.at = _at(message["event"]) or worker.at
                continue
            item = worker.item
            if message is None:  # it ended by itself: for want of memory, most likely
                message = {"failed": f"its process ended with exit code {worker.process.wait()}; {worker.log} has its last words"}
                if waiting:
                    number = workers.index(worker)
                    workers[number] = worker = _Worker(number, jobs, there, worker.log, said)
            worker.ask(waiting.pop() if waiting else None, keep)
            last = time.monotonic()
            yield item, message.get("row") or message["failed"]
        if stop.asked:
            say(f"stopping {sum(w.item is not None for w in workers)} runs")
            _end(workers, stop)
            while not said.empty():
                worker, message = said.get()
                if worker.item is not None and message is not None and "row" in message:
                    yield worker.item, message["row"]
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()


def _next(said: queue.Queue[Any]) -> tuple[Any, Any]:
    """The next message with its worker; None for both after a second."""
    try:
        worker, message = said.get(timeout=1.0)
    except queue.Empty:
        return None, None
    return worker, message


def _end(workers: list[_Worker], stop: Stop) -> None:
    """Tells every worker to stop and waits for it."""
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and stop.asked < 2 and any(w.process.poll() is None for w in workers):
        time.sleep(0.1)


def _at(event: dict[str, Any]) -> str | None:
    """What a run is at, in a few words."""
    what = event.get("stage") or event.get("what") or event.get("dataset")
    if event["event"] == "step":
        return f"{what} {event['step']}/{event['of']}"
    if "done" in event and "of" in event:
        return f"{what} {event['done']}/{event['of']}"
    return {"self_check": "self-check", "bundle": "bundle"}.get(event["event"])
