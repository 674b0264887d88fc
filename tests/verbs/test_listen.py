"""`listen`: pairs that a run stored, heard blindly; ballots that are sent or saved; the page in a real browser."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from qrecipe.errors import UserError
from qrecipe.evaluate.samples import BATCH
from qrecipe.files import sealed, write_json
from qrecipe.inputs.ballots import read_ballots
from qrecipe.report.listening import HeardPair, Sound, listening_page, pair_of, set_id
from qrecipe.report.serve import Response, served
from qrecipe.verbs.listen import ListenRequest, listening_site, pairs_of
from tests.support.browser import browser, serious_findings  # noqa: F401  # a fixture
from tests.support.commands import here

STATES = {"base": "a" * 64, "language": "b" * 64, "talker": "c" * 64}
TEXTS = ["Selamat pagi.", "Apa khabar?", "Hujan turun </script>."]


def noise(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).integers(-3000, 3000, 2400).astype(np.int16).astype(np.float32) / 2**15


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder as far as listening reads it: two stages and the base spoke three sentences."""
    folder = tmp_path / "runs" / "malay"
    for name, state in STATES.items():
        batch = folder / "stages" / state[:16] / "samples" / "dev" / "0123"
        batch.mkdir(parents=True)
        entries = []
        for line, text in enumerate(TEXTS, start=1):
            soundfile.write(str(batch / f"{line}.flac"), noise(f"{name}{line}"), 24_000, subtype="PCM_16")
            entries.append({"line": line, "text": text, "codes": [[1]], "audio_sha256": "x"})
        about = {"layout": "streaming", "prompt": "x_vector", "seed": 0, "language": "malay"}
        write_json(batch / BATCH, sealed({**about, "samples": entries}))
    stages = [{"id": s, "status": "kept", "fingerprint": STATES[s]} for s in ("language", "talker")]
    record = {
        "recipe": "malay",
        "status": "rejected",
        "file": "malay.yaml",
        "sets": [],
        "start": STATES["base"],
        "plan": "d" * 64,
        "base": {"model": "builtin:mini", "revision": None, "folder": ""},
        "languages": {"malay": 2072},
        "stages": stages,
        "accept": [],
    }
    write_json(folder / "run.json", record)
    return folder


def key(name: str) -> str:
    return hashlib.sha256(noise(name).tobytes()).hexdigest()


def test_pairs_of_a_run(run: Path) -> None:
    title, pairs = pairs_of(ListenRequest(str(run)))
    assert title == "malay: two readings"
    assert [p.text for p in pairs] == TEXTS
    assert [{s.sha256 for s in p.sounds} for p in pairs] == [{key(f"talker{i}"), key(f"base{i}")} for i in (1, 2, 3)]
    _, pairs = pairs_of(ListenRequest(f"{run}@language", against="talker", pairs=2))
    assert [{s.sha256 for s in p.sounds} for p in pairs] == [{key(f"language{i}"), key(f"talker{i}")} for i in (1, 2)]


def test_the_order_of_the_sounds_says_nothing(run: Path) -> None:
    _, pairs = pairs_of(ListenRequest(str(run)))
    for pair in pairs:
        assert pair.sounds[0].sha256 < pair.sounds[1].sha256
    page = listening_page("x", pairs, "ab")
    assert not re.search("base|talker|stage", json.dumps(_data(page)["pairs"]).replace("base64", "")), "nothing names a model"


def _data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, flags=re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"against": "langage"}, "the run has no stage `langage`"),
        ({"data": "keep"}, "both spoke no `keep`"),
        ({"target": "nowhere"}, "holds no run"),
        ({"against": "talker"}, "said nothing that can be compared"),
    ],
)
def test_what_cannot_be_heard(changes: dict[str, str], says: str, run: Path) -> None:
    with pytest.raises(UserError) as e:
        pairs_of(ListenRequest(**{"target": str(run), **changes}))
    assert says in e.value.problems[0].message


def test_a_bundle_is_heard_through_its_run(run: Path, tmp_path: Path) -> None:
    from tests.bundle.test_servers import MANIFEST

    bundle = tmp_path / "malay-0.1.0"
    write_json(bundle / "bundle.json", {**MANIFEST, "plan": "d" * 64})
    assert len(pairs_of(ListenRequest(str(bundle), runs=run.parent))[1]) == 3
    write_json(bundle / "bundle.json", {**MANIFEST, "plan": "e" * 64})
    with pytest.raises(UserError, match="another run than the one that made this bundle"):
        pairs_of(ListenRequest(str(bundle), runs=run.parent))


def test_a_damaged_sound_is_left_out(run: Path) -> None:
    batch = run / "stages" / STATES["base"][:16] / "samples" / "dev" / "0123"
    (batch / "2.flac").unlink()
    assert [p.text for p in pairs_of(ListenRequest(str(run)))[1]] == [TEXTS[0], TEXTS[2]]
    (batch / BATCH).write_text("{")
    with pytest.raises(UserError):
        pairs_of(ListenRequest(str(run)))


