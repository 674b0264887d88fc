"""Meaning and remedy of each code: the rows of docs/problems.md, and examples of the mistake and its remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources

import yaml

from qrecipe.errors import CODES
from qrecipe.shipped import problems_page

_ROW = re.compile(r"^\| (QR\d{3}) \| (.+?) \| (.+) \|$", flags=re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")


@dataclass(frozen=True)
class Explanation:
    """A code, explained."""

    code: str
    meaning: str
    remedy: str
    wrong: str | None
    """Lines of a recipe that have this problem."""
    right: str | None
    """The same without it."""

    def as_text(self) -> str:
        """As people read it."""
        text = f"{self.code}: {self.meaning}\n\nWhat to do: {self.remedy}\n"
        for title, example in (("Wrong", self.wrong), ("Right", self.right)):
            if example is not None:
                text += f"\n{title}:\n\n" + "".join(f"    {line}\n" for line in example.splitlines())
        return text


def explanations() -> dict[str, Explanation]:
    """Every code of `CODES`, explained."""
    remedies = {code: remedy for code, _, remedy in _ROW.findall(problems_page().read_text(encoding="utf-8"))}
    examples = yaml.safe_load((resources.files("qrecipe.report") / "examples.yaml").read_text(encoding="utf-8"))
    explained = {}
    for code, kind in CODES.items():
        example = examples.get(code, {})
        remedy = _LINK.sub(lambda m: f"docs/{m[1]}" if m[1].endswith(".md") else m[1], remedies[code]).replace("\\|", "|")
        explained[code] = Explanation(code, kind.meaning, remedy, example.get("wrong"), example.get("right"))
    return explained
