"""One self-contained HTML page: what was said, side by side, with transcripts and their errors marked. No script, no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import soundfile

from qrecipe.data.audio import Audio, encoded
from qrecipe.evaluate.metrics import text_and_transcript
from qrecipe.evaluate.samples import Sample
from qrecipe.inputs.documents import Statistic, Verdict, interval_text
from qrecipe.qwen3 import SAMPLE_RATE
from qrecipe.report.rewards import RewardRows, rewards_html

PAGE = "report.html"
"""Name of the page in the folder that it is about."""
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: #1a1a1a; background: #fff }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem }
th, td { border-bottom: 1px solid #ddd; padding: .5rem .6rem; text-align: left; vertical-align: top }
th { position: sticky; top: 0; background: #fff }
audio { width: 15rem; height: 2rem; display: block; margin: .15rem 0 }
del { color: #b00020 } ins { color: #b00020; background: #ffe3e6; text-decoration: none }
.pass { color: #0a6b2d } .fail { color: #b00020 } .undecided, .skipped { color: #8a5a00 }
.how, .number { color: #666; font-size: .85em } td.number { white-space: nowrap }
@media (prefers-color-scheme: dark) { body, th { background: #16181b; color: #e6e6e6 } th, td { border-color: #33373d }
  del, ins, .fail { color: #ff8a93 } ins { background: #4a1f25 } .pass { color: #6fd08c } .undecided, .skipped { color: #e0b060 }
  .how, .number { color: #9aa0a8 } }
"""


REWARDED = "; rewarded by this ear, so look at another one"


@dataclass(frozen=True)
class Column:
    """Speech of one model, or the recordings."""

    name: str
    samples: Sequence[Sample]
    transcripts: bool
    """Whether a recogniser transcribed them."""


def write_page(
    title: str,
    columns: Sequence[Column],
    statistics: Mapping[str, Statistic] | None = None,
    verdicts: Mapping[str, Sequence[Verdict]] | None = None,
    seconds: Mapping[str, float] | None = None,
    rewards: RewardRows | None = None,
) -> str:
    """The page.

    Args:
        columns: side by side; rows are prompts, by line and text.
        statistics: metrics with their intervals, above.
        verdicts: of gates, by the stage after which they were judged, above.
        seconds: where the time of a run went, by phase, below.
        rewards: what stages heard while they learned, below.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{_text(title)}</h1>",
        _verdicts(verdicts) if verdicts else "",
        _statistics(statistics) if statistics else "",
        _samples(columns) if columns else "",
        _seconds(seconds) if seconds else "",
        rewards_html(rewards) if rewards else "",
        "</body></html>",
    ]
    return "\n".join(p for p in parts if p) + "\n"


def _seconds(seconds: Mapping[str, float]) -> str:
    """Phases of a run with their share of the time, the longest first."""
    total = sum(seconds.values()) or 1.0
    rows = [f"<tr><td>{_text(name)}</td><td>{s:.1f}</td><td>{s / total:.0%}</td></tr>" for name, s in seconds.items()]
    return "<h2>Time</h2>" + _table(["phase", "seconds", "share"], rows)


def _verdicts(verdicts: Mapping[str, Sequence[Verdict]]) -> str:
    rows = []
    for stage, judged in verdicts.items():
        for v in judged:
            needed = f", {v.prompts_needed:,} prompts would decide" if v.prompts_needed else ""
            why = f": {v.reason}" if v.reason else ""
            counts = (" (does not count)" if v.severity == "warn" else "") + (REWARDED if v.rewarded else "")
            numbers = "-" if v.value is None else f"{v.value:.4g} ({interval_text(v.low, v.high)})"
            cells = [stage, v.gate, numbers, _number(v.baseline), _number(v.recordings), str(v.prompts)]
            outcome = f'<td class="{v.outcome}">{_text(v.outcome + needed + why + counts)}</td>'
            rows.append("<tr>" + "".join(f"<td>{_text(c)}</td>" for c in cells) + outcome + "</tr>")
    heads = ["after", "gate", "value", "baseline", "recordings", "prompts", "outcome"]
    honest = dict.fromkeys(line for judged in verdicts.values() for v in judged if (line := v.against_best()) is not None)
    return "<h2>Gates</h2>" + _table(heads, rows) + "".join(f"<p>{_text(line)}</p>" for line in honest)


def _statistics(statistics: Mapping[str, Statistic]) -> str:
    rows = []
    for name, s in statistics.items():
        slices = "; ".join(f"{d} " + ", ".join(f"{k} {v:.4g}" for k, v in parts.items()) for d, parts in s.slices.items())
        cells = [name, f"{s.value:.4g}", interval_text(s.low, s.high), _number(s.recordings), f"{s.spread[0]:.4g} to {s.spread[1]:.4g}"]
        rows.append("<tr>" + "".join(f"<td>{_text(c)}</td>" for c in [*cells, str(s.prompts), slices]) + "</tr>")
    heads = ["metric", "value", "interval", "recordings", "95 % of prompts", "prompts", "slices"]
    return "<h2>Metrics</h2>" + _table(heads, rows)


def _samples(columns: Sequence[Column]) -> str:
    prompts = sorted({(s.row.line, s.row.text) for c in columns for s in c.samples})
    rows = []
    for line, text in prompts:
        cells = [f"<td>{_text(text)}</td>"]
        for column in columns:
            spoken = [s for s in column.samples if (s.row.line, s.row.text) == (line, text)]
            cells.append("<td>" + "".join(_sample(s, column.transcripts) for s in spoken) + "</td>")
        rows.append("<tr>" + "".join(cells) + "</tr>")
    return "<h2>Samples</h2>" + _table(["text", *(c.name for c in columns)], rows)


def _sample(sample: Sample, transcript: bool) -> str:
    how = "" if sample.seed is None else f"{sample.layout}, {sample.prompt}, seed {sample.seed}, ".replace("_", "-")
    about = f'<span class="how">{_text(how)}{len(sample.audio) / SAMPLE_RATE:.1f} s</span>'
    words = f"<div>{marked(*text_and_transcript(sample))}</div>" if transcript else ""
    return f'<audio controls preload="none" src="data:{sound(sample.audio)}"></audio>{about}{words}'


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


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    return "<table><tr>" + "".join(f"<th>{_text(h)}</th>" for h in heads) + "</tr>" + "\n".join(rows) + "</table>"


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.4g}"


def _text(text: str) -> str:
    return html.escape(text)
