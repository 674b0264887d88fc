"""A page on which a person accepts or drops clips that a machine made. It works offline and writes a file that `import` reads."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

from qrecipe.files import digest
from qrecipe.report.markup import STYLE


def write_review(title: str, clips: Sequence[Mapping[str, Any]]) -> str:
    """The page.

    Args:
        title: what it is about.
        clips: `audio` relative to the page, `text`, `speaker` and `confidence`; the least certain are shown first.
    """
    order = sorted(clips, key=lambda c: (c["confidence"] is not None, c["confidence"] or 0.0, c["audio"]))
    data = json.dumps(order, ensure_ascii=False).replace("<", "\\u003c")  # a text may hold the end of a script
    page = Template((resources.files(__package__) / "review.html").read_text(encoding="utf-8"))
    return page.substitute(title=html.escape(title), style=STYLE, data=data, key=digest([c["audio"] for c in order])[:12])
