"""A real browser: Debian's chromium, driven by playwright. Tests that need it are skipped, and say so, where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

NEEDED = "QRECIPE_BROWSER_REQUIRED"
"""Set in CI: without a browser its tests fail instead of being skipped."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    missing = None if path else "chromium"
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "playwright"
    if missing is not None:
        reason = f"NOT TESTED: pages in a browser need {missing}"
        if os.environ.get(NEEDED):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"])
        yield running
        running.close()


def serious_findings(page: Any) -> list[str]:
    """What axe-core finds in a page that keeps people from using it, by day and in the dark."""
    from axe_playwright_python.base import AXE_SCRIPT

    findings = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(600)  # colours fade into one another
        page.evaluate(AXE_SCRIPT)
        for violation in page.evaluate("axe.run()")["violations"]:
            if violation["impact"] in ("serious", "critical"):
                findings += [f"{scheme}: {violation['id']}: {node['html'][:200]}" for node in violation["nodes"]]
    return findings
