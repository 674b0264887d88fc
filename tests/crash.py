"""Kills runs, hundreds of times, and checks that what they end in is the bundle of an undisturbed run, byte for byte.

    python -m tests.crash --kills 500 --seed 1

Every place gets a recipe of two stages and is run until it finishes; on the way its runs are killed at random times, at
random renames, syncs and events, told to stop, or told that the disk is full, and now and then the newest checkpoint
is damaged as well. `make crash` calls this.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from qrecipe.train.checkpoints import newest_first
from tests.support.crash import Ended, Nursery
from tests.support.lasting import Lasting, hashes, undisturbed


def disturb(lasting: Lasting, place: Path, drawn: random.Random) -> tuple[str, Ended]:
    """One run that is disturbed in a random way: (how, how it ended)."""
    how = drawn.choice(["time", "time", "rename", "sync", "event", "signal", "full"])
    if how == "time":
        return how, lasting.run(place, kill_after=drawn.uniform(0.02, 1.0) * lasting.seconds)
    if how == "signal":
        return how, lasting.run(place, term_after=drawn.uniform(0.02, 1.0) * lasting.seconds)
    if how == "event":
        return how, lasting.run(place, fault=f"event:*:{drawn.randint(1, 60)} kill")
    if how == "rename":
        return how, lasting.run(place, fault=f"{drawn.choice(['before', 'after'])}:*:{drawn.randint(1, 60)} kill")
    return how, lasting.run(place, fault=f"sync:*:{drawn.randint(1, 160)} {'full' if how == 'full' else 'kill'}")


def damage(place: Path, drawn: random.Random) -> bool:
    """Truncates a file of the newest checkpoint, or flips one of its bits."""
    found = [c for s in sorted((place / "runs" / "tiny" / "stages").glob("*")) for c in newest_first(s / "checkpoints")[:1]]
    if not found:
        return False
    file = drawn.choice(sorted(drawn.choice(found).iterdir()))
    content = bytearray(file.read_bytes())
    if drawn.random() < 0.5:
        content = content[: drawn.randrange(len(content))]
    else:
        content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
    file.write_bytes(content)
    return True


def main() -> int:
    """Prints what was done; exit code 1 if a bundle differs or a run ends in any other way than it should."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=500)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--at-most", type=int, default=12, help="disturbances of one place")
    given = options.parse_args()
    began, drawn = time.monotonic(), random.Random(given.seed)
    folder = Path(tempfile.mkdtemp(prefix="qrecipe-crash-"))
    os.environ.setdefault("QRECIPE_CACHE", str(folder / "cache"))
    nursery = Nursery()
    lasting = undisturbed(folder / "whole", nursery)
    ends: Counter[str] = Counter()
    damaged = places = wrong = 0
    while sum(n for k, n in ends.items() if not k.endswith(" 0")) < given.kills:
        places += 1
        place = lasting.place(f"place-{places}")
        for _ in range(drawn.randint(1, given.at_most)):
            how, ended = disturb(lasting, place, drawn)
            expected = {"signal": (130, 0), "full": (2, 0)}.get(how, (-9, 0))
            ends[f"{how} {ended.code}"] += 1
            if ended.code not in expected:
                wrong += 1
                print(f"{place}: {how} ended with {ended.code}\n{ended.err}", flush=True)
            if ended.code == 0:
                break
            if drawn.random() < 0.15:
                damaged += damage(place, drawn)
        last = lasting.run(place)
        if last.code != 0 or hashes(place / "bundles" / "tiny-0.1.0") != lasting.expected:
            wrong += 1
            print(f"{place}: the bundle differs\n{last.err}", flush=True)
        else:
            shutil.rmtree(place)
        if places % 10 == 0:
            print(f"{places} places, {sum(ends.values())} disturbed runs, {wrong} wrong, {time.monotonic() - began:.0f} s", flush=True)
    nursery.close()
    print(f"{places} places, {sum(ends.values())} disturbed runs ({', '.join(f'{k}: {n}' for k, n in sorted(ends.items()))})")
    print(f"{damaged} damaged checkpoints, {wrong} wrong, {time.monotonic() - began:.0f} s")
    if not wrong:
        shutil.rmtree(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
