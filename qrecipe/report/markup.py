"""The frame of every page that is written for people: its head, its colours by day and in the dark, and its tables."""

from __future__ import annotations

import html
from collections.abc import Sequence

from qrecipe.report.plots import PLOT_STYLE

STYLE = (
    """
:root { color-scheme: light dark; --back: #fff; --text: #1a1a1a; --muted: #5c6066; --rule: #ddd; --good: #0a6b2d; --bad: #b00020;
  --open: #7d5200; --mark: #ffe3e6; --plot-0: #0b62a8; --plot-1: #b3510a; --plot-2: #7a2e8e; --plot-3: #0a6b2d }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --text: #e6e6e6; --muted: #9aa0a8; --rule: #33373d; --good: #6fd08c;
  --bad: #ff8a93; --open: #e0b060; --mark: #4a1f25; --plot-0: #6bb3f0; --plot-1: #f0a060; --plot-2: #d09ae0; --plot-3: #6fd08c } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 90rem; padding: 1rem; color: var(--text); background: var(--back) }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 } .scroll { overflow-x: auto; margin-bottom: 1.2rem } h2 { margin: 1.2rem 0 .3rem }
th, td { border-bottom: 1px solid var(--rule); padding: .35rem .6rem; text-align: left; vertical-align: top }
audio { width: 15rem; height: 2rem; display: block; margin: .15rem 0 } progress { width: 100%; max-width: 44rem; display: block }
del { color: var(--bad) } ins { color: var(--bad); background: var(--mark); text-decoration: none }
.pass, .kept, .accepted { color: var(--good) } .fail, .failed, .reverted, .rejected { color: var(--bad) } .undecided, .skipped { color: var(--open) }
.how, .number { color: var(--muted); font-size: .85em } td.number, td.value { white-space: nowrap } #state { font-size: 1.15em }
:focus-visible { outline: 3px solid var(--plot-0); outline-offset: 2px } section[hidden] { display: none }
"""
    + PLOT_STYLE
)


def document(title: str, body: str) -> str:
    """A page around its content, with the style of all pages."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<link rel="icon" href="data:,"><title>{html.escape(title)}</title><style>{STYLE}</style></head>',
        f"<body><main><h1>{html.escape(title)}</h1>",
        body,
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def table(name: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    """A table that is scrolled sideways where the page is too narrow, with the keyboard too."""
    cells = "".join(f'<th scope="col">{html.escape(h)}</th>' if h else "<td></td>" for h in heads)
    scrolled = (
        f'class="scroll" id="{html.escape(name.replace(" ", "-"))}-table" role="region" aria-label="{html.escape(name)}" tabindex="0"'
    )
    return f"<div {scrolled}><table><thead><tr>{cells}</tr></thead><tbody>{chr(10).join(rows)}</tbody></table></div>"
