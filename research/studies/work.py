"""Carries out one run of a study; as a program, run after run in a process of its own, for `run.py --jobs`.

A run's recipe is kept as FOLDER/ID.yaml and its run folder is FOLDER/ID. What is the same for every run of a seed lies in
FOLDER/shared, and the run folders link to it: what the base said, what was measured, what a recogniser heard.

The program reads an item a line from standard input and writes messages, a line of JSON each, to standard output:
`event` (what the run tells), then `row` or `failed`. SIGTERM stops it with everything kept; Ctrl-C is its parent's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qrecipe.errors import QRecipeError
from qrecipe.inputs.documents.verdicts import Verdict
from qrecipe.plan import complete_plan
from qrecipe.recipe import load as load_recipe

NUMBERS = ("value", "low", "high", "prompts")
Row = dict[str, Any]
Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Item:
    """A run that is to be carried out."""

    study: str
    run: str
    """What differs from the centre."""
    seed: int
    file: str
    """Its recipe."""
    plan: str
    """Hash of its plan."""
    start: str
    """Fingerprint of the base with the new rows at their init."""

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.study}: {self.run} (seed {self.seed})"


def column(gate: Any) -> str:
    """What a gate measures, as a column's name begins."""
    return f"{gate.metric}({gate.data})" + (f" over {gate.baseline}" if gate.baseline is not None else "")


def carry_out(item: Item, listener: Listener, keep: bool = False) -> Row:
    """Carries out a run, or the rest of one that was stopped, and gives its row. Raises what `qrecipe.run.engine.run` raises."""
    from qrecipe.run.engine import RunOptions, run

    plan = complete_plan(load_recipe(Path(item.file)))
    folder = Path(item.file).parent
    own = folder / plan.plan.recipe
    _share(own, folder / "shared", item.start)
    device = ""

    def listen(event: dict[str, Any]) -> None:
        nonlocal device
        if event["event"] == "run_started":
            device = event["device"]
        listener(event)

    began = time.monotonic()
    outcome = run(plan, RunOptions(folder, folder / "bundles"), listen)
    seconds = _spent(own, time.monotonic() - began)
    if not keep:
        shutil.rmtree(own, ignore_errors=True)
        if outcome.bundle is not None:
            shutil.rmtree(outcome.bundle, ignore_errors=True)
    row = {"run": item.run, "seed": item.seed, "plan": item.plan, "device": device, "seconds": round(seconds, 1)}
    return {**row, **_numbers(outcome.accept, plan.loaded.recipe.accept)}


def _share(own: Path, shared: Path, start: str) -> None:
    """Lets a run's folder share what is the same for other runs. Names there hold the content of what they depend on."""
    (own / "stages").mkdir(parents=True, exist_ok=True)
    for name in ("values", f"stages/{start[:16]}"):
        (shared / name).mkdir(parents=True, exist_ok=True)
    (shared / "heard.jsonl").touch()
    for name in ("heard.jsonl", "values", f"stages/{start[:16]}"):
        link = own / name
        if not link.exists() and not link.is_symlink():
            link.symlink_to(os.path.relpath(shared / name, link.parent))


def _numbers(accept: list[Verdict], gates: list[Any]) -> Row:
    """What the last gates measured, by column."""
    found: Row = {}
    for verdict, gate in zip(accept, gates, strict=True):
        values = (verdict.value, verdict.low, verdict.high, verdict.prompts)
        found.update({f"{column(gate)} {name}": v for name, v in zip(NUMBERS, values, strict=True) if v is not None})
    return found


def _spent(folder: Path, last: float) -> float:
    """Seconds of a run over all calls that it took, by its events; `last` is this call's."""
    try:
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return last
    starts = [i for i, e in enumerate(events) if e["event"] == "run_started"]
    ends = [*starts[1:], len(events)]
    earlier = [events[end - 1]["time"] - events[start]["time"] for start, end in zip(starts[:-1], ends[:-1], strict=True)]
    return sum(earlier) + last


def main() -> int:
    """Works until there is nothing more on standard input: 0; 130 if it was stopped."""
    from qrecipe import interrupts

    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no message

    def tell(**message: Any) -> None:
        print(json.dumps(message), file=told, flush=True)

    interrupts.install()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        from qrecipe.model.stock import stock

        stock()  # imports take seconds, and nobody waits for them yet
        for line in sys.stdin:
            asked = json.loads(line)
            item = Item(**asked["item"])
            try:
                tell(row=carry_out(item, lambda event: tell(event=event), asked["keep"]))
            except QRecipeError as e:
                tell(failed=e.message)
            except (KeyboardInterrupt, BrokenPipeError):
                raise
            except Exception as e:
                traceback.print_exc()
                tell(failed=f"{type(e).__name__}: {e}")
    except (KeyboardInterrupt, BrokenPipeError):  # nobody reads any more: the parent has ended
        os._exit(130)  # what is kept is on disk, and closing a GPU takes time
    return 0


def asked(item: Item, keep: bool) -> str:
    """The line that asks a worker for a run."""
    return json.dumps({"item": asdict(item), "keep": keep}) + "\n"


if __name__ == "__main__":
    sys.exit(main())
