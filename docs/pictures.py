"""The README's pictures, from a finished run: its page, its last verdicts, and what a mistake in its recipe looks like.

    python docs/pictures.py runs/malay recipes/malay.yaml        # writes docs/page.png, docs/verdict.svg, docs/error.svg

Needs the `dev` extra and chromium.
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console, RenderableType
from rich.text import Text

from qrecipe.report.history import EventReader
from qrecipe.report.page import PAGE
from qrecipe.report.tables import verdict_table
from qrecipe.run.events import EVENTS

DOCS = Path(__file__).resolve().parent
COLUMNS = 118
SIZE = {"width": 1000, "height": 1250}
"""Of the page's picture, in pixels."""
COLOURS = 200
"""Of the page's picture: few are in it, and fewer are fewer bytes."""
MISTAKES = {"talker.model.layers,": "talker.model.layer,", "min_decrease: 0.3, baseline": "min_decrase: 0.3, baseline"}
"""Right and wrong spellings of the recipe."""


def terminal(content: RenderableType, name: str) -> None:
    """Writes a picture of a terminal, with no font from elsewhere."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(content)
    svg = console.export_svg(title="qrecipe", unique_id=name)
    svg = re.sub(r"<!--.*?-->\s*|@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    (DOCS / f"{name}.svg").write_text(svg, encoding="utf-8")


def output_of(command: list[str], folder: Path) -> str:
    """What a command writes to a terminal of this width, colours and all."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 4096):
            parts.append(part)
    except OSError:  # the terminal ends with the process
        pass
    process.wait()
    return b"".join(parts).decode("utf-8").replace("\r\n", "\n")


def picture_of_error(recipe: Path) -> None:
    """The recipe with two slips of the pen, validated."""
    text = recipe.read_text("utf-8")
    for right, wrong in MISTAKES.items():
        assert right in text, f"{recipe} has no `{right}`"
        text = text.replace(right, wrong, 1)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(recipe.parent, Path(folder) / "recipes")
        (Path(folder) / "recipes" / recipe.name).write_text(text, "utf-8")
        command = [sys.executable, "-m", "qrecipe", "validate", f"recipes/{recipe.name}"]
        written = output_of(command, Path(folder))
    terminal(Text.from_ansi(f"$ qrecipe validate recipes/{recipe.name}\n{written}"), "error")


def picture_of_page(page: Path) -> None:
    """The top of a run's page."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shown = browser.new_page(viewport=SIZE)
        shown.goto(page.resolve().as_uri())
        picture = Image.open(io.BytesIO(shown.screenshot()))
        browser.close()
    picture.convert("RGB").quantize(COLOURS).save(DOCS / "page.png", optimize=True)


def main() -> None:
    """Writes the three."""
    parser = argparse.ArgumentParser(description="The README's pictures.")
    parser.add_argument("run", type=Path, help="folder of a run that is over")
    parser.add_argument("recipe", type=Path, help="its recipe")
    arguments = parser.parse_args()
    history = EventReader(arguments.run / EVENTS).read()
    where, verdicts = list(history.verdicts.items())[-1]
    terminal(verdict_table(where, [v.model_dump() for v in verdicts]), "verdict")
    picture_of_error(arguments.recipe)
    picture_of_page(arguments.run / PAGE)


if __name__ == "__main__":
    main()