def pairs() -> list[HeardPair]:
    def sound(name: str) -> Sound:
        import io

        file = io.BytesIO()
        soundfile.write(file, noise(name), 24_000, format="FLAC", subtype="PCM_16")
        return Sound(key(name), file.getvalue())

    return [pair_of(text, sound(f"m{i}"), sound(f"b{i}")) for i, text in enumerate(TEXTS)]


def answers(listener: str = "anna", **changes: Any) -> bytes:
    given = [{"text": p.text, "first": p.sounds[0].sha256, "second": p.sounds[1].sha256, "answer": 2} for p in pairs()]
    return json.dumps({"ballot": 1, "listener": listener, "scale": "ab", "answers": given, **changes}).encode()


def test_answers_become_a_ballot(tmp_path: Path) -> None:
    site = listening_site("x", pairs(), "ab", tmp_path / "votes")
    assert site.post is not None
    kept = site.post("/ballot", answers())
    assert kept is not None
    assert kept.status == 200
    ballots, problems = read_ballots(tmp_path, "votes/*.json", tmp_path)
    assert ([b.listener for b in ballots], problems) == (["anna"], [])
    again = site.post("/ballot", answers())
    assert again is not None
    assert (again.status, b"has answered already" in again.content) == (409, True)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (answers("../x"), 400),
        (answers(answers=[]), 400),
        (answers(answers=[{"text": "", "first": "0" * 64, "second": "1" * 64, "answer": 0}]), 409),
        (b"[]", 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (answers().replace(b'"answer": 2', b'"answer": NaN'), 400),
        (answers().replace(b"anna", b"\\ud800"), 400),
    ],
)
def test_answers_that_are_none(body: bytes, status: int, tmp_path: Path) -> None:
    site = listening_site("x", pairs(), "ab", tmp_path / "votes")
    assert site.post is not None
    answer = site.post("/ballot", body)
    assert isinstance(answer, Response)
    assert answer.status == status
    assert not (tmp_path / "votes").exists()


def test_export(run: Path, tmp_path: Path) -> None:
    done = here("listen", str(run), "--export", "page.html", "--scale", "five", cwd=tmp_path, environment={})
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text("utf-8")
    assert _data(page)["submit"] is None
    assert page.count("data:audio/flac;base64,") == 6
    assert "http" not in page.replace("http-equiv", "")
    assert "</script>." not in page, "text of a recipe ends no script"


def test_an_address_that_is_taken(run: Path, tmp_path: Path) -> None:
    with served(listening_site("x", pairs(), "ab", tmp_path)) as address:
        port = address.rstrip("/").rpartition(":")[2]
        done = here("listen", str(run), "--port", port, cwd=tmp_path, environment={})
    assert (done.returncode, "cannot listen on" in done.stderr) == (2, True)


# In a browser


@pytest.fixture
def votes(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    with served(listening_site("Two readings", pairs(), "ab", tmp_path / "votes")) as address:
        yield address, tmp_path / "votes"


def _vote(page: Any, sentences: int) -> None:
    """Answers with the keyboard alone."""
    for _ in range(sentences):
        page.locator("#choices input").first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")


@pytest.mark.slow
def test_a_vote_in_a_browser_with_the_keyboard_and_a_reload(browser: Any, votes: tuple[str, Path]) -> None:  # noqa: F811
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
    errors: list[str] = []
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.goto(votes[0])
    page.locator("#listener").fill("anna")
    page.keyboard.press("Enter")
    assert page.locator("#where").inner_text() == "Sentence 1 of 3"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing is cut off on a phone"
    page.wait_for_function("document.getElementById('soundA').duration > 0.05")
    findings = serious_findings(page)
    _vote(page, 2)
    first = page.locator("#text").inner_text()
    page.reload()
    page.locator("#listener").fill("anna")
    page.keyboard.press("Enter")
    assert page.locator("#where").inner_text() == "Sentence 3 of 3"
    assert page.locator("#text").inner_text() == first, "the order stays"
    _vote(page, 1)
    page.locator("#send").click()
    page.wait_for_function("document.getElementById('message').textContent.startsWith('Kept')")
    (ballot,), problems = read_ballots(votes[1].parent, "votes/*.json", votes[1].parent)
    assert problems == []
    assert {frozenset((a.first, a.second)) for a in ballot.answers} == {frozenset(s.sha256 for s in p.sounds) for p in pairs()}
    assert findings == []
    assert errors == []
    page.close()


@pytest.mark.slow
def test_a_page_without_the_program_saves_a_ballot(browser: Any, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "page.html"
    file.write_text(listening_page("Two readings", pairs(), "five"), encoding="utf-8")
    context = browser.new_context(offline=True, accept_downloads=True)
    page = context.new_page()
    page.goto(file.as_uri())
    page.locator("#listener").fill("bela")
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('soundB').duration > 0.05")
    _vote(page, 3)
    with page.expect_download() as download:
        page.locator("#file").click()
    (tmp_path / "votes").mkdir()
    name = download.value.suggested_filename
    assert name == f"bela-{set_id(pairs())[:8]}.json"
    download.value.save_as(tmp_path / "votes" / name)
    (ballot,), problems = read_ballots(tmp_path, "votes/*.json", tmp_path)
    assert problems == [], "sealed by the page itself"
    assert (ballot.listener, ballot.scale, len(ballot.answers)) == ("bela", "five", 3)
    context.close()
