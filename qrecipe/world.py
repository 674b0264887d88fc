"""The processes of one run, as torchrun or `accelerate launch` starts them.

Every rank runs the same program. Ranks share out what is to be computed, never decide for themselves what that is, and
the first one alone prints and writes. Gradients go through `torch.distributed`; what else ranks tell one another is small
JSON, see `peers`. Imports torch only where there are several processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from qrecipe import interrupts
from qrecipe.errors import Interrupted, Place, Problem, QRecipeError, RankLost, UserError
from qrecipe.peers import COLLECTIVE_SECONDS, Peers

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

JOIN_SECONDS = 60.0
"""Seconds in which all processes must have found one another."""
DIVIDED = ("run", "prepare", "evaluate")
"""Verbs whose work processes share."""


class World:
    """Which of the processes this one is, and what it shares with the others."""

    def __init__(self, rank: int = 0, size: int = 1, peers: Peers | None = None) -> None:
        """Without `peers` it splits, and has nobody to talk to: the world of a single process."""
        self.rank, self.size, self._peers = rank, size, peers

    @property
    def first(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items that this rank computes: every `size`-th."""
        return items[self.rank :: self.size]

    def exchange(self, value: Any, doing: str) -> list[Any]:
        """Everybody's values, plain JSON, by rank. Returns when all ranks have come here; `doing` names the place."""
        return [value] if self._peers is None else self._peers.exchange(value, doing)

    def from_first(self, make: Callable[[], T], doing: str) -> T:
        """Result of `make` on the first rank, plain JSON, for all ranks."""
        value = make() if self.first else None
        result: T = self.exchange(value, doing)[0]
        return result

    def first_before_others(self, make: Callable[[], T], doing: str) -> T:
        """Result of `make` on every rank, made by the first before the others, which find in caches what it has left there."""
        if not self.first:
            self.wait(doing)
        value = make()
        if self.first:
            self.wait(doing)
        return value

    def wait(self, doing: str) -> None:
        """Returns when all ranks have come here."""
        self.exchange(None, doing)

    def sum_tensors(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        """Begins to sum tensors over the ranks, each in its place; returns what `finish` waits for."""
        return [] if self._peers is None else self._peers.begin_sums(tensors)

    def finish(self, sums: Sequence[Any], doing: str) -> None:
        """Waits for sums; on a GPU that waits in the GPU's order, not on the host."""
        if self._peers is not None:
            self._peers.finish_sums(sums, doing)

    def doing(self, what: str) -> None:
        """Names what this rank is at, for those that wait for it."""
        if self._peers is not None:
            self._peers.doing = what

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Marks a block in which this rank can do nothing but wait for what all ranks are to compute."""
        if self._peers is None:
            yield
            return
        with self._peers.blocked(what):
            yield

    @contextlib.contextmanager
    def in_step(self) -> Iterator[None]:
        """A block that signals do not cut where several ranks must leave it together: they agree on it in their numbers."""
        with contextlib.nullcontext() if self.alone else interrupts.deferred():
            yield

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """A block that is not cut short although another rank has failed."""
        if self._peers is None:
            yield
            return
        self._peers.patient += 1
        try:
            yield
        finally:
            self._peers.patient -= 1

    def agree(self, facts: dict[str, Any]) -> None:
        """Raises `UserError` on the rank whose facts, plain JSON by their names for people, are not those of the first."""
        others = self.exchange(facts, "comparing what the ranks are to do")
        for rank, theirs in enumerate(others):
            name = next((k for k in facts if theirs.get(k) != others[0].get(k)), None)
            if name is None:
                continue
            if rank != self.rank:
                self._await_reason()
            message = f"rank {rank} has another {name} than rank 0: {_short(theirs.get(name))}, not {_short(others[0].get(name))}"
            help_ = "start all ranks with the same command, on one version, on folders that all hosts share"
            raise UserError(Problem("QR090", message, Place(f"rank {rank}"), help_))

    def _await_reason(self) -> None:
        """Waits for another rank to say why the run is over."""
        assert self._peers is not None
        self._peers.await_reason()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


_peers: Peers | None = None


def launched() -> int:
    """The number of processes that a launcher started, from the environment that torchrun and accelerate set; else 1."""
    try:
        return max(1, int(os.environ["WORLD_SIZE"])) if "RANK" in os.environ else 1
    except (KeyError, ValueError):
        return 1


def rank() -> int:
    """This process's rank by the environment; 0 without a launcher."""
    return int(os.environ["RANK"]) if launched() > 1 else 0


def joined() -> bool:
    """Whether this process has found the others of its launcher."""
    return _peers is not None


def require_alone(verb: str) -> None:
    """Refuses a verb that works in one process where a launcher started several; said by the first of them."""
    if launched() == 1 or verb in DIVIDED:
        return
    if rank():
        raise SystemExit(UserError.exit_code)
    message = f"`{verb}` works in one process, and a launcher (torchrun, accelerate) started {launched()}"
    raise UserError(Problem("QR090", message, Place("WORLD_SIZE"), f"start `qrecipe {verb}` itself"))


def join() -> World:
    """Finds the other processes of a launcher, once for a process; the world of one process without a launcher.

    Raises `UserError` if they do not come, or if a host has fewer GPUs than processes.
    """
    global _peers
    size = launched()
    if size == 1:
        return World()
    if _peers is None:
        interrupts.together()
        _peers = Peers(_connect(), rank(), size)
    return World(_peers.rank, _peers.size, _peers)


def _connect() -> Any:
    """The launcher's store, with the process group made through it."""
    from datetime import timedelta

    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what its sockets say of a rank that ends is said better here
    import torch
    import torch.distributed as dist
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # public, and not in its list
    from torch.distributed.rendezvous import rendezvous

    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    count, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if count and local >= count:
        message = f"rank {rank()} is process {local + 1} of {socket.gethostname()}, which has {count} GPUs"
        raise UserError(Problem("QR090", message, Place("LOCAL_RANK"), f"give torchrun `--nproc-per-node {count}`"))
    if count:
        torch.cuda.set_device(local)
    try:
        _await_host()
        store, number, size = next(rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS)))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"qrecipe/{attempt}", store)
        store.set(f"joined/{number}", "1")
        store.wait([f"joined/{r}" for r in range(size)], timedelta(seconds=JOIN_SECONDS))
        backend = "nccl" if count and dist.is_nccl_available() else "gloo"
        dist.init_process_group(
            backend,
            store=PrefixStore("group", store),
            rank=number,
            world_size=size,
            timeout=timedelta(seconds=COLLECTIVE_SECONDS),
            device_id=torch.device("cuda", local) if backend == "nccl" else None,
        )
    except (RuntimeError, ValueError, KeyError, OSError) as e:
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:160]
        message = f"a launcher (torchrun, accelerate) started {launched()} processes, and they do not meet at {where}: {reason}"
        raise UserError(Problem("QR090", message, Place("WORLD_SIZE"), "for one process, start qrecipe without a launcher")) from None
    return store


