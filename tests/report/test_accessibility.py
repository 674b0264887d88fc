"""Pages that are written as files can be used by everybody: axe-core has no serious finding, and a phone cuts nothing off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qrecipe.report.data_page import DatasetPage, PageRow, write_data_page
from qrecipe.report.listening import listening_page
from qrecipe.report.review import write_review
from tests.support import audio
from tests.support.browser import browser, serious_findings  # noqa: F401  # a fixture
from tests.support.shared import Finished
from tests.verbs.test_listen import pairs

pytestmark = pytest.mark.slow


def data_page(folder: Path) -> str:
    row = PageRow(3, "Selamat pagi.", audio.write(folder / "x.wav", audio.speech(1, 0.3)), "12 dB")
    quantiles = {"snr": {"5 %": 10.0, "50 %": 20.0}}
    dataset = DatasetPage("speech", 100, quantiles, {"snr": (10.0, 3)}, {"snr": [row]}, [row], [[1, 2]], {"": 0.3})
    return write_data_page("Data of malay", [dataset])


def review_page(folder: Path) -> str:
    clips = [{"audio": f"{c}.wav", "text": "Selamat pagi.", "speaker": "", "confidence": c} for c in (0.3, 0.8)]
    return write_review("Clips", clips)


def listening(folder: Path) -> str:
    return listening_page("Two readings", pairs(), "five")


def fits(page: Any) -> bool:
    return bool(page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth"))


@pytest.mark.parametrize("write", [data_page, review_page, listening])
def test_pages(write: Any, browser: Any, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "page.html"
    file.write_text(write(tmp_path), encoding="utf-8")
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto(file.as_uri())
    assert serious_findings(page) == []
    assert fits(page)
    page.close()


def test_the_page_of_a_run(browser: Any, finished: Finished) -> None:  # noqa: F811
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto((finished.runs / "tiny" / "report.html").as_uri())
    assert serious_findings(page) == []
    assert fits(page)
    page.close()
