"""`watch`: the page of a run that has not begun, goes on, was killed, failed or is over; and what a person meets in a browser."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from qrecipe.errors import UserError
from qrecipe.files import write_json
from qrecipe.report.history import STATES as ENDS
from qrecipe.report.history import WAITING
from qrecipe.report.serve import Site, served
from qrecipe.run.events import EVENTS, PROGRESS, Events
from qrecipe.run.store import HEARD, HELD
from qrecipe.store import Journal, key_of
from qrecipe.verbs import watch
from qrecipe.verbs.watch import RunFolder, exported, require_run, watching_site
from tests.report.test_history import VERDICT, stage, started, step
from tests.support.browser import browser, serious_findings  # noqa: F401  # a fixture
from tests.support.commands import here
from tests.support.shared import Finished
from tests.verbs.test_listen import STATES, TEXTS, run  # noqa: F401  # a fixture

BEGUN = [started(language="", talker=""), stage("talker", STATES["talker"]), step(1, 1.0), step(2, 3.0)]


def tell(folder: Path, *events: dict[str, Any]) -> None:
    with open(folder / EVENTS, "a") as f:
        f.writelines(json.dumps(e) + "\n" for e in events)


@pytest.fixture
def folder(run: Path) -> Path:  # noqa: F811
    tell(run, *BEGUN)
    return run


def test_a_run_that_goes_on(folder: Path) -> None:
    here_ = RunFolder(folder)
    page, version = here_.page(embedded=False), here_.version()
    assert here_.version() == version, "nothing new, nothing to load"
    assert "Running: stage talker." in page
    assert "talker: step 2 of 20" in page
    assert "2 s a step; at most 36 s of training left in this stage" in page
    assert "at step 1, 4.8 at step 2" in page
    assert page.count("<audio") == 6, "of the base and of the one stage that the events name"
    tell(folder, VERDICT)
    assert here_.version() != version
    assert 'class="pass"' in here_.page(embedded=False)
    write_json(folder / PROGRESS, {"event": "speaking", "time": 9.5, "what": "speaking dev", "done": 3, "of": 9})
    assert "speaking dev: 3 of 9" in here_.page(embedded=False)
    tell(folder, step(3, 11.0))
    assert "speaking dev" not in here_.page(embedded=False), "that is over"


def test_samples_are_shown_as_they_are_spoken_and_heard(folder: Path) -> None:
    here_ = RunFolder(folder)
    here_.page(embedded=False)
    new = folder / "stages" / STATES["base"][:16] / "samples" / "dev" / "0456"
    (folder / "stages" / STATES["base"][:16] / "samples" / "dev" / "0123").rename(new)
    assert here_.page(embedded=False).count("<audio") == 6
    evaluator = {"backend": "x", "normalisation": {"version": 2, "tag": "ms"}}
    tell(folder, {**VERDICT, "evaluator": evaluator})
    samples, _ = soundfile.read(str(new / "1.flac"), dtype="float32")
    Journal(folder / HEARD).add({key_of(["heard", evaluator, hashlib.sha256(samples.tobytes()).hexdigest()]): "selamat malam"})
    assert "selamat <del>pagi</del> <ins>malam</ins>" in here_.page(embedded=False)


def test_a_run_that_was_killed_and_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "QUIET", -1.0)
    holds = "import fcntl, sys; f = open(sys.argv[1], 'a+b'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", holds, str(folder / HELD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    here_ = RunFolder(folder)
    assert "Running: stage talker." in here_.page(embedded=False)
    version = here_.version()
    process.kill()
    process.communicate()
    assert here_.version() != version
    page = here_.page(embedded=False)
    assert ENDS["killed"] in page
    assert "left in this stage" not in page
    tell(folder, started(language="", talker="goes on after step 2"))
    assert "goes on after step 2" in here_.page(embedded=False)


def test_a_run_that_is_over_has_the_page_that_it_wrote(finished: Finished) -> None:
    folder = finished.runs / "tiny"
    written = (folder / "report.html").read_text("utf-8")
    assert RunFolder(folder).page(embedded=False) == written
    for part in ("Accepted: every gate", "<h2>Stages</h2>", "<h2>Gates</h2>", 'class="interval"', "<figure>", "0.1.0"):
        assert part in written
    assert "<script" not in written
    assert not (folder / PROGRESS).exists()


def test_progress_is_left_for_those_who_watch(tmp_path: Path) -> None:
    events = Events(tmp_path / "tiny" / EVENTS)
    events.tell("speaking", what="speaking dev", done=1, of=2)
    assert json.loads((tmp_path / "tiny" / PROGRESS).read_text())["what"] == "speaking dev"
    events.close()
    assert [f.name for f in (tmp_path / "tiny").iterdir()] == [EVENTS]


def test_no_run_yet(tmp_path: Path) -> None:
    absent = require_run(tmp_path / "runs" / "malai")
    assert WAITING in absent.page(embedded=False)
    (tmp_path / "runs" / "malay").mkdir(parents=True)
    (tmp_path / "runs" / "malay" / EVENTS).touch()
    with pytest.raises(UserError) as e:
        exported(absent)
    assert "malay" in str(e.value.problems[0].help)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "x").touch()
    for wrong in (tmp_path / "else", tmp_path / "else" / "x"):
        with pytest.raises(UserError):
            require_run(wrong)
    done = here("watch", "else", "--export", "x.html", cwd=tmp_path, environment={})
    assert (done.returncode, "this folder holds no run" in done.stderr) == (2, True)


def test_one_file(folder: Path, tmp_path: Path) -> None:
    done = here("watch", str(folder), "--export", "page.html", cwd=tmp_path, environment={})
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count('src="data:audio/') == 6
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "&lt;/script&gt;" in page, "a text is no HTML"


def test_routes(folder: Path) -> None:
    site = watching_site(require_run(folder))
    page = site.get("/")
    assert page is not None
    assert "script-src 'nonce-" in page.headers["Content-Security-Policy"]
    source = page.content.decode().partition('src="/sound/')[2].partition('"')[0]
    sound = site.get(f"/sound/{source}")
    assert sound is not None
    assert sound.content.startswith(b"fLaC")
    assert [site.get(p) for p in ("/sound/", "/sound/../run.json", "/run.json", "/events.jsonl")] == [None] * 4
    assert site.post is None


# In a browser


@pytest.fixture
def address(folder: Path) -> Iterator[tuple[str, Site]]:
    site = watching_site(require_run(folder))
    with served(site) as where:
        yield where, site


@pytest.mark.slow
def test_the_page_follows_the_run(browser: Any, folder: Path, address: tuple[str, Site], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """On a phone, with the keyboard alone, in the dark: what is new appears, and what is heard and read stays where it is."""
    page = browser.new_page(viewport={"width": 360, "height": 740})
    errors: list[str] = []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(address[0])
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing is cut off on a phone"
    assert serious_findings(page) == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "stages-table", "tables are scrolled with the keyboard"
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.getElementById('stages-table').scrollLeft > 0")
    page.locator("audio").first.evaluate("a => { a.loop = true; return a.play() }")
    tell(folder, step(3, 5.0), VERDICT)
    page.wait_for_function("() => document.getElementById('now').textContent.includes('step 3 of 20')")
    page.wait_for_function("() => document.getElementById('gates').textContent.includes('cer(dev) max 0.4')")
    assert page.evaluate("document.activeElement.id") == "stages-table"
    assert page.evaluate("document.getElementById('stages-table').scrollLeft") > 0
    assert not page.locator("audio").first.evaluate("a => a.paused")
    tell(folder, {"event": "run_finished", "time": 9.0, "status": "rejected", "seconds": {"training": 3.0}})
    page.wait_for_function("() => document.getElementById('state').textContent.startsWith('Not accepted')")
    assert errors == []
    page.close()


@pytest.mark.slow
def test_one_file_offline(browser: Any, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "page.html"
    file.write_text(exported(require_run(folder)), encoding="utf-8")
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(file.as_uri())
    first = page.locator("audio").first
    first.evaluate("a => a.load()")
    page.wait_for_function("() => document.querySelector('audio').duration > 0.05")
    assert TEXTS[0] in str(first.get_attribute("aria-label"))
    assert serious_findings(page) == []
    context.close()


@pytest.mark.slow
def test_a_page_whose_program_has_ended(browser: Any, address: tuple[str, Site]) -> None:  # noqa: F811
    page = browser.new_page()
    page.goto(address[0])
    page.context.set_offline(True)
    page.wait_for_function("() => document.getElementById('state').textContent.startsWith('qrecipe watch has ended')")
    assert page.locator("#stages").is_visible()
    page.context.set_offline(False)
    page.wait_for_function("() => document.getElementById('state').textContent.startsWith('Running')")
    page.close()
