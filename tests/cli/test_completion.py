"""What a shell completes: verbs, recipes, ids of stages, values of `--set`, templates and codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def completed(words: str, cwd: Path = ROOT) -> list[str]:
    """What bash would offer for the last word."""
    typed = words.split(" ")
    environment = {**os.environ, "_QRECIPE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(typed) - 1)}
    program = "import sys; sys.argv = ['qrecipe']; from qrecipe.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=cwd, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
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
        ("qrecipe explain QR01", [f"QR01{i}" for i in range(9)]),
    ],
)
def test_completion(words: str, offered: list[str]) -> None:
    assert completed(words) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell: str) -> None:
    done = subprocess.run([sys.executable, "-m", "qrecipe", "completion", shell], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "_QRECIPE_COMPLETE" in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
