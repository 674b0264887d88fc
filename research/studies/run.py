"""Runs studies: every run through the engine, in worker processes, each result a row of a CSV.

    python research/studies/run.py research/studies/malay.yaml                        # all of it, one run after the other
    python research/studies/run.py research/studies/malay.yaml research/studies/turkish.yaml --jobs 10 --limit 9m
    python research/studies/run.py research/studies/malay.yaml --dry-run              # what there is to do
    python research/studies/run.py research/studies/malay.yaml --only "replay=self" --seeds 0

What there is to do is said before anything starts. A row is written as soon as its run ends. A run whose row is there for
the same plan is not run again, and one that was stopped (`--limit`, Ctrl-C) goes on at its last checkpoint. Processes share
the cache, and divide among them what the base says for several runs; on a machine with several GPUs they are spread over them.

A run's recipe is kept as RUNS/STUDY/ID.yaml, so that it can be run, planned and compared by itself: `qrecipe run
RUNS/STUDY/ID.yaml`. Weights and samples of a run are deleted once its row is written (`--keep` keeps them).
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pool
import study as studies
from work import NUMBERS, Item, Row, column

from qrecipe.errors import Place, Problem, QRecipeError, UserError
from qrecipe.files import write_text
from qrecipe.hashes import FileHashes
from qrecipe.plan import make_plan
from qrecipe.recipe import load as load_recipe
from qrecipe.report.problems import as_text
from qrecipe.source.writer import write_yaml

ROOT = Path(__file__).resolve().parents[2]
ABOUT = ["run", "seed", "plan", "device", "jobs", "seconds"]
MOST = 90.0
"""Seconds that a run is meant to take at most; what is said where no row is there to go by."""
GIVE_UP = 3
"""Runs that fail before any has its row: then it is not the runs."""


@dataclass
class Work:
    """A study with what there is to do."""

    study: studies.Study
    folder: Path
    fields: list[str]
    """Columns of its results."""
    left: list[Item]
    done: int
    """Runs that have their row."""


def columns(accept: list[Any]) -> list[str]:
    """Columns of the CSV: what a run is, then every metric with its interval over prompts."""
    return [*ABOUT, *(f"{column(g)} {n}" for g in accept for n in NUMBERS)]


def rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV; none if it is not there."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def append(path: Path, fields: list[str], row: Row) -> None:
    """Adds a row, in place of an older one of the same run and seed; the file is replaced as a whole, so that it is never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    this = (str(row["run"]), str(row["seed"]))
    kept = [r for r in rows(path) if (r["run"], r["seed"]) != this]
    lines = [fields, *([r[name] for name in fields] for r in kept), [row.get(name, "") for name in fields]]
    write_text(path, "".join(",".join(map(_cell, line)) + "\n" for line in lines))


