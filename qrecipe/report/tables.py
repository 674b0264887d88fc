"""Tables: the plan before a run, verdicts after a stage, data after `prepare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Column, Table

if TYPE_CHECKING:
    from qrecipe.bundle.merge import Shared
    from qrecipe.bundle.servers import Check
    from qrecipe.data.report import Report
    from qrecipe.plan.compute import Compute
    from qrecipe.plan.gpus import Durations
from qrecipe.inputs.documents.results import Comparison, Statistic
from qrecipe.inputs.documents.verdicts import interval_text
from qrecipe.plan.values import Plan, PlannedStage, PlannedSynthetic, PlannedTrain
from qrecipe.qwen3 import FRAMES_PER_SECOND


class Printer(Console):
    """Prints tables. rich itself would end the process where nobody reads them any more, with an exit code of its own."""

    def __init__(self, stderr: bool = False, width: int | None = None, file: IO[str] | None = None, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, width=width, file=file, quiet=quiet, highlight=False)

    def on_broken_pipe(self) -> None:
        """Leaves the error to the one who prints."""
        raise


def count(n: int | None, most: int | None = None) -> str:
    """A number with separators; an unknown one with its upper bound."""
    if n is not None:
        return f"{n:,}"
    return f"at most {most:,}" if most is not None else "unknown"


def size(n: float) -> str:
    """Bytes for people.

    >>> size(1_500_000)
    '1.5 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def plan_table(plan: Plan, standings: dict[str, str] | None = None, computes: Mapping[str, Compute] | None = None) -> Table:
    """Stages with what trains, how much of it, at which rate, on which data, for how long, under which gates.

    `standings` says of a stage whether it is done, goes on, or trains again and why; `computes` what it costs.
    """
    table = plain_table(f"{plan.recipe} {plan.version} on {plan.base.model}")
    table.add_column("stage", no_wrap=True)
    table.add_column("trains", overflow="fold")
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("rate", justify="right", no_wrap=True)
    for stage in plan.stages:
        standing = (standings or {}).get(stage.id, "")
        done = f" ({escape(standing)})" if standing else ""
        table.add_row(
            f"[bold]{stage.id}[/]",
            f"{stage.objective}, {_length(stage)}{done}",
            f"[bold]{count(stage.parameters, stage.parameters_max)}[/]",
            "",
        )
        for train in stage.trainable:
            table.add_row("", _indented(_what(train)), count(train.parameters, train.parameters_max), f"{train.lr:g}")
        table.add_row("", _indented("data " + _data(stage)))
        for synthetic in stage.taught:
            table.add_row("", _indented(_synthetic(synthetic)))
        for line in _computes((computes or {}).get(stage.id)):
            table.add_row("", _indented(line))
        for gate in stage.gates:
            table.add_row("", _indented("gate " + gate))
        table.add_section()
    for need, evaluator in plan.evaluators.items():
        absent = "" if evaluator.identity or evaluator.model is None else " (not on this machine)"
        table.add_row("", _indented(f"{need} by {evaluator.backend}" + (f", {evaluator.model}{absent}" if evaluator.model else "")))
    for gate in plan.accept:
        table.add_row("[bold]accept[/]" if gate == plan.accept[0] else "", _indented("gate " + gate))
    return table


def _indented(text: str) -> Padding:
    """Text two columns in, the lines that it is folded to as well."""
    return Padding(escape(text), (0, 0, 0, 2))


def _what(train: PlannedTrain) -> str:
    what = ", ".join(train.match) + (" except " + ", ".join(train.except_) if train.except_ else "")
    if train.lora is not None:
        return f"{what} (LoRA, rank {train.lora['rank']:g})"
    if train.rows is None:
        return what
    kind = train.rows if isinstance(train.rows, str) else "listed"
    number = f", {count(train.rows_count)}" if train.rows_count is not None else ""
    return f"{what} (rows: {kind}{number})"


def _computes(compute: Compute | None) -> list[str]:
    """Lines on a stage's cost: parts without gradients, states computed once, losses, memory and time."""
    if compute is None:
        return []
    if compute.first_layer is None:
        what = "the talker runs without gradients"
    elif compute.first_layer == 0:
        what = "gradients through the whole talker"
    else:
        what = f"layers 0 to {compute.first_layer - 1} of the talker run without gradients"
    if compute.cached is not None:
        cached = "its hidden states are" if compute.cached == "hidden" else f"what enters layer {compute.first_layer} is"
        on_disk = f", at most {size(compute.cache_bytes)} on the disk" if compute.cache_bytes is not None else ""
        what += f"; {cached} computed once{on_disk}"
    losses = " and ".join(compute.terms) if compute.terms else "none"
    parts = {"weights": compute.weights, "what trains": compute.trained + compute.optimizer, "activations and gradients": compute.passing}
    memory = f"on a GPU about {size(compute.peak)} (" + ", ".join(f"{k} {size(v)}" for k, v in parts.items()) + ")"
    memory += f", or {size(compute.peak_recomputing)} with layers computed again"
    choices = [f"{name} {value}" for name, value in (("moments", compute.moments), ("masters", compute.masters)) if value != "float32"]
    narrow = [f"linear layers: {' and '.join(choices)}"] if choices else []
    return [f"{what}; losses: {losses}", *narrow, memory]


