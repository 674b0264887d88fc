"""Shows a run's events while they happen: bars on a terminal, plain lines otherwise. Writes to standard error."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from qrecipe import interrupts
from qrecipe.errors import listed
from qrecipe.inputs.documents.verdicts import Verdict
from qrecipe.report.tables import Printer, duration, size, verdict_table
from qrecipe.report.terminal import give_up, wrapped

PLAIN_WIDTH = 160
PLAIN_SECONDS = 5.0
"""Seconds between two lines of progress where there is no terminal."""
SHOWN_ROWS = 8
SHOWN_DIFFERENCES = 4

Fields = dict[str, Any]


LINES: dict[str, Callable[[Fields], str]] = {
    "not_locked": lambda e: f"warning: files cannot be locked in {e['path']}: make sure that no other run works there",
    "put_aside": lambda e: f"the run before is kept in {e['path']}",
    "disk": lambda e: "disk: " + "; ".join(f"{n['what']} {size(n['bytes'])}" for n in e["needs"]),
    "data_warning": lambda e: f"warning[{e['code']}]: {e['message']} ({e['file']}:{e['line']})",
    "languages": lambda e: "language rows: " + ", ".join(f"{k} {row}" for k, row in e["rows"].items()),
    "stage_started": lambda e: f"stage {e['stage']} ({e['objective']}): {e['parameters']:,} parameters",
    "filtered": lambda e: (
        f"data {e['dataset']}: the filter drops {e['dropped']:,} of {e['rows']:,} rows ("
        + ", ".join(f"{k} {n:,}" for k, n in e["reasons"].items())
        + ")"
    ),
    "measuring": lambda e: f"measuring {', '.join(e['metrics'])} on {e['dataset']} ({e['where']})",
}
"""Events that are one line."""
STAGE_LINES: dict[str, Callable[[Fields], str]] = {
    "remembered": lambda e: f"what its frozen layers make of each row is kept ({size(e['bytes'])}) and not computed again",
    "recomputing": lambda e: (
        f"would take {size(e['peak'])} of {size(e['room'])}; layers are computed again in the backward pass, which takes longer"
    ),
    "stage_reused": lambda e: "unchanged since it was trained, reused",
    "stage_skipped": lambda e: "skipped, an earlier stage was good enough",
    "fitted": lambda e: f"the temporary map is fitted, loss {e['loss']:.3f}",
    "resumed": lambda e: f"goes on after step {e['step']}",
    "checkpoint_damaged": lambda e: f"the checkpoint {e['path']} does not verify ({e['reason']}); the one before it is used",
    "step_skipped": lambda e: f"step {e['step']} skipped, its {e['why']} is not finite; rows {listed(e['rows'], SHOWN_ROWS)}",
    "loss_spike": lambda e: (
        f"the loss leaps to {e['loss']:.3f} at step {e['step']} (was {e['usual']:.3f}); rows {listed(e['rows'], SHOWN_ROWS)}"
    ),
    "memory_split": lambda e: f"out of GPU memory; micro-batches are split to {e['fits']} at once, the result stays the same",
    "stopped_early": lambda e: (
        f"stopped after step {e['step']}, held out it was best at step {e['best_step']}"
        + (
            f"; since then the reward rose from {e['reward_before']:.3f} to {e['reward_since']:.3f}: the ear that rewards is pleased, "
            "and the one that judges is not"
            if e.get("reward_since", 0.0) > e.get("reward_before", 0.0)
            else ""
        )
    ),
    "compiling": lambda e: (
        "the first step compiles and takes longer" if e["trouble"] is None else f"nothing is compiled, steps take longer: {e['trouble']}"
    ),
}
"""Events that are one line after the name of their stage."""
NOTES: dict[str, Callable[[Fields], str]] = {
    "checkpoint": lambda e: f"checkpoint of step {e['step']}",
    "reward": lambda e: (
        f"step {e['step']}: reward {e['reward']:.3f}, spread {e['spread']:.3f}"
        + (f"; {e['dropped']} of {e['groups']} sentences are worth the same each time" if e["dropped"] else "")
    ),
    "select": lambda e: f"step {e['step']}: held out {e['value']:.4f}" + (", best so far" if e["best"] else ""),
}
"""Events that are a line above a bar."""
BARS: dict[str, Callable[[Fields], tuple[str, int, int, str]]] = {
    "encoding": lambda e: (f"encoding {e['dataset']}", e["done"], e["of"], ""),
    "remembering": lambda e: (f"{e['stage']}: what the frozen layers make of each row", e["done"], e["of"], ""),
    "fitting": lambda e: (f"{e['stage']}: fitting the temporary map", e["step"], e["of"], f"loss {e['loss']:.3f}"),
    "step": lambda e: (f"{e['stage']}: training", e["step"], e["of"], ", ".join(f"{k} {v:.3f}" for k, v in e["losses"].items())),
    "speaking": lambda e: (e["what"], e["done"], e["of"], ""),
    "listening": lambda e: (e["what"], e["done"], e["of"], ""),
}
"""Events that move a bar: its title, how far, of how much, and a detail."""


class _Shrinking(TextColumn):
    """A text of a bar that is cut where the terminal is narrow, so that counts and times are not."""

    def __init__(self, text: str) -> None:
        super().__init__(text, table_column=Column(no_wrap=False))

    def render(self, task: Task) -> Text:
        """One line, with an ellipsis where it is cut."""
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class RunConsole:
    """A listener for `qrecipe.run.engine.run`. Use as a context manager.

    A log that cannot be written, on a full disk for example, ends nothing: `events.jsonl` has all that is shown. When
    its reader is gone (a closed pipe, a terminal that went away), that means what SIGHUP means.
    """

    def __init__(self, console: Console | None = None, silent: bool = False) -> None:
        """`silent`: shows nothing, for a rank that is not the first."""
        self.console = console or Printer(stderr=True, width=None if sys.stderr.isatty() else PLAIN_WIDTH, quiet=silent)
        self._progress: Progress | None = None
        self._task: Any = None
        self._what = ""
        self._last = 0.0
        self._verdicts: list[Fields] = []
        self._where = ""
        self._skipped = 0
        """Rows of the last dataset that were left out."""

    def __enter__(self) -> RunConsole:
        return self

    def __exit__(self, *args: object) -> None:
        with self._lasting(stops=False):
            self._end()

    def __call__(self, event: Fields) -> None:
        """Shows one event."""
        with self._lasting(stops=event["event"] != "run_failed"):
            self._show(event)

    def _show(self, event: Fields) -> None:
        kind = event["event"]
        if kind in BARS:
            self._bar(*BARS[kind](event))
        elif kind in LINES:
            self.say(LINES[kind](event))
        elif kind in STAGE_LINES:
            self.say(f"stage {event['stage']}: {STAGE_LINES[kind](event)}")
        elif kind in NOTES:
            self._note(NOTES[kind](event))
        else:
            getattr(self, f"_on_{kind}", self._on_other)(event)

    def say(self, text: str) -> None:
        """A sentence."""
        with self._lasting():
            self._end()
            self._line(text)

    def show(self, table: Table) -> None:
        """A table."""
        with self._lasting():
            self._end()
            self.console.print(table)

    def command(self, label: str, command: str) -> None:
        """A command to copy: on a line of its own, which only the terminal breaks."""
        with self._lasting():
            self._end()
            self.console.print(escape(f"{label}: {command}"), soft_wrap=True)

    @contextmanager
    def _lasting(self, stops: bool = True) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            give_up(self.console.file)
            self._end()
            if stops and e.errno in (errno.EPIPE, errno.EIO) and not interrupts.came():
                interrupts.stop()

    def _line(self, text: str) -> None:
        width = self.console.width if self.console.is_terminal else None
        self.console.print(escape(wrapped(text, width, indent=2)), soft_wrap=True)

    def counting(self, what: str, done: int) -> None:
        """Progress of work whose end is not known: a line now and then."""
        now = time.monotonic()
        self._last = self._last or now
        if now - self._last >= PLAIN_SECONDS:
            self._last = now
            self.say(f"{what}: {done:,}")

    def _bar(self, what: str, done: int, of: int, detail: str) -> None:
        if self.console.is_terminal:
            if self._progress is None or self._what != what:
                self._end()
                columns = (
                    _Shrinking("{task.description}"),
                    BarColumn(),
                    TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                    _Shrinking("{task.fields[detail]}"),
                )
                self._progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console, transient=True)
                self._progress.start()
                self._task = self._progress.add_task(escape(what), total=of, detail="")
                self._what = what
            self._progress.update(self._task, completed=done, total=of, detail=escape(detail))
            return
        now = time.monotonic()
        if what != self._what or now - self._last >= PLAIN_SECONDS or done == of:
            self._what, self._last = what, now
            self._line(f"{what}: {done}/{of} {detail}".rstrip())

    def _note(self, text: str) -> None:
        """A line above the bar, which stays; nothing where there is no bar."""
        if self._progress is not None:
            self._line(f"  {text}")

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        self._what = ""

    def _on_run_started(self, e: Fields) -> None:
        self.say(f"running on {e['device']}")
        if e["lock"] is None:
            self.say("warning: the lock could not be written beside the recipe; it is in the bundle")

    def _on_stage_standing(self, e: Fields) -> None:
        if e["state"] in ("resumes", "changed"):
            self.say(f"stage {e['stage']}: {e['text']}")

    def _on_lock_changed(self, e: Fields) -> None:
        shown = e["differences"][:SHOWN_DIFFERENCES]
        more = len(e["differences"]) - len(shown)
        self.say(f"{e['path']} changes: " + "; ".join(shown) + (f"; and {more} more" if more else ""))

    def _on_row_skipped(self, e: Fields) -> None:
        self._skipped += 1
        if self._skipped <= SHOWN_ROWS:
            self.say(f"  skipped {e['file']}:{e['line']}: {e['message']}")
        elif self._skipped == SHOWN_ROWS + 1:
            self.say("  the others are in events.jsonl of the run's folder")

    def _on_dataset(self, e: Fields) -> None:
        self._skipped = 0
        minutes = f", {e['minutes']:.1f} minutes" if e["minutes"] is not None else ""
        skipped = f", {e['skipped']} skipped" if e["skipped"] else ""
        self.say(f"data {e['dataset']}: {e['rows']:,} row{'s' if e['rows'] != 1 else ''}{minutes}{skipped}")

    def _on_taught(self, e: Fields) -> None:
        lost = ", ".join(f"{n} {why}" for why, n in e["dropped"].items() if n)
        dropped = f"; dropped: {lost}" if lost else ""
        dropped += f"; misunderstood letters {e['cer']:.1%}" if "cer" in e else ""
        self.say(
            f"the base spoke {e['dataset']} as {e['spoken_as']}: {e['kept']} of {e['sentences']} sentences, {e['minutes']:.1f} minutes{dropped}"
        )

    def _on_self_check(self, e: Fields) -> None:
        detail = "; ".join(e["losses"])
        if e["verdict"] == "skipped":
            self.say(f"self-check skipped: {e['reason']}" + (f" ({detail})" if detail else ""))
        else:
            self.say(f"self-check {e['verdict']}: {detail}")

    def _on_gate_tried(self, e: Fields) -> None:
        if e["tried"]:
            skipped = f", so it is skipped: {e['reason']}" if e["reason"] else ""
            self.say(f"tried {e['gate']}: {'tells' if e['sound'] else 'cannot tell'} good recordings from spoilt ones{skipped}")

    def _on_verdict(self, e: Fields) -> None:
        if e["where"] != self._where:
            self._flush_verdicts()
            self._where = e["where"]
        self._verdicts.append(e)

    def _flush_verdicts(self) -> None:
        if self._verdicts:
            self._end()
            self.console.print(verdict_table(self._where, self._verdicts))
        self._verdicts, self._where = [], ""

    def _on_stage_finished(self, e: Fields) -> None:
        self._flush_verdicts()
        survives = e["survives_rounding"]
        note = f"; {survives:.1%} of what changed survives rounding to the base's number format" if survives < 0.9995 else ""
        self.say(f"stage {e['stage']}: {e['status']}{note}")

    def _on_bundle(self, e: Fields) -> None:
        self._flush_verdicts()
        self.say(f"bundle written: {e['path']}")

    def _on_best_language(self, e: Fields) -> None:
        tried = ", ".join(f"{name} {value:.3g}" for name, value in sorted(e["tried"].items(), key=lambda t: t[0] != e["language"]))
        self.say(f"the base speaks {e['dataset']} best as {e['language']}, by {e['metric']} of {e['prompts']} sentences: {tried}")

    def _on_run_finished(self, e: Fields) -> None:
        self._flush_verdicts()
        self._end()
        seconds = e.get("seconds") or {}
        longest = [f"{name} {duration(s)}" for name, s in seconds.items() if s >= max(1.0, 0.02 * sum(seconds.values()))]
        if longest:
            self.say(f"where the time went: {', '.join(longest)}")
        for verdict in e.get("accept", []):
            if (line := Verdict.model_validate(verdict, strict=False).against_best()) is not None:
                self.say(line)

    def _on_run_failed(self, e: Fields) -> None:
        """Shows what was judged before; the command line prints the error itself."""
        self._on_run_finished(e)

    def _on_other(self, e: Fields) -> None:
        """An event that this console does not know is shown as it is."""
        fields = ", ".join(f"{k} {v}" for k, v in e.items() if k not in ("event", "time"))
        self.say(f"{e['event']}: {fields}")
