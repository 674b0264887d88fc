"""Packages of other versions than this environment's, in a folder of their own that a child process looks into first.

Everything else, torch above all, is shared with this environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qrecipe.files import digest, new_folder

CACHE = "QRECIPE_TEST_PACKAGES"
"""Environment variable that names the folder of such folders; default: `~/.cache/qrecipe-tests`."""
SECONDS = 300


def packages(*requirements: str) -> dict[str, str]:
    """Environment of a process that imports these packages, installed once, without what they depend on.

    Skips the test, with the reason, where they cannot be installed.
    """
    pool = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "qrecipe-tests")
    folder = pool / digest([sys.version_info[:2], *requirements])[:16]
    if not folder.is_dir():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target"]
        with new_folder(folder) as temporary:
            try:
                done = subprocess.run(
                    [*install, str(temporary), *requirements], capture_output=True, text=True, timeout=SECONDS, check=False
                )
                reason = done.stderr.strip().splitlines()[-1:] if done.returncode else None
            except subprocess.TimeoutExpired:
                reason = [f"pip took more than {SECONDS} s"]
            if reason is not None:
                pytest.skip(f"NOT TESTED: {', '.join(requirements)} cannot be installed: {' '.join(reason)}")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]), "HF_HUB_OFFLINE": "1"}