def time_line(times: Durations, price: float | None = None) -> str:
    """How long a run takes, part by part, on which GPUs, and what it costs at a price for one GPU and hour."""
    rates = "by measured rates" if times.gpu.measured else "by arithmetic from its datasheet"
    parts = ", ".join(f"{name} {'unknown' if s is None else duration(s)}" for name, s in times.parts.items())
    text = f"time on {times.gpus} {times.gpu.name}, {rates}: {parts}"
    if times.total is None:
        return f"{text}; in all unknown until the data is on this machine"
    text += f"; in all about {duration(times.total)}, and recognisers"
    return text if price is None else f"{text}; about {times.total / 3600 * times.gpus * price:.2f} at {price:g} an hour"


def duration(seconds: float) -> str:
    """Time for people.

    >>> duration(5400)
    '1.5 h'
    """
    if seconds < 90:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _data(stage: PlannedStage) -> str:
    return ", ".join(f"{d.dataset} ({count(d.rows)} rows" + (f", {d.share:.0%})" if d.share else ")") for d in stage.data)


def _synthetic(data: PlannedSynthetic) -> str:
    """Synthetic speech of a stage, with how much that is."""
    if not data.frames:
        return f"words of {data.dataset} respelled for {data.spoken_as}"
    minutes = data.frames / FRAMES_PER_SECOND / 60
    spent = f", {duration(data.seconds)} on a GPU" if data.seconds is not None else ""
    return (
        f"the base first speaks {data.dataset} in {data.spoken_as}: {count(data.sentences)} sentences, "
        f"about {minutes:.1f} minutes in {count(data.positions)} steps{spent}"
    )


def _length(stage: PlannedStage) -> str:
    length = f"{stage.steps} steps" if stage.steps else f"{stage.epochs:g} epoch{'s' if stage.epochs != 1 else ''}"
    return length + (f", best {stage.select}" if stage.select else "")


def verdict_table(where: str, verdicts: Sequence[dict[str, Any]]) -> Table:
    """Gates of one stage with what decided them."""
    table = plain_table(f"gates after {where}" if where != "accept" else "accept", "gate", "value", "interval", "n", "outcome")
    styles = {"pass": "green", "fail": "red", "undecided": "yellow", "skipped": "yellow"}
    for v in verdicts:
        if v["value"] is None:
            table.add_row(v["gate"], "-", "-", "-", f"[{styles[v['outcome']]}]{v['outcome']}: {escape(v['reason'])}[/]")
            continue
        outcome = v["outcome"] + (f", {v['prompts_needed']} prompts would decide" if v["prompts_needed"] else "")
        if v["severity"] == "warn":
            outcome += " (does not count)"
        if v["rewarded"]:
            outcome += " (rewarded by this ear)"
        value = f"{v['value']:.4g}"
        if v["baseline"] is not None:
            value += f" ({v['baseline']:.4g} -> {v['measured']:.4g})"
        if v["recordings"] is not None:
            value += f"; recordings {v['recordings']:.4g}"
        table.add_row(v["gate"], value, interval_text(v["low"], v["high"]), str(v["prompts"]), f"[{styles[v['outcome']]}]{outcome}[/]")
    return table


def statistics_table(title: str, statistics: Mapping[str, Statistic]) -> Table:
    """Metrics of one model: value, interval, what recordings have."""
    table = plain_table(escape(title), "metric", "value", "interval", "recordings", "95 % of prompts", "n", "slices")
    for name, s in statistics.items():
        recordings = "-" if s.recordings is None else f"{s.recordings:.4g}"
        spread = f"{s.spread[0]:.4g} to {s.spread[1]:.4g}"
        parts = "; ".join(", ".join(f"{k} {v:.4g}" for k, v in part.items()) for part in s.slices.values())
        table.add_row(name, f"{s.value:.4g}", interval_text(s.low, s.high), recordings, spread, str(s.prompts), escape(parts))
    return table