def _await_host() -> None:
    """Waits until somebody listens at the launcher's address: torch says nothing while it waits, and a page when it gives up."""
    if rank() == 0 and not os.environ.get("TORCHELASTIC_USE_AGENT_STORE"):
        return  # this process will be that host
    address, deadline = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), time.monotonic() + JOIN_SECONDS
    while True:
        try:
            socket.create_connection(address, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Around a command: what ends one rank ends all, and is said once, by the rank that it happened to."""
    try:
        yield
    except SystemExit:
        raise
    except BaseException as e:
        if _peers is None:
            raise
        with interrupts.deferred():
            conclusion = _conclusion(_peers, e)
        raise conclusion from None
    if _peers is not None:
        import torch.distributed as dist

        _peers.leave()
        dist.destroy_process_group()


def _conclusion(peers: Peers, error: BaseException) -> BaseException:
    """The exception that this rank ends with: its own, that of a rank that died, or silence after another's."""
    stopped = isinstance(error, (KeyboardInterrupt, Interrupted)) or interrupts.came()
    code = Interrupted.exit_code if stopped else getattr(error, "exit_code", 1)
    message = error.message if isinstance(error, QRecipeError) else str(error) or type(error).__name__
    if stopped:  # by a person, or by a launcher that has lost a rank
        peers.look_for_dead()
    reason = peers.end(peers.rank, code, message)
    peers.leave(stopped)
    if reason.found_by != peers.rank:
        return SystemExit(reason.exit_code)
    if reason.rank != peers.rank:
        return RankLost(f"{reason.message}. What was finished is kept, and the same command goes on from there")
    if not stopped:
        print(f"rank {peers.rank} of {peers.size} ({socket.gethostname()}) ends all of them:", file=sys.stderr)
    return error


def quit_(code: object) -> None:
    """Ends the process after a failure, at once: a GPU may wait for ever for a rank that is not there any more."""
    if _peers is not None and code not in (None, 0, 3):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
