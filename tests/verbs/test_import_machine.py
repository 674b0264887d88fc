"""Recordings without labels: cut in silences, understood by a machine, reviewed by a person, imported again."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from qrecipe.errors import DataError, RecipeError
from qrecipe.evaluate.voice import listenable, speech_parts
from qrecipe.hashes import FileHashes
from qrecipe.inputs.sources import Options
from qrecipe.plan import make_plan
from qrecipe.recipe import load
from qrecipe.recipe.evaluator import Asr
from qrecipe.report.review import write_review
from qrecipe.verbs.import_ import Imported, ImportRequest, import_source, machine
from qrecipe.verbs.import_.machine import matched
from qrecipe.verbs.new import NewRecipe

pytest.importorskip("faster_whisper")

MALAY = Path(__file__).parents[2] / "recipes" / "data" / "malay"
ROWS = [json.loads(line) for line in (MALAY / "train.jsonl").read_text("utf-8").splitlines()][:10]
TEXTS = [r["text"] for r in ROWS]
PAUSE = 1.0


class Understands:
    """A recogniser that hears every sentence in its turn, some letters wrong, the third one badly."""

    def __init__(self) -> None:
        self.clips: list[int] = []

    def transcribe_scored(self, audio: Any, language: str) -> tuple[str, float]:
        assert language == "ms"
        i = len(self.clips)
        self.clips.append(len(audio))
        text = TEXTS[i % len(TEXTS)]
        return re.sub("[aeiou]", "e", text) if i == 2 else text.replace("k", "g").rstrip("."), 0.3 if i == 2 else 0.9


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten sentences in one file, a second of silence between them."""
    folder = tmp_path_factory.mktemp("talk")
    parts = []
    for r in ROWS:
        samples, rate = soundfile.read(str(MALAY / r["audio"]), dtype="float32")
        parts += [samples, np.zeros(int(PAUSE * rate), np.float32)]
    soundfile.write(str(folder / "talk.flac"), np.concatenate(parts), rate)
    return folder / "talk.flac"


def imported(source: Path, folder: Path, **options: Any) -> Imported:
    (folder / ".git").mkdir(parents=True, exist_ok=True)
    recipe = NewRecipe("malay", "ms", "projection-only", "builtin:mini", None, ["spanish"])
    return import_source(ImportRequest(source, Options(), None, recipe, folder, options.pop("recipe", True), **options))


