"""Writes a study's table and plot into README.md from its CSV. No number stands there that is not in the CSV.

    python research/studies/report.py research/studies/malay.yaml research/studies/turkish.yaml

A value is the mean over seeds; its interval is over prompts (the mean of the runs' intervals). A difference to the
centre, or to the base, is paired by seed and has Student's interval at 95 %. How far seeds scatter is taken from all runs of the study
together, as in an analysis of variance: three seeds alone say little about it. It holds for these prompts and this data.
"""

from __future__ import annotations

import argparse
import csv
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, variance

import study as studies
from scipy.special import stdtrit

from qrecipe.files import write_text

PAGE = Path(__file__).resolve().with_name("README.md")
PLOTTED = ("cer(dev)", "cer(keep)")
SHOWN = ("cer(dev)", "talker_nll(dev)", "predictor_nll(dev)", "speaker_similarity(dev)", "runaway_rate(dev)", "cer(keep)")
BASE = "trains=nothing"
"""The run that leaves the base as it is, under the new language's row."""
COMPARED = (("cer(dev)", "centre"), ("cer(dev)", BASE), ("cer(keep)", BASE))
"""What is compared with which run."""
OVER_BASE = ("cer(dev) over base", "cer(keep) over base")
"""Differences to the base, paired by prompt, where a study measures them."""


@dataclass(frozen=True)
class Cell:
    """A number with an interval; without one where a single seed cannot give it."""

    value: float
    low: float | None
    high: float | None

    def text(self, signed: bool = False) -> str:
        """As it stands in the table."""
        form = "+.3f" if signed else ".3f"
        if self.low is None or self.high is None:
            return f"{self.value:{form}}"
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"


Rows = list[dict[str, str]]


def read(path: Path) -> Rows:
    """Rows of a results file; none if it is not there."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def value(found: Rows, metric: str) -> Cell | None:
    """Mean over seeds, with the mean interval over prompts."""
    have = [r for r in found if r.get(f"{metric} value")]
    if not have:
        return None
    numbers = [mean(float(r[f"{metric} {part}"]) for r in have) for part in ("value", "low", "high")]
    return Cell(*numbers)


def gaps(found: Rows, other: Rows, metric: str) -> list[float]:
    """Differences to another run of the same seed."""
    name = f"{metric} value"
    base = {r["seed"]: float(r[name]) for r in other if r.get(name)}
    return [float(r[name]) - base[r["seed"]] for r in found if r.get(name) and r["seed"] in base]


@dataclass(frozen=True)
class Spread:
    """How far differences to another run scatter from seed to seed."""

    variance: float
    freedom: int
    """Degrees of freedom; 0 where no run has two seeds."""

    @classmethod
    def of(cls, groups: list[list[float]]) -> Spread:
        """Pooled over the differences of every run."""
        several = [g for g in groups if len(g) > 1]
        freedom = sum(len(g) - 1 for g in several)
        return cls(sum(variance(g) * (len(g) - 1) for g in several) / freedom if freedom else 0.0, freedom)


def difference(found: list[float], spread: Spread) -> Cell | None:
    """Mean of differences to another run with Student's interval; without one where a single seed has been run."""
    if not found:
        return None
    if len(found) < 2 or not spread.freedom:
        return Cell(mean(found), None, None)
    half = float(stdtrit(spread.freedom, 0.975)) * math.sqrt(spread.variance / len(found))
    return Cell(mean(found), mean(found) - half, mean(found) + half)


