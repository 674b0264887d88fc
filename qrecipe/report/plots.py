"""Plots of a page as small SVG in the page's own colours: no script, no style of their own, and their numbers in words beside them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from qrecipe.inputs.documents.verdicts import Verdict

POINTS = 240
"""Points of a line, evenly spread."""
COLOURS = 4
"""Of lines; `.color-N` in the page's style."""
PLOT_STYLE = """
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem } figure { margin: 0; max-width: 44rem } figcaption { font-size: .9em }
.pygal-chart { width: 100%; height: auto; font: 13px system-ui, sans-serif }
.pygal-chart text { fill: var(--text); stroke: none } .pygal-chart .background { fill: none } .pygal-chart .axis.y text { text-anchor: end }
.pygal-chart .axis.x text, .pygal-chart .title { text-anchor: middle } .pygal-chart .line { fill: none; stroke: var(--muted) }
.pygal-chart .guide.line { stroke: var(--rule) } .pygal-chart .series .line { stroke-width: 2 } .pygal-chart .series-dots { stroke: none }
.color-0 .line, .color-0 .dot { stroke: var(--plot-0) } rect.color-0, .color-0 .dot { fill: var(--plot-0) }
.color-1 .line, .color-1 .dot { stroke: var(--plot-1) } rect.color-1, .color-1 .dot { fill: var(--plot-1) }
.color-2 .line, .color-2 .dot { stroke: var(--plot-2) } rect.color-2, .color-2 .dot { fill: var(--plot-2) }
.color-3 .line, .color-3 .dot { stroke: var(--plot-3) } rect.color-3, .color-3 .dot { fill: var(--plot-3) }
.interval { max-width: 16rem; min-width: 9rem } .interval .axis.y { display: none } .interval .series .line { stroke-width: 5 }
.interval .color-2 .line { stroke-width: 2; stroke-dasharray: 4 3 } .interval .pygal-chart { font-size: 20px }
"""


def _chart(width: int, height: int, **settings: Any) -> Any:
    import pygal

    plain = {"explicit_size": False, "js": [], "css": [], "disable_xml_declaration": True, "truncate_label": -1, "truncate_legend": -1}
    chart = pygal.XY(width=width, height=height, margin=8, legend_at_bottom=True, **plain, **settings)
    chart.add_xml_filter(_bare)
    return chart


def _bare(root: Element) -> Element:
    """Only what is drawn: no scripts, styles, hidden texts or random names, so that the same numbers are the same bytes."""
    for parent in list(root.iter()):
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag in ("defs", "desc", "title") or "tooltip-overlay" in child.get("class", ""):
                parent.remove(child)
    for element in root.iter():
        element.attrib.pop("id", None)
    root.set("aria-hidden", "true")
    return root


def _svg(chart: Any) -> str:
    text: str = chart.render(is_unicode=True)
    return text


def curves(title: str, lines: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Lines over steps as a figure, with where each begins and ends in words. Nothing where there are no points."""
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    chart = _chart(640, 280, show_dots=max(map(len, lines.values())) <= 12, dots_size=3)
    for name, points in list(lines.items())[:COLOURS]:
        chart.add(name, spread(points), stroke_style=None)
    ends = "; ".join(
        f"{name} {p[0][1]:.4g} at step {p[0][0]:,}" + (f", {p[-1][1]:.4g} at step {p[-1][0]:,}" if len(p) > 1 else "")
        for name, p in lines.items()
    )
    return f"<figure>{_svg(chart)}<figcaption><b>{html.escape(title)}</b>: {html.escape(ends)}</figcaption></figure>"


def spread(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most `POINTS` of them and the last."""
    every = -(-len(points) // POINTS)
    return [p for i, p in enumerate(points) if i % every == 0 or i == len(points) - 1]


def interval(verdict: Verdict) -> str:
    """A verdict's interval, its value and the threshold on one scale. The same numbers are in the table's cells."""
    if verdict.value is None:
        return ""
    low, high = (verdict.value if end is None else end for end in (verdict.low, verdict.high))
    chart = _chart(320, 90, margin_right=28, show_legend=False, show_y_labels=False, x_labels_major_count=3, show_minor_x_labels=False)
    chart.add("interval", [(low, 0), (high, 0)], show_dots=False)
    chart.add("value", [(verdict.value, 0)], stroke=False, dots_size=8)
    chart.add("threshold", [(verdict.bound, -1), (verdict.bound, 1)], show_dots=False)
    return f'<div class="interval">{_svg(chart)}</div>'