def rows(folder: Path) -> list[dict[str, Any]]:
    data = folder / "data" / "malay"
    return [json.loads(line) for n in ("train", "dev") for line in (data / f"{n}.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture
def recogniser(monkeypatch: pytest.MonkeyPatch) -> Understands:
    understands = Understands()
    monkeypatch.setattr(machine, "_recogniser", lambda asr: understands)
    return understands


@pytest.mark.slow
def test_a_long_recording_is_cut_where_nobody_speaks(talk: Path) -> None:
    audio = listenable(talk)
    parts = speech_parts(audio)
    assert len(parts) == len(ROWS)
    at = 0.0
    for (start, end), r in zip(parts, ROWS, strict=True):
        length = soundfile.info(str(MALAY / r["audio"])).duration
        assert at - 0.2 <= start < end <= at + length + 0.4
        assert end - start > 0.7 * length
        at += length + PAUSE


@pytest.mark.slow
def test_what_a_machine_made_is_reviewed_and_imported_again(talk: Path, recogniser: Understands, tmp_path: Path) -> None:
    result = imported(talk, tmp_path, asr=Asr(model="wheel:whisper-base"))
    assert result.what == "1 recording without labels: cut in silences, transcribed by wheel:whisper-base"
    made = rows(tmp_path)
    assert len(made) == len(recogniser.clips) == len(ROWS)
    assert {r["confidence"] for r in made} == {0.3, 0.9}
    assert any("open" in n and "review.html" in n for n in result.notes)
    page = (tmp_path / "data" / "malay" / "review.html").read_text("utf-8")
    clips = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]  # there is one
    assert [c["confidence"] for c in clips] == [0.3] + [0.9] * 9
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "src=" not in re.sub(r"audio\"\)\.src", "", page)

    # what the page saves: the worst is dropped, one text corrected, one left open
    data = tmp_path / "data" / "malay"
    decisions = ["drop", *["accept"] * 8, "open"]
    review = [{**c, "audio": str(data / c["audio"]), "decision": d} for c, d in zip(clips, decisions)]
    review[1]["text"] = "Ayat yang sudah dibetulkan oleh orang."
    (tmp_path / "review.jsonl").write_text("".join(json.dumps(r) + "\n" for r in review), encoding="utf-8")
    again = imported(tmp_path / "review.jsonl", tmp_path, recipe=False)
    assert {k: len(v) for k, v in again.dropped.items()} == {"dropped in the review": 1, "not decided in the review": 1}
    kept = rows(tmp_path)
    assert len(kept) == 8
    assert "Ayat yang sudah dibetulkan oleh orang." in {r["text"] for r in kept}
    assert not any("confidence" in r for r in kept)
    assert make_plan(load(tmp_path / "malay.yaml"), FileHashes()).errors == []


@pytest.mark.slow
def test_a_transcript_is_matched_with_what_was_heard(talk: Path, recogniser: Understands, tmp_path: Path) -> None:
    (tmp_path / "talk.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    imported(talk, tmp_path, asr=Asr(model="wheel:whisper-base"), transcript=tmp_path / "talk.txt")
    made = {r["audio"]: r for r in rows(tmp_path)}
    assert [made[a]["text"] for a in sorted(made)] == TEXTS
    assert min(r["confidence"] for r in made.values()) > 0.5


def test_words_between_clips_belong_to_the_nearer_one() -> None:
    parts = matched("satu dua tiga empat lima enam", ["satu dua", "", "lima enem"])
    assert [p for p, _ in parts] == ["satu dua tiga", "", "empat lima enam"]
    assert parts[1][1] == 0.0
    assert [p for p, _ in matched("今天天气很好我们去公园", ["今天天汽很好", "我们去公元"])] == ["今天天气很好", "我们去公园"]


def test_words_at_borders_go_where_they_fit() -> None:
    """`tiga` was not heard, and stands as near to either clip."""
    heard = ["satu dua", "empat lima"]
    assert [p for p, _ in matched("satu dua tiga empat lima", heard)] in (["satu dua tiga", "empat lima"], ["satu dua", "tiga empat lima"])
    for said in (["satu dua tiga", "empat lima"], ["satu dua", "tiga empat lima"], ["satu", "dua tiga empat lima"]):
        parts = matched("satu dua tiga empat lima", heard, lambda clip, text, said=said: 0.9 if text == said[clip] else 0.1)  # type: ignore[misc]
        assert parts == [(text, 0.9) for text in said]


class Aligns(Understands):
    """A CTC model: it can say how well a text fits a clip, and hears each sentence without its last word."""

    aligns = True

    def transcribe_scored(self, audio: Any, language: str) -> tuple[str, float]:
        return super().transcribe_scored(audio, language)[0].rpartition(" ")[0], 0.5

    def letter_logs(self, audio: Any, language: str) -> Any:
        return len(self.clips) - 1

    def fit(self, logs: Any, text: str) -> float:
        return 0.8 if text == TEXTS[logs] else 0.2


def test_a_transcript_is_forced_onto_the_clips_by_a_ctc_model(talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_recogniser", lambda asr: Aligns())
    (tmp_path / "talk.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    imported(talk, tmp_path, asr=Asr(model="facebook/mms-1b-all"), transcript=tmp_path / "talk.txt")
    made = {r["audio"]: r for r in rows(tmp_path)}
    assert [(made[a]["text"], made[a]["confidence"]) for a in sorted(made)] == [(text, 0.8) for text in TEXTS]


def test_recordings_alone_need_a_recogniser(talk: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 recording without texts") as e:
        imported(talk, tmp_path)
    assert "--asr" in (e.value.problems[0].help or "")
    with pytest.raises(RecipeError, match="a transcript is matched with what a recogniser hears"):
        imported(talk, tmp_path, transcript=talk)
    with pytest.raises(RecipeError):
        imported(talk, tmp_path, asr=Asr(model="no/such-model"))
    assert not (tmp_path / "data").exists() or list((tmp_path / "data").iterdir()) == []


def test_texts_cannot_end_the_script_of_the_page() -> None:
    page = write_review("x", [{"audio": "clips/a.flac", "text": "</script><script>alert(1)", "speaker": None, "confidence": None}])
    assert page.count("</script>") == 2
    assert "alert(1)" in page
