"""A difference of two recipes as text and as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterator

from qrecipe.plan.diff import Change, Difference

NOTHING = "nothing changed in meaning"


def as_text(difference: Difference, title: str) -> str:
    """Changes under what they belong to, then which stages would run again."""
    lines = [title]
    for where, changes in _grouped(difference.changes):
        lines += ["", where, *(f"  {c.what}" for c in changes)]
    if not difference.changes:
        lines += ["", NOTHING]
    return "\n".join([*lines, "", *_stages(difference)]) + "\n"


def as_markdown(difference: Difference, title: str) -> str:
    """The same for a pull request."""
    lines = [f"### {title}", ""]
    for where, changes in _grouped(difference.changes):
        lines += [f"**{where}**", "", *(f"- {_escaped(c.what)}" for c in changes), ""]
    if not difference.changes:
        lines += [f"{NOTHING.capitalize()}.", ""]
    return "\n".join([*lines, *(f"- {_escaped(s)}" for s in _stages(difference))]) + "\n"


def _stages(difference: Difference) -> Iterator[str]:
    again = [f"{s.stage} ({s.reason})" for s in difference.stages if s.reason is not None]
    stay = [s.stage for s in difference.stages if s.reason is None]
    if again:
        yield "would run again: " + ", ".join(again)
    if stay:
        yield "would be reused: " + ", ".join(stay)


def _grouped(changes: list[Change]) -> Iterator[tuple[str, list[Change]]]:
    for where in dict.fromkeys(c.where for c in changes):
        yield where, [c for c in changes if c.where == where]


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is: patterns hold stars and underscores. What stands in backticks stays."""
    parts = text.split("`")
    return "`".join(p if i % 2 else p.translate({ord(c): f"\\{c}" for c in "*_[]<>"}) for i, p in enumerate(parts))
