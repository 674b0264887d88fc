"""Runs a study: every run through the engine, one after the other, each result a row of a CSV.

    python tools/study/run.py studies/malay.yaml                        # all of it
    python tools/study/run.py studies/malay.yaml --limit 9m             # stops in time; the same command goes on
    python tools/study/run.py studies/malay.yaml --dry-run              # what there is to do
    python tools/study/run.py studies/malay.yaml --only "replay=self" --seeds 0

What there is to do is said before anything starts. A run whose row is there for the same plan is not run again, and one
that was stopped goes on at its last checkpoint. A run's recipe is kept as RUNS/STUDY/ID.yaml, so that it can be run,
planned and compared by itself: `qrecipe run RUNS/STUDY/ID.yaml`. Weights and samples of a run are deleted once its row is
written (`--keep` keeps them).
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import study as studies

from qrecipe.errors import QRecipeError, UserError
from qrecipe.files import FileHashes, write_text
from qrecipe.plan import make_plan
from qrecipe.plan.documents import Verdict
from qrecipe.recipe import load as load_recipe
from qrecipe.recipe.writer import write_yaml
from qrecipe.report.problems import as_text

ROOT = Path(__file__).resolve().parents[2]
ABOUT = ["run", "seed", "plan", "device", "seconds"]
NUMBERS = ("value", "low", "high", "prompts")


@dataclass(frozen=True)
class Todo:
    """A run that has no row yet."""

    run: studies.Run
    file: Path
    plan: str


def columns(accept: list[Any]) -> list[str]:
    """Columns of the CSV: what a run is, then every metric with its interval over prompts."""
    return [*ABOUT, *(f"{g.metric}({g.data}) {n}" for g in accept for n in NUMBERS)]


def rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV; none if it is not there."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def append(path: Path, fields: list[str], row: dict[str, object]) -> None:
    """Adds a row; the file is replaced as a whole, so that it is never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text("utf-8") if path.is_file() and path.stat().st_size else ",".join(fields) + "\n"
    if lines.splitlines()[0].split(",") != fields:
        raise SystemExit(f"{path} has other columns than this study: put it aside")
    write_text(path, lines + ",".join(_cell(row.get(name, "")) for name in fields) + "\n")


def _cell(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return '"' + text.replace('"', '""') + '"' if re.search('[",\n]', text) else text


def todo(
    study: studies.Study, folder: Path, hashes: FileHashes, seeds: list[int] | None, only: str | None
) -> tuple[list[Todo], int, list[str]]:
    """Runs without a row, how many have one, and the columns."""
    known = {(r["run"], r["seed"], r["plan"]) for r in rows(study.results)}
    found, done, fields = [], 0, list(ABOUT)
    for run in study.runs():
        if (seeds is not None and run.seed not in seeds) or (only is not None and not re.search(only, run.id)):
            continue
        content = study.recipe_of(run, folder)
        file = folder / f"{content['name']}.yaml"
        write_text(file, write_yaml(content))
        planned = make_plan(load_recipe(file), hashes)
        if planned.errors or not planned.plan.complete:
            raise UserError(planned.problems)
        fields = columns(planned.loaded.recipe.accept)
        if (run.id, str(run.seed), planned.plan.hash) in known:
            done += 1
        else:
            found.append(Todo(run, file, planned.plan.hash))
    return found, done, fields


def seconds_of(text: str) -> float:
    """`9m`, `90s`, `1h` or seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"`{text}` is no duration such as 9m")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def numbers(accept: list[Verdict], recipe_accept: list[Any]) -> dict[str, object]:
    """What the last gates measured, by column."""
    found: dict[str, object] = {}
    for verdict, gate in zip(accept, recipe_accept, strict=True):
        values = (verdict.value, verdict.low, verdict.high, verdict.prompts)
        found.update({f"{gate.metric}({gate.data}) {name}": v for name, v in zip(NUMBERS, values, strict=True) if v is not None})
    return found


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line: 0 when every run has its row, 3 when the limit came first."""
    parser = argparse.ArgumentParser(description="Run a study.")
    parser.add_argument("study", type=Path)
    parser.add_argument("--seeds", type=lambda t: [int(s) for s in t.split(",")], help="only these, such as 0,1")
    parser.add_argument("--only", help="only runs whose name holds this (a regular expression)")
    parser.add_argument("--limit", type=seconds_of, help="stop after this long, such as 9m; a run that is stopped goes on next time")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "studies", help="where runs are kept while they last")
    parser.add_argument("--dry-run", action="store_true", help="say what there is to do")
    parser.add_argument("--keep", action="store_true", help="keep weights and samples of every run")
    given = parser.parse_args(arguments)
    try:
        return _go(given)
    except UserError as e:
        print(as_text(e.problems), file=sys.stderr)
        print("data that is missing: python tools/study/data.py LANGUAGE", file=sys.stderr)
        return 2
    except QRecipeError as e:
        print(f"error: {e.message}", file=sys.stderr)
        return 1


