"""One self-contained HTML page: what was said, side by side, with transcripts and their errors marked, and how a run went. No script, no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import soundfile

from qrecipe.data.audio import Audio, encoded
from qrecipe.evaluate.metrics import text_and_transcript
from qrecipe.evaluate.samples import Sample
from qrecipe.inputs.documents.results import Statistic
from qrecipe.inputs.documents.verdicts import interval_text
from qrecipe.qwen3 import SAMPLE_RATE
from qrecipe.report.history import RunHistory, StageHistory
from qrecipe.report.markup import document, table
from qrecipe.report.plots import curves, interval
from qrecipe.report.rewards import rewards_html
from qrecipe.report.tables import duration, size

PAGE = "report.html"
"""Name of the page in the folder that it is about."""
REWARDED = "; rewarded by this ear, so look at another one"


@dataclass(frozen=True)
class PageSound:
    """One sound of the page."""

    line: int
    text: str
    how: str
    """Layout, prompt, seed and seconds in words."""
    source: str
    """Its URL: the sound itself in a page that stands alone."""
    words: str = ""
    """HTML: the transcript with its errors marked."""


@dataclass(frozen=True)
class Column:
    """Speech of one model, or the recordings."""

    name: str
    speech: Sequence[PageSound]


def column_of(name: str, samples: Sequence[Sample], transcripts: bool) -> Column:
    """A column with its sounds in it; `transcripts`: a recogniser has transcribed them."""
    with ThreadPoolExecutor() as pool:  # writing MP3 is most of a page's time, and outside the interpreter's lock
        return Column(name, list(pool.map(lambda s: _speech(s, transcripts), samples)))


def _speech(sample: Sample, transcript: bool) -> PageSound:
    how = how_spoken(sample.layout, sample.prompt, sample.seed, len(sample.audio) / SAMPLE_RATE)
    words = marked(*text_and_transcript(sample)) if transcript else ""
    return PageSound(sample.row.line, sample.row.text, how, f"data:{sound(sample.audio)}", words)


def how_spoken(layout: str, prompt: str, seed: int | None, seconds: float) -> str:
    """Layout, prompt, seed and length of a sound in words; a recording has no seed.

    >>> how_spoken("non_streaming", "x_vector", 3, 1.25)
    'non-streaming, x-vector, seed 3, 1.2 s'
    """
    spoken = "" if seed is None else f"{layout}, {prompt}, seed {seed}, ".replace("_", "-")
    return f"{spoken}{seconds:.1f} s"


def write_page(
    title: str,
    columns: Sequence[Column],
    statistics: Mapping[str, Statistic] | None = None,
    history: RunHistory | None = None,
) -> str:
    """The page.

    Args:
        columns: side by side; rows are prompts, by line and text.
        statistics: metrics with their intervals, above.
        history: of the run that the page is about.
    """
    about = _run_sections(history) if history is not None else {}
    sections = {**about, "metrics": _statistics(statistics) if statistics else "", "samples": _samples(columns) if columns else ""}
    if history is not None:
        sections |= {"time": _seconds(history.seconds) if history.seconds else "", "rewards": rewards_html(history.rewards)}
    parts = [f'<section id="{name}"{"" if content else " hidden"}>{content}</section>' for name, content in sections.items()]
    status = f'<p id="state" role="status">{_text(history.state)}</p>' if history is not None else ""
    return document(title, f"{status}{chr(10).join(parts)}")


def _run_sections(history: RunHistory) -> dict[str, str]:
    """How a run went, by the ids of the page's sections."""
    plots = []
    for name, stage in history.stages.items():
        plots.append(curves(f"{name}: losses", stage.losses))
        plots.append(
            curves(f"{name}: held out" + (f", best at step {stage.best:,}" if stage.best is not None else ""), {"held out": stage.held_out})
        )
    notes = "".join(f"<li>{_text(n)}</li>" for n in history.notes)
    return {
        "now": _now(history),
        "stages": _stages(history) if history.stages else "",
        "curves": f'<h2>Curves</h2><div class="plots">{"".join(plots)}</div>' if any(plots) else "",
        "gates": _verdicts(history) if history.verdicts else "",
        "notes": f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "",
    }


