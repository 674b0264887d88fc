"""The other ranks of a run: what they say, whether they live, and why the run is over.

Ranks talk through the launcher's key-value store, so that a wait can be interrupted and says whom it waits for. A thread
of each rank tells the others that it lives; it ends its own rank when another one has failed or died.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qrecipe import interrupts
from qrecipe.errors import EngineError

if TYPE_CHECKING:
    import torch

BEAT_SECONDS = 1.0
"""Seconds between two signs of life."""
SILENT_SECONDS = 40.0
"""Seconds without one after which a rank counts as dead, where its process cannot be looked at."""
DYING_SECONDS = 3.0
"""Seconds that a process may take to be gone after its sockets are."""
GRACE_SECONDS = 15.0
"""Seconds in which a rank whose run is over must have come to its end."""
COLLECTIVE_SECONDS = 600.0
"""Seconds after which a sum over the ranks is given up although all of them live."""
SAY_SECONDS = 30.0
"""Seconds of waiting after which the rank that is waited for is named."""
PAUSE = 0.01
"""Seconds between two looks into the store."""
IN_STEP = "training"
"""How the names of waits within a training step begin."""


@dataclass(frozen=True)
class Reason:
    """The first failure of a run: what all ranks end with."""

    rank: int
    """Of the process that failed."""
    found_by: int
    """The process that says so: the same one, or one that noticed that it had died."""
    exit_code: int
    message: str


class Peers:
    """The other ranks: what they say, whether they live, and why the run is over."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        """`store` is a `torch.distributed.Store` that all ranks have joined."""
        self.rank, self.size = rank, size
        self.doing = "starting"
        self.patient = 0
        """Blocks around the program that are not cut short."""
        self._store = store
        self._exchanges = 0
        self._blocked: tuple[float, int, str] | None = None
        """Since when this rank waits, for which collective."""
        self._collectives = 0
        self._reason: Reason | None = None
        self._left = False
        self._whos: dict[int, dict[str, Any]] = {rank: {"host": socket.gethostname(), "pid": os.getpid()}}
        store.set(f"who/{rank}", json.dumps(self._whos[rank]))
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    # what ranks tell one another

    def exchange(self, value: Any, doing: str) -> list[Any]:
        """Everybody's values by rank."""
        number, self._exchanges = self._exchanges, self._exchanges + 1
        keys = [f"x/{number}/{r}" for r in range(self.size)]
        try:
            self._store.set(keys[self.rank], json.dumps(value))
            if number > 1:  # whoever has come to the last exchange has read the one before it
                self._store.delete_key(f"x/{number - 2}/{self.rank}")
            with self.blocked(doing):
                while not self._store.check(keys):
                    if self._reason is not None:
                        raise KeyboardInterrupt
                    time.sleep(PAUSE)
            return [json.loads(self._store.get(k)) for k in keys]
        except RuntimeError as e:
            raise self._lost(e) from None

    def begin_sums(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        """Starts one all-reduce a tensor."""
        import torch.distributed as dist

        try:
            return [dist.all_reduce(t, async_op=True) for t in tensors]
        except RuntimeError as e:
            raise self._lost(e) from None

    def finish_sums(self, sums: Sequence[Any], doing: str) -> None:
        """Waits for them."""
        with self.blocked(doing):
            try:
                for work in sums:
                    work.wait()
            except RuntimeError as e:
                raise self._lost(e) from None

    def _lost(self, error: RuntimeError) -> BaseException:
        """The exception for a collective that broke: the interruption that a failed rank causes, or the failure itself."""
        if self.await_reason():
            return KeyboardInterrupt()
        return EngineError(f"the ranks have lost one another: {(str(error).splitlines() or ['no reason'])[0][:300]}")

    @contextlib.contextmanager
    def blocked(self, doing: str) -> Iterator[None]:
        """Counts a collective, and marks that this rank waits in it."""
        self.doing = doing
        self._collectives += 1
        self._blocked = (time.monotonic(), self._collectives, doing)
        try:
            yield
        finally:
            self._blocked = None

    # why the run is over

    def await_reason(self) -> bool:
        """Waits until the run is known to be over; False if nobody says so for as long as a rank may be silent."""
        deadline = time.monotonic() + SILENT_SECONDS + 5 * BEAT_SECONDS
        while self._reason is None and time.monotonic() < deadline:
            time.sleep(PAUSE)
        return self._reason is not None

    def end(self, rank: int, exit_code: int, message: str) -> Reason:
        """Says that the run is over because of a rank, unless that was said before; returns the reason that counts."""
        if self._reason is not None:
            return self._reason
        mine = json.dumps([rank, self.rank, exit_code, message])
        try:
            self._reason = Reason(*json.loads(self._store.compare_set("ended", "", mine)))
        except RuntimeError:  # the store is gone: with it, its rank or the launcher
            self._reason = Reason(*json.loads(mine))
        return self._reason

    def leave(self, stopped: bool = False) -> None:
        """Says that this rank has nothing more to do. `stopped`: stays until the first rank has stored its state."""
        self._left = True
        with contextlib.suppress(RuntimeError):
            self._store.set(f"left/{self.rank}", "1")
            # the store may be in the first rank's process: the others need it until they have left
            awaited = range(1, self.size) if self.rank == 0 else [0] if stopped else []
            deadline = time.monotonic() + (COLLECTIVE_SECONDS if stopped and self.rank else GRACE_SECONDS)
            while time.monotonic() < deadline and any(self._works(r) for r in awaited):
                time.sleep(PAUSE)

    # the thread that watches

    def _watch(self) -> None:
        heard = {r: ("{}", time.monotonic()) for r in range(self.size) if r != self.rank}
        last_word = 0.0
        while self._reason is None and not self._left:
            try:
                for rank in heard:
                    self._who(rank)
                for rank, beat in self._beat(list(heard)).items():
                    heard[rank] = heard[rank] if heard[rank][0] == beat else (beat, time.monotonic())
                for rank, (beat, last) in heard.items():
                    self._require_life(rank, json.loads(beat), time.monotonic() - last)
                last_word = self._say_whom({r: json.loads(beat) for r, (beat, _) in heard.items()}, last_word)
            except RuntimeError:
                if not self._left:
                    self._end_without_store()
            time.sleep(BEAT_SECONDS)
        if self._reason is not None and (self._reason.found_by, self._reason.rank) != (self.rank, self.rank):
            self._wake(self._reason)

    def _beat(self, others: list[int]) -> dict[int, str]:
        """Tells the others that this rank lives and what it does; returns what they last told."""
        mine = {"at": time.time(), "doing": self.doing, "collective": self._collectives}
        self._store.set(f"beat/{self.rank}", json.dumps(mine))
        if self._reason is None and self._store.check(["ended"]):
            self._reason = Reason(*json.loads(self._store.get("ended")))
        keys = [f"beat/{r}" for r in others]
        if not self._store.check(keys):
            return {}
        return {r: beat.decode() for r, beat in zip(others, self._store.multi_get(keys), strict=True)}

    def _has_left(self) -> bool:
        return self._left

    def look_for_dead(self) -> None:
        """Ends the run because of a rank whose process is gone, if there is one and nothing has ended the run before."""
        try:
            self._beat([])
            for rank in range(self.size):
                self._require_life(rank, {}, 0.0)
        except RuntimeError:
            self._end_without_store()

    def _end_without_store(self) -> None:
        """The store is in the first rank's process, or in that of torchrun on its host."""
        # sockets are closed before the process that had them is gone
        deadline = time.monotonic() + DYING_SECONDS
        while 0 in self._whos and self._lives(0) and time.monotonic() < deadline:
            time.sleep(PAUSE)
        if 0 in self._whos and not self._lives(0):
            self._end_dead(0, "has died", {})
        else:
            self.end(0, 1, "the launcher's store has gone: torchrun, or the host of rank 0, has ended")

    def _works(self, rank: int) -> bool:
        """Whether a rank has neither left nor, as far as that can be seen from here, died."""
        return not self._store.check([f"left/{rank}"]) and self._lives(rank)

    def _require_life(self, rank: int, beat: dict[str, Any], silent: float) -> None:
        """Ends the run if a rank has died, or has shown no sign of life for too long, and has not left."""
        lives = self._lives(rank)
        if self._reason is not None or (lives and silent < SILENT_SECONDS) or self._store.check([f"left/{rank}"]):
            return
        if not beat and self._store.check([f"beat/{rank}"]):
            beat = json.loads(self._store.get(f"beat/{rank}"))
        self._end_dead(rank, f"has shown no sign of life for {silent:.0f} s" if lives else "has died", beat)

    def _end_dead(self, rank: int, state: str, beat: dict[str, Any]) -> None:
        at = f"; it was {beat['doing']}" if "doing" in beat else ""
        who = self._who(rank)
        self.end(rank, 1, f"rank {rank} of {self.size}, process {who['pid']} of {who['host']}, {state}{at}")

    def _who(self, rank: int) -> dict[str, Any]:
        if rank not in self._whos:
            self._whos[rank] = json.loads(self._store.get(f"who/{rank}"))
        return self._whos[rank]

    def _lives(self, rank: int) -> bool:
        """Whether a rank's process exists, as far as that can be seen from this host."""
        who = self._who(rank)
        if who["host"] != self._whos[self.rank]["host"]:
            return True
        try:
            os.kill(who["pid"], 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return not _is_zombie(who["pid"])

    def _say_whom(self, beats: dict[int, dict[str, Any]], last_word: float) -> float:
        """Names the rank that is waited for in a collective, after a while and then every minute."""
        blocked, now = self._blocked, time.monotonic()
        if blocked is None or now - blocked[0] < SAY_SECONDS or now - last_word < 2 * SAY_SECONDS:
            return last_word
        behind = [r for r, b in beats.items() if b.get("collective", 0) < blocked[1]]
        # the first rank works alone at times, planning or writing: that is no news but in a step
        if not behind or (self.rank and (0 not in behind or not blocked[2].startswith(IN_STEP))):
            return last_word
        rank, waited = min(behind), now - blocked[0]
        doing = beats[rank].get("doing", "starting")
        print(f"waiting for rank {rank} ({self._who(rank)['host']}) for {waited:.0f} s; it is {doing}", file=sys.stderr, flush=True)
        return now

    def _wake(self, reason: Reason) -> None:
        """Interrupts the program because another rank ended the run; ends the process if it does not come to its end."""
        if not self._has_left():
            interrupts.wake()
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(PAUSE)
            if self._has_left():
                return
            if self.patient:
                deadline = time.monotonic() + GRACE_SECONDS
        if reason.found_by == self.rank:
            print(f"error: {reason.message}", file=sys.stderr, flush=True)
        os._exit(reason.exit_code)


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False