def _go(given: argparse.Namespace) -> int:
    began = time.monotonic()
    study = studies.load(given.study)
    folder = given.runs / study.name
    folder.mkdir(parents=True, exist_ok=True)
    print(f"study {study.name}: {len(study.points)} runs with {len(study.seeds)} seeds, {len(study.runs())} in all", flush=True)
    left, done, fields = todo(study, folder, FileHashes(), given.seeds, given.only)
    took = [float(r["seconds"]) for r in rows(study.results) if r.get("seconds")]
    each = mean(took) if took else None
    guess = f", about {len(left) * each / 60:.0f} minutes by the {len(took)} rows that are there" if each is not None else ""
    print(f"of {len(left) + done} that are asked for, {done} are done and {len(left)} to do{guess}", flush=True)
    if given.dry_run:
        for item in left:
            print(f"  {item.run.id} (seed {item.run.seed}): {item.file}")
        return 0
    if given.limit is not None:
        signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, max(1.0, given.limit - (time.monotonic() - began)))
    try:
        for number, item in enumerate(left, start=1):
            print(f"{number}/{len(left)} {item.run.id} (seed {item.run.seed})", flush=True)
            append(study.results, fields, one(item, folder, given.keep))
    except KeyboardInterrupt:
        print("stopped; the same command goes on", flush=True)
        return 3
    return 0


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def one(item: Todo, folder: Path, keep: bool) -> dict[str, object]:
    """Carries out a run and gives its row."""
    from qrecipe.report.console import RunConsole
    from qrecipe.run.engine import run

    loaded = load_recipe(item.file)
    bundles, heard = folder / "bundles", folder / "heard.jsonl"
    own = folder / loaded.recipe.name / heard.name
    if heard.is_file() and not own.is_file():  # what a recogniser heard in the recordings is the same for every run
        own.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(heard, own)
    device = ""
    began = time.monotonic()
    with RunConsole() as console:

        def listen(event: dict[str, Any]) -> None:
            nonlocal device
            if event["event"] == "run_started":
                device = event["device"]
            console(event)

        outcome = run(loaded, runs=folder, bundles=bundles, listener=listen)
    seconds = _spent(folder / loaded.recipe.name, time.monotonic() - began)
    row = {"run": item.run.id, "seed": item.run.seed, "plan": item.plan, "device": device, "seconds": round(seconds, 1)}
    if own.is_file():
        shutil.copyfile(own, heard)
    if not keep:
        shutil.rmtree(folder / loaded.recipe.name, ignore_errors=True)
        if outcome.bundle is not None:
            shutil.rmtree(outcome.bundle, ignore_errors=True)
    return {**row, **numbers(outcome.accept, loaded.recipe.accept)}


def _spent(folder: Path, last: float) -> float:
    """Seconds of a run over all calls that it took, by its events; `last` is this call's."""
    import json

    try:
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return last
    starts = [i for i, e in enumerate(events) if e["event"] == "run_started"]
    ends = [*starts[1:], len(events)]
    earlier = [events[end - 1]["time"] - events[start]["time"] for start, end in zip(starts[:-1], ends[:-1], strict=True)]
    return sum(earlier) + last


if __name__ == "__main__":
    sys.exit(main())
