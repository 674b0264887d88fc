"""What a shell completes: verbs, recipes, ids of stages, values of `--set`, templates and codes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import commands

ROOT = Path(__file__).parents[2]


def completed(words: str, cwd: Path = ROOT) -> list[str]:
    """What bash would offer for the last word."""
    typed = words.split(" ")
    environment = {**os.environ, "_QRECIPE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(typed) - 1)}
    done = commands.here(cwd=cwd, environment=environment)
    return [line.split(",", 1)[1] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("qrecipe va", ["validate"]),
        ("qrecipe plan tur", ["recipes/turkish.yaml"]),
        ("qrecipe plan recipes/turk", ["recipes/turkish.yaml"]),
        ("qrecipe run recipes/turkish.yaml --until l", ["language"]),
        ("qrecipe plan recipes/turkish.yaml --set stages.lan", ["stages.language"]),
        ("qrecipe plan recipes/turkish.yaml --set stages.language.ep", ["stages.language.epochs="]),
        ("qrecipe new --template two", ["two-stage"]),
        ("qrecipe explain QR01", [f"QR01{i}" for i in range(10)]),
    ],
)
def test_completion(words: str, offered: list[str]) -> None:
    assert completed(words) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell: str) -> None:
    done = commands.here("completion", shell, cwd=ROOT, environment=dict(os.environ))
    assert "_QRECIPE_COMPLETE" in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