def comparison_table(title: str, comparison: Comparison) -> Table:
    """Differences of two models."""
    table = plain_table(escape(title), "metric", "A", "B", "B - A", "interval", "n", "B is")
    styles = {"better": "green", "worse": "red", "undecided": "yellow"}
    for name, s in comparison.differences.items():
        verdict = comparison.verdicts[name]
        values = [f"{m.metrics[name].value:.4g}" for m in (comparison.a, comparison.b)]
        coloured = f"[{styles[verdict]}]{verdict}[/]"
        table.add_row(name, *values, f"{s.value:+.4g}", interval_text(s.low, s.high, "+"), str(s.prompts), coloured)
    return table


def probe_table(probes: Sequence[dict[str, Any]]) -> Table:
    """Gates that were tried on recordings and on corrupted copies."""
    table = plain_table("gates tried on recordings", "gate", "recordings", "spoilt", "verdict")
    for p in probes:
        if not p["tried"]:
            table.add_row(escape(p["gate"]), "-", "-", f"[yellow]not tried: {escape(p['reason'])}[/]")
            continue
        corrupted = ", ".join(f"{name} {v['value']:.3g} {v['outcome']}" for name, v in p["spoilt"].items())
        needed = f"; {p['prompts_needed']:,} prompts would do" if p["prompts_needed"] else ""
        verdict = "[green]can tell[/]" if p["sound"] else f"[red]{escape(p['reason'] + needed)}[/]"
        table.add_row(escape(p["gate"]), f"{p['recordings']['value']:.3g} {p['recordings']['outcome']}", corrupted, verdict)
    return table


def server_table(title: str, checks: Sequence[Check]) -> Table:
    """Servers with their answer to a bundle."""
    table = plain_table(escape(title), "server", "version", "takes", "why", "what to do")
    styles = {"yes": "green", "with care": "yellow", "no": "red"}
    for check in checks:
        for i, f in enumerate(check.findings or (None,)):
            first = (check.server.name, check.server.version) if i == 0 else ("", "")
            answer = check.answer if f is None else f.answer
            why, remedy = (f"{check.server.reads}, as it is", "") if f is None else (f.reason, f.remedy or "")
            table.add_row(*first, f"[{styles[answer]}]{answer}[/]", escape(why), escape(remedy))
    return table


def shared_table(shared: Sequence[Shared], rule: str) -> Table:
    """Weights that several packs changed."""
    table = plain_table(f"weights that several packs changed, merged by `{rule}`", "tensor", "packs", "elements", "of")
    for s in shared:
        table.add_row(s.tensor, escape(", ".join(s.packs)), f"{s.elements:,}", f"{s.of:,}")
    return table


def data_table(reports: Sequence[Report]) -> Table:
    """Datasets as `prepare` measured them."""
    table = plain_table("data", "dataset", "language", "rows", "skipped", "minutes", "tokens/char", "tokens/s", "voices", "cosine")
    for r in reports:
        measured = [r.minutes, r.tokens_per_character, r.tokens_per_second, r.speakers, r.speaker_cosine]
        table.add_row(r.dataset, r.language, f"{r.rows:,}", str(r.skipped), *("-" if c is None else str(c) for c in measured))
    return table


def plain_table(title: str, *columns: str) -> Table:
    """A table without lines between its columns, in which long text is folded."""
    heads = [Column(name, overflow="fold") for name in columns]
    return Table(*heads, title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)


def heard_lines(dataset: str, about: Mapping[str, Any]) -> list[str]:
    """Findings of listening to a dataset, a line a kind; `about` is the JSON form."""
    lines = []
    for measure, quantiles in about["distributions"].items():
        if quantiles:
            shown = ", ".join(f"{q} {v:g}" for q, v in quantiles.items() if q in ("5%", "50%", "95%"))
            lines.append(f"{dataset}: {measure} {shown}")
    kinds: dict[str, list[str]] = {}
    for line, reasons in about["suspects"].items():
        for reason in reasons:
            kind = "the same sound as another line" if reason.startswith("the same sound") else reason
            kinds.setdefault(kind, []).append(str(line))
    for kind, rows in kinds.items():
        lines.append(f"{dataset}: {len(rows):,} rows: {kind} (lines {', '.join(rows[:5])}{', …' if len(rows) > 5 else ''})")
    if about["dropped"]:
        lines.append(f"{dataset}: the filter drops {len(about['dropped']):,} rows")
    if about["same_sentence"]:
        lines.append(f"{dataset}: {len(about['same_sentence']):,} sentences stand in several rows, case and signs aside")
    for speaker, cosine in about["two_people"].items():
        who = f"speaker `{speaker}`" if speaker else "the one speaker"
        lines.append(f"{dataset}: {who} sounds like two people (cosine {cosine:g}): name them apart with `speaker`")
    return lines