def _now(history: RunHistory) -> str:
    """Position of a run, its speed, and the memory that it takes."""
    parts = []
    name = history.training
    if name is not None and (stage := history.stages[name]).of:
        label = f"{name}: step {stage.step:,} of {stage.of:,}"
        parts.append(f'<p>{_text(label)}</p><progress aria-label="{_text(label)}" value="{stage.step}" max="{stage.of}"></progress>')
        if history.step_seconds is not None:
            rest = duration((stage.of - stage.step) * history.step_seconds)
            parts.append(f"<p>{history.step_seconds:.2g} s a step; at most {rest} of training left in this stage.</p>")
    if history.activity and history.ended is None:
        parts.append(f"<p>{_text(history.activity)}</p>")
    facts = [history.device, f"at most {size(history.memory)} of memory so far" if history.memory else ""]
    facts += [f"plan {history.plan[:12]}"] if history.plan else []
    return "".join(parts) + f'<p class="how">{_text("; ".join(f for f in facts if f))}</p>'


def _stages(history: RunHistory) -> str:
    """Every stage of the recipe, what became of it, and what changed since the last run."""
    rows = [_stage(name, s) for name, s in history.stages.items()]
    heads = ["stage", "state", "step", "loss", "since the last run of the recipe"]
    return "<h2>Stages</h2>" + table("stages", heads, rows)


def _stage(name: str, stage: StageHistory) -> str:
    losses = ", ".join(f"{term} {points[-1][1]:.4g}" for term, points in stage.losses.items() if points)
    step = f"{stage.step:,} of {stage.of:,}" if stage.of else "-"
    cells = "".join(f"<td>{_text(c)}</td>" for c in (step, losses or "-", stage.compared or "new"))
    return f'<tr><th scope="row">{_text(name)}</th><td class="{_text(stage.state)}">{_text(stage.state)}</td>{cells}</tr>'


def _seconds(seconds: Mapping[str, float]) -> str:
    """Phases of a run with their share of the time, the longest first."""
    total = sum(seconds.values()) or 1.0
    rows = [f"<tr><td>{_text(name)}</td><td>{s:.1f}</td><td>{s / total:.0%}</td></tr>" for name, s in seconds.items()]
    return "<h2>Time</h2>" + table("time", ["phase", "seconds", "share"], rows)


def _verdicts(history: RunHistory) -> str:
    """Every gate that was judged; columns that no gate has a number for are left out."""
    judged = [(stage, v) for stage, verdicts in history.verdicts.items() for v in verdicts]
    before = [history.before.get((stage, v.gate)) for stage, v in judged]
    more = {
        "baseline": [v.baseline for _, v in judged],
        "recordings": [v.recordings for _, v in judged],
        "last run": [v.value if v is not None else None for v in before],
    }
    more = {head: numbers for head, numbers in more.items() if any(n is not None for n in numbers)}
    rows = []
    for n, (stage, v) in enumerate(judged):
        needed = f", {v.prompts_needed:,} prompts would decide" if v.prompts_needed else ""
        why = f": {v.reason}" if v.reason else ""
        counts = (" (does not count)" if v.severity == "warn" else "") + (REWARDED if v.rewarded else "")
        numbers = "-" if v.value is None else f"{v.value:.4g}<br>({_text(interval_text(v.low, v.high))})"
        outcome = f'<td class="{v.outcome}">{_text(v.outcome + needed + why + counts)}</td>'
        cells = f"<td>{_text(stage)}</td><td>{_text(v.gate)}</td><td>{interval(v)}</td><td class='value'>{numbers}</td>{outcome}<td>{v.prompts}</td>"
        rows.append(f"<tr>{cells}{''.join(f'<td>{_number(values[n])}</td>' for values in more.values())}</tr>")
    heads = ["after", "gate", "interval and threshold", "value", "outcome", "prompts", *more]
    honest = dict.fromkeys(line for _, v in judged if (line := v.against_best()) is not None)
    return "<h2>Gates</h2>" + table("gates", heads, rows) + "".join(f"<p>{_text(line)}</p>" for line in honest)