def _cell(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return '"' + text.replace('"', '""') + '"' if re.search('[",\n]', text) else text


def find_work(study: studies.Study, folder: Path, hashes: FileHashes, seeds: list[int] | None, only: str | None) -> Work:
    """Writes the recipes of the runs that are asked for, and says which have no row. Raises `UserError` for what is wrong with them."""
    known = {(r["run"], r["seed"], r["plan"]) for r in rows(study.results)}
    work = Work(study, folder, list(ABOUT), [], 0)
    for run in study.runs():
        if (seeds is not None and run.seed not in seeds) or (only is not None and not re.search(only, run.id)):
            continue
        content = study.recipe_of(run, folder)
        file = folder / f"{content['name']}.yaml"
        write_text(file, write_yaml(content))
        planned = make_plan(load_recipe(file), hashes)
        plan = planned.plan
        start = plan.start.fingerprint
        if planned.errors or not plan.complete or start is None:
            raise UserError(planned.problems)
        work.fields = columns(planned.loaded.recipe.accept)
        if (run.id, str(run.seed), plan.hash) in known:
            work.done += 1
        else:
            work.left.append(Item(study.name, run.id, run.seed, str(file), plan.hash, start))
    hashes.save()
    asked = work.left or work.done
    if asked and study.results.is_file() and list(csv.reader(study.results.read_text("utf-8").splitlines()[:1])) != [work.fields]:
        message = "it has other columns than this study"
        raise UserError(Problem("QR070", message, Place(str(study.results)), "put it aside: rows of both would not go together"))
    return work


def seconds_of(text: str) -> float:
    """`9m`, `90s`, `1h` or seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"`{text}` is no duration such as 9m")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def jobs_of(text: str) -> int:
    """A number of processes."""
    if not text.isdigit() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"`{text}` is no number of processes from 1 to 256")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line: 0 when every run has its row, 1 when some failed, 2 for mistakes, 3 when it was stopped before."""
    parser = argparse.ArgumentParser(description="Run studies.")
    parser.add_argument("studies", type=Path, nargs="+", metavar="STUDY")
    parser.add_argument("--jobs", type=jobs_of, default=1, help="runs at a time, each in a process of its own (default 1)")
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
        print("data that is missing: python research/studies/synthetic.py LANGUAGE", file=sys.stderr)
        return 2
    except QRecipeError as e:
        print(f"error: {e.message}", file=sys.stderr)
        return 1


def _go(given: argparse.Namespace) -> int:
    began = time.monotonic()
    hashes = FileHashes()
    with ExitStack() as held:
        found = []
        for study in (studies.load(path) for path in given.studies):
            folder = (given.runs / study.name).resolve()
            held.enter_context(_held(folder))
            _say(f"study {study.name}: {len(study.points)} runs with {len(study.seeds)} seeds, {len(study.runs())} in all")
            found.append(find_work(study, folder, hashes, given.seeds, given.only))
        left = sorted((item for work in found for item in work.left), key=lambda item: item.seed)  # one pass over all, then the next
        done = sum(work.done for work in found)
        asked = f"of {len(left) + done} that are asked for, {done} are done and {len(left)} to do"
        _say(asked + _guess(found, len(left), given.jobs))
        if given.dry_run:
            for item in left:
                print(f"  {item.label}: {item.file}")
            return 0
        return _carry_out(left, found, given, began) if left else 0


def _carry_out(left: list[Item], found: list[Work], given: argparse.Namespace, began: float) -> int:
    by_name = {work.study.name: work for work in found}
    rows_made, failed = 0, []
    stop = pool.Stop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, stop)
    if given.limit is not None:
        signal.setitimer(signal.ITIMER_REAL, max(1.0, given.limit - (time.monotonic() - began)))
    for item, row in pool.carry_out(left, given.jobs, given.keep, given.runs / "logs", _say, stop):
        ended = rows_made + len(failed) + 1
        if isinstance(row, str):
            failed.append(item)
            _say(f"{ended}/{len(left)} {item.label} FAILED: {row}")
            if len(failed) >= GIVE_UP and not rows_made:
                break
            continue
        rows_made += 1
        work = by_name[item.study]
        append(work.study.results, work.fields, {**row, "jobs": given.jobs})
        shown = ", ".join(f"{f.removesuffix(' value')} {row[f]:.3f}" for f in work.fields if f.endswith(" value") and f in row)
        _say(f"{ended}/{len(left)} {item.label}, {row['seconds']:.0f} s: {shown}")
    if failed:
        _say(f"{len(failed)} failed: " + "; ".join(i.label for i in failed) + "; the same command tries them again")
        return 1
    if rows_made < len(left):
        _say(f"stopped with {rows_made} of {len(left)} done; the same command goes on")
        return 3
    return 0


def _guess(found: list[Work], left: int, jobs: int) -> str:
    """How long it will take."""
    took = [float(r["seconds"]) for w in found for r in rows(w.study.results) if r.get("seconds") and r.get("jobs") == str(jobs)]
    if not left:
        return ""
    many = f" with {jobs} at a time" if jobs > 1 else ""
    if took:
        return f": about {left * mean(took) / jobs / 3600:.1f} hours{many} by the {len(took)} rows that were made so"
    return f": {left * MOST / jobs / 3600:.1f} hours{many} if each takes {MOST:.0f} seconds"


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Holds a study's runs for this process. Raises `UserError` if another one has them."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".held", "a", encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(Problem("QR071", "another process runs this study", Place(str(folder)))) from None
        yield


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