def table(study: studies.Study, found: Rows) -> str:
    """The study's results as a table, in the study's order; what has not been run is said to be missing."""
    shown = [*SHOWN, *(m for m in OVER_BASE if any(r.get(f"{m} value") for r in found))]
    by_run = {_id(p): [r for r in found if r["run"] == _id(p)] for p in study.points}
    compared = [(m, other) for m, other in COMPARED if by_run.get(other)]
    apart = [{run: gaps(r, by_run[other], m) for run, r in by_run.items() if run != other} for m, other in compared]
    spreads = [Spread.of(list(groups.values())) for groups in apart]
    heads = [*(f"`{m}`" for m in shown), *(f"`{m}` less the {'base' if o == BASE else 'centre'}'s" for m, o in compared)]
    lines = ["| run | seeds | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    missing = [run for run, r in by_run.items() if not r]
    for run, r in by_run.items():
        if r:
            cells = [(value(r, m), m in OVER_BASE) for m in shown]
            cells += [(difference(groups.get(run, []), spread), True) for groups, spread in zip(apart, spreads, strict=True)]
            texts = [cell.text(signed) if cell is not None else "-" for cell, signed in cells]
            lines.append(f"| {run} | {len(r)} | " + " | ".join(texts) + " |")
    total, have = len(study.points) * len(study.seeds), sum(len(r) for r in by_run.values())
    said = f"{have} of {total} runs have been carried out."
    if not have:
        return said
    if missing:
        said += " Not yet: " + "; ".join(missing) + "."
    return "\n".join([said, "", *lines])


def _id(levels: dict[str, str]) -> str:
    return studies.Run(levels, 0).id


def plot(study: studies.Study, found: Rows) -> str | None:
    """A dot with its interval for every run, one panel a metric, as SVG; None without rows."""
    runs = [(_id(p), [r for r in found if r["run"] == _id(p)]) for p in study.points]
    drawn = [(name, [value(r, m) for m in PLOTTED]) for name, r in runs if r]
    cells = [c for _, row in drawn for c in row if c is not None]
    if not cells:
        return None
    top = max(c.high if c.high is not None else c.value for c in cells) * 1.05 or 1.0
    left, width, line = 260, 300, 20
    height = line * (len(drawn) + 3)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + len(PLOTTED) * (width + 40)}" height="{height}" font-family="sans-serif" font-size="12">'
    ]
    for p, metric in enumerate(PLOTTED):
        x0 = left + p * (width + 40)
        out.append(f'<text x="{x0}" y="14" font-weight="bold">{metric}</text>')
        for tick in range(5):
            x = x0 + width * tick / 4
            out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="22" y2="{height - 24}" stroke="#ddd"/>')
            out.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle" fill="#555">{top * tick / 4:.2f}</text>')
        for i, (name, row) in enumerate(drawn):
            y = 34 + i * line
            if p == 0:
                out.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{_escaped(name)}</text>')
            cell = row[p]
            if cell is None:
                continue
            if cell.low is not None and cell.high is not None:
                ends = [x0 + width * max(0.0, v) / top for v in (cell.low, cell.high)]
                out.append(f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y}" y2="{y}" stroke="#36c" stroke-width="2"/>')
            out.append(f'<circle cx="{x0 + width * cell.value / top:.1f}" cy="{y}" r="4" fill="#36c"/>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def section(study: studies.Study) -> tuple[str, str | None]:
    """What stands between the marks in README.md, and the plot beside the page."""
    found = read(study.results)
    picture = plot(study, found)
    shown = f"\n\n![character error rates of the study on {study.name}](study-{study.name}.svg)" if picture is not None else ""
    return table(study, found) + shown, picture


def placed(page: str, name: str, text: str) -> str:
    """The page with a study's section between its marks. Raises `ValueError` if they are not there."""
    start, end = f"<!-- study {name} -->\n", f"\n<!-- end of study {name} -->"
    before, _, rest = page.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{PAGE.name} has no marks for the study {name}")
    return before + start + text + end + after


def main() -> None:
    """Writes the sections and plots of studies."""
    parser = argparse.ArgumentParser(description="Write the tables and plots of studies.")
    parser.add_argument("studies", nargs="+", type=Path)
    page = PAGE.read_text("utf-8")
    for path in parser.parse_args().studies:
        study = studies.load(path)
        text, picture = section(study)
        page = placed(page, study.name, text)
        if picture is not None:
            write_text(PAGE.parent / f"study-{study.name}.svg", picture)
        print(f"{study.name}: {text.splitlines()[0]}")
    write_text(PAGE, page)


if __name__ == "__main__":
    main()