def _statistics(statistics: Mapping[str, Statistic]) -> str:
    rows = []
    for name, s in statistics.items():
        slices = "; ".join(f"{d} " + ", ".join(f"{k} {v:.4g}" for k, v in parts.items()) for d, parts in s.slices.items())
        cells = [name, f"{s.value:.4g}", interval_text(s.low, s.high), _number(s.recordings), f"{s.spread[0]:.4g} to {s.spread[1]:.4g}"]
        rows.append("<tr>" + "".join(f"<td>{_text(c)}</td>" for c in [*cells, str(s.prompts), slices]) + "</tr>")
    heads = ["metric", "value", "interval", "recordings", "95 % of prompts", "prompts", "slices"]
    return "<h2>Metrics</h2>" + table("metrics", heads, rows)


def _samples(columns: Sequence[Column]) -> str:
    spoken: dict[tuple[int, str], dict[str, list[PageSound]]] = {}
    for column in columns:
        for s in column.speech:
            spoken.setdefault((s.line, s.text), {}).setdefault(column.name, []).append(s)
    rows = []
    for (line, text), by_column in sorted(spoken.items()):
        cells = [f'<th scope="row">{_text(text)}</th>']
        for n, column in enumerate(columns):
            players = [_player(s, column.name, f"sound-{n}-{line}-{i}") for i, s in enumerate(by_column.get(column.name, ()))]
            cells.append(f"<td>{''.join(players)}</td>")
        rows.append("<tr>" + "".join(cells) + "</tr>")
    return "<h2>Samples</h2>" + table("samples", ["text", *(c.name for c in columns)], rows)


def _player(speech: PageSound, column: str, name: str) -> str:
    label = _text(f"{column}: {speech.text}")
    words = f"<div>{speech.words}</div>" if speech.words else ""
    source = f'id="{name}" aria-label="{label}" src="{_text(speech.source)}"'
    return f'<audio controls preload="none" {source}></audio><span class="how">{_text(speech.how)}</span>{words}'


def marked(text: str, transcript: str) -> str:
    """A transcript as HTML with its errors: what is missing struck out, what was added or replaced marked."""
    import jiwer

    if not text.split():
        return _text(transcript)
    if not transcript.split():
        return f"<del>{_text(text)}</del>"
    words = jiwer.process_words(text, transcript)
    parts = []
    for chunk in words.alignments[0]:
        missing = " ".join(words.references[0][chunk.ref_start_idx : chunk.ref_end_idx])
        added = " ".join(words.hypotheses[0][chunk.hyp_start_idx : chunk.hyp_end_idx])
        if chunk.type == "equal":
            parts.append(_text(added))
            continue
        parts += [f"<del>{_text(missing)}</del>"] if missing else []
        parts += [f"<ins>{_text(added)}</ins>"] if added else []
    return " ".join(parts)


def sound(audio: Audio) -> str:
    """A sound as the content of a data URL: MP3, which every browser plays, or WAV where libsndfile cannot write it."""
    for kind, subtype, name in (("MP3", "MPEG_LAYER_III", "audio/mpeg"), ("WAV", "PCM_16", "audio/wav")):
        try:
            content = encoded(audio, SAMPLE_RATE, kind, subtype)
        except (soundfile.SoundFileError, ValueError):
            continue
        return f"{name};base64,{base64.b64encode(content).decode()}"
    raise AssertionError("libsndfile writes WAV")


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.4g}"


def _text(text: str) -> str:
    return html.escape(text)
