"""`import`: sources of every kind end in data and a recipe that validates, plans and trains without an edit by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soundfile

from qrecipe import sentences
from qrecipe.cli.import_ import _columns
from qrecipe.data import audio
from qrecipe.errors import DataError, QRecipeError, RecipeError
from qrecipe.hashes import FileHashes
from qrecipe.inputs.sources import FORMATS, Options
from qrecipe.inputs.texts import near_key
from qrecipe.plan import make_plan
from qrecipe.qwen3 import SAMPLE_RATE
from qrecipe.recipe import load
from qrecipe.report.imported import as_text
from qrecipe.verbs.import_ import Imported, ImportRequest, import_source
from qrecipe.verbs.import_.split import split
from qrecipe.verbs.new import NewRecipe
from tests.support import sources
from tests.support.running import run_recipe


def imported(source: Path, folder: Path, columns: str | None = None, **options: Any) -> Imported:
    """Imports into a repository of its own, with a recipe on the embedded base."""
    (folder / ".git").mkdir(parents=True, exist_ok=True)
    recipe = NewRecipe("malay", "ms", options.pop("template", "projection-only"), "builtin:mini", None, ["spanish"])
    stated = Options(_columns(columns), options.pop("audio", None))
    return import_source(ImportRequest(source, stated, options.pop("kind", None), recipe, folder, True, **options))


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "data" / "malay" / f"{name}.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", sources.KINDS)
def test_a_source_becomes_a_recipe_that_plans(kind: str, tmp_path: Path) -> None:
    about = sources.KINDS[kind]
    result = imported(about.make(tmp_path / "source"), tmp_path / "recipes", about.columns)
    assert result.what.startswith(about.recognised)
    assert result.dropped == {}
    both = rows(tmp_path / "recipes", "train") + rows(tmp_path / "recipes", "dev")
    assert sorted(r["text"] for r in both) == sorted(sources.TEXTS)
    assert len({r.get("speaker") for r in both}) == about.speakers
    for row in both:  # each text has its own recording
        sound, rate = soundfile.read(tmp_path / "recipes" / "data" / "malay" / row["audio"])
        own = sources.clip(sources.TEXTS.index(row["text"]))
        assert abs(len(sound) / rate - sources.SECONDS) < 0.11
        assert abs(float(abs(sound).max()) - float(abs(own).max())) < 0.2
    planned = make_plan(load(result.recipe), FileHashes())
    assert planned.errors == []
    assert planned.plan.complete
    assert planned.plan.datasets["speech"].rows == result.sets["train"]["rows"] == len(sources.TEXTS) - result.sets["dev"]["rows"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ljspeech", "parquet"])
def test_what_is_imported_is_read_as_a_run_reads_it(kind: str, tmp_path: Path) -> None:
    about = sources.KINDS[kind]
    result = imported(about.make(tmp_path / "source"), tmp_path / "recipes", about.columns)
    assert result.recipe is not None
    speech = load(result.recipe).recipe.datasets["speech"]
    files = [(tmp_path / "recipes" / speech.path).parent / r["audio"] for r in rows(tmp_path / "recipes", "train")]
    clips = [audio.load(file, 30.0) for file in files]
    assert clips
    assert all(len(clip.samples) > SAMPLE_RATE // 4 for clip in clips)


@pytest.mark.slow
def test_an_import_trains(mini: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps on the embedded base, on clips of a long recording; it speaks fewer sentences than ship, and no gate judges."""
    monkeypatch.setattr(sentences, "replay", lambda language: ["The sky is blue.", "We walk to the river."])
    monkeypatch.setattr(sentences, "keep", lambda language: ["She reads a book."])
    about = sources.KINDS["srt"]
    result = imported(about.make(tmp_path / "source"), tmp_path / "recipes", about.columns)
    quick = ["stages.language.epochs=3", "stages.language.gates=[]", "teacher.slowest=30", "accept=[]"]
    assert result.recipe is not None
    outcome = run_recipe(result.recipe, tmp_path, sets=quick, until="language")
    events = [json.loads(line) for line in (tmp_path / "runs" / "malay" / "events.jsonl").read_text("utf-8").splitlines()]
    assert len([e for e in events if e["event"] == "step"]) == 3, outcome.status
    assert [e["dataset"] for e in events if e["event"] == "row_skipped"] == []


@pytest.mark.slow
def test_the_same_source_gives_the_same_files(tmp_path: Path) -> None:
    source = sources.common_voice(tmp_path / "source")
    for name in ("a", "b"):
        imported(source, tmp_path / name)
    for file in ("train.jsonl", "dev.jsonl", "README.md"):
        assert (tmp_path / "a/data/malay" / file).read_bytes() == (tmp_path / "b/data/malay" / file).read_bytes()


def test_recordings_of_the_repository_stay_where_they_are(tmp_path: Path) -> None:
    imported(sources.ljspeech(tmp_path / "recordings"), tmp_path)
    assert {r["audio"].rpartition("/")[0] for r in rows(tmp_path, "train")} == {"../../recordings/wavs"}
    assert not (tmp_path / "data" / "malay" / "clips").exists()


@pytest.mark.slow
def test_recordings_elsewhere_are_copied_unless_the_person_says_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sources.ljspeech(tmp_path / "source")
    assert any(n.startswith("copied 12 recordings") for n in imported(source, tmp_path / "a").notes)
    result = imported(source, tmp_path / "b", copy=False)
    assert {r["audio"].rpartition("/")[0] for r in rows(tmp_path / "b", "train")} == {str(source / "wavs")}
    assert {p.code for p in make_plan(load(result.recipe), FileHashes()).errors} == {"QR048"}
    monkeypatch.setenv("QRECIPE_ALLOW", str(source))
    assert make_plan(load(result.recipe), FileHashes()).errors == []


LISTS = {
    "vits": ("train_filelist.txt", "wavs/{id}.wav|{speaker}|{text}"),
    "piper": ("metadata.csv", "{id}|{speaker}|{text}"),
    "gpt-sovits": ("train.list", "/somewhere/else/{id}.wav|{speaker}|MS|{text}"),
    "styletts": ("list.txt", "wavs/{id}.wav|{text}|{speaker}"),
}
"""Lists of other tools: name of the file, form of a line."""


@pytest.mark.parametrize(("name", "line"), LISTS.values(), ids=LISTS)
def test_a_list_without_a_header_names_speakers(name: str, line: str, tmp_path: Path) -> None:
    folder = sources.ljspeech(tmp_path / "source")
    (folder / "metadata.csv").unlink()
    rows_ = [line.format(id=f"LJ{i:03d}", speaker=("anna", "budi")[i % 2], text=t) for i, t in enumerate(sources.TEXTS)]
    sources.lines(folder / name, rows_)
    imported(folder, tmp_path)
    both = rows(tmp_path, "train") + rows(tmp_path, "dev")
    assert {r["text"] for r in both} == set(sources.TEXTS)
    assert {r["speaker"] for r in both} == {"anna", "budi"}


def test_words_of_a_single_column_are_texts_however_often_they_stand(tmp_path: Path) -> None:
    folder = sources.ljspeech(tmp_path / "source")
    words = ["satu", "dua", "tiga"]
    sources.lines(folder / "metadata.csv", [f"LJ{i:03d}|{words[i % 3]}" for i in range(len(sources.TEXTS))])
    imported(folder, tmp_path)
    assert {r["text"] for r in rows(tmp_path, "train")} <= set(words)


FAULTS = {
    "": "the text is empty",
    "...": "the text has no letter and no digit",
    "a" * 400: "the text is far too long for its recording",
}


CLIPPED = "the recording is clipped: samples are cut off at the loudest level"


@pytest.mark.parametrize("embedded", [False, True], ids=["files", "in a table"])
def test_recordings_that_a_run_would_refuse_are_left_out_and_counted(embedded: bool, tmp_path: Path) -> None:
    """By their samples, each kind in one sentence, however much of each recording is wrong."""
    folder = tmp_path / "source"
    (sources.webdataset if embedded else sources.ljspeech)(folder)
    faults: list[tuple[str, Callable[[Any], Any]]] = [
        *((CLIPPED, lambda sound, times=times: (times * sound).clip(-1, 1)) for times in (5, 10, 20)),
        (CLIPPED, lambda sound: (20 * sound).clip(-0.7, 0.7)),
        ("the recording is silent", lambda sound: 0 * sound),
        ("the recording is silent", lambda sound: 1e-4 * sound),
    ]
    spoilt = [(f"bad{i}.wav", spoil(sources.clip(i)), f"Ini rekod yang {i} kali rosak.") for i, (_, spoil) in enumerate(faults)]
    if embedded:
        members = [(name, audio.encoded(sound, sources.RATE, "WAV", "PCM_16"), text) for name, sound, text in spoilt]
        sources.tar(folder / "9999.tar", [m for n, c, t in members for m in ((n, c), (n.replace("wav", "txt"), t.encode()))])
    else:
        for name, sound, text in spoilt:
            soundfile.write(folder / "wavs" / name, sound, sources.RATE)
            with open(folder / "metadata.csv", "a", encoding="utf-8") as f:
                f.write(f"{name.removesuffix('.wav')}|{text}|{text}\n")
    result = imported(folder, tmp_path / "recipes")
    assert {reason: len(places) for reason, places in result.dropped.items()} == {CLIPPED: 4, "the recording is silent": 2}
    assert f"left out 4 rows: {CLIPPED} (" in as_text(result.as_json(), result.dropped)
    assert sum(s["rows"] for s in result.sets.values()) == len(sources.TEXTS)


@pytest.mark.slow
def test_what_cannot_be_used_is_left_out_and_said_once_a_kind(tmp_path: Path) -> None:
    """Faulty rows of every kind among good ones; what was left out is kept with its reason."""
    folder = sources.ljspeech(tmp_path / "source")
    (folder / "wavs" / "noise.wav").write_bytes(b"no sound at all")
    for name in ("twice", "again"):
        sources.write(folder / "wavs" / f"{name}.wav", 30)
    soundfile.write(str(folder / "wavs" / "long.wav"), [0.1] * 8000 * 31, 8000)
    bad = [f"LJ{i:03d}|x|{text}" for i, text in enumerate(FAULTS) if text]
    bad += ["absent|x|Tiada di sini.", "absent2|x|Tiada juga.", "noise|x|Bukan bunyi.", "long|x|" + "Panjang sekali. " * 9]
    bad += ["twice|x|Dua kali sahaja.", "twice|x|dua kali sahaja", "again|x|Lain pula.", "only two|columns"]
    with open(folder / "metadata.csv", "a", encoding="utf-8") as f:
        f.write("".join(line + "\n" for line in bad))
    result = imported(folder, tmp_path / "recipes")
    reasons = {reason: len(places) for reason, places in result.dropped.items()}
    assert reasons == {
        "the text has no letter and no digit": 1,
        "the text is far too long for its recording": 1,
        "there is no such recording": 2,
        "the recording cannot be read as audio": 1,
        "the recording is longer than 30 s: cut it, or import it with subtitles or labels": 1,
        "the same recording and text stand in an earlier row": 1,
        "the same recording stands in an earlier row with another text": 1,
        "2 columns where the first row has 3": 1,
    }
    assert result.dropped["there is no such recording"] == ["metadata.csv:15:1", "metadata.csv:16:1"]
    assert len(rows(tmp_path / "recipes", "left-out")) == sum(reasons.values())
    assert "left out 2 rows: there is no such recording (metadata.csv:15:1" in as_text(result.as_json(), result.dropped)
    assert make_plan(load(result.recipe), FileHashes()).errors == []


def test_rows_of_another_language_are_left_out_and_counted(tmp_path: Path) -> None:
    source = sources.nemo(tmp_path / "source")
    lines = source.read_text("utf-8").splitlines()
    source.write_text("\n".join([lines[0].replace('"lang": "ms"', '"lang": "en"'), *lines[1:]]), "utf-8")
    result = imported(source, tmp_path / "recipes")
    assert result.dropped == {"its language is `en`": ["manifest.json:1:1"]}
    assert "languages that the rows state: `ms` 11, `en` 1" in result.notes
    source.write_text("\n".join(lines).replace('"lang": "ms"', '"lang": "msa"'), "utf-8")
    assert imported(source, tmp_path / "other").dropped == {}, "a code that no row knows means nothing"


def refused(source: Path, folder: Path, columns: str | None = None, **options: Any) -> QRecipeError:
    with pytest.raises((DataError, RecipeError)) as e:
        imported(source, folder, columns, **options)
    assert not [p for p in folder.rglob("*") if p.name != ".git" and p.parts[-1] != "data"], "nothing is half written"
    return e.value


@pytest.mark.slow
def test_what_is_no_source_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "this is not any known source" in str(refused(empty, out))
    assert "there is no such file or folder" in str(refused(tmp_path / "absent" / "x" / "y", out))
    assert "no format is called `parket`" in str(refused(empty, out, kind="parket"))
    table = sources.spreadsheet(tmp_path / "table")
    error = refused(table, out)
    assert "which column holds text is not known" in str(error)
    assert "no column is called `Klang`" in str(refused(table, out, "audio=Klang,text=Said"))
    assert "a row holds no `sound`" in str(refused(table, out, "sound=Sound"))
    few = sources.lines(tmp_path / "few" / "metadata.csv", ["a|x|Satu.", "b|x|Dua."])
    assert "0 recordings can be used; 4 at least are needed" in str(refused(few, out))
    subtitles = sources.srt(tmp_path / "srt")
    (subtitles.parent / "talk.mp3").rename(subtitles.parent / "a.mp3")
    sources.write(subtitles.parent / "b.wav", 1)
    assert "several recordings, none of its name" in str(refused(subtitles, out))
    assert imported(subtitles, tmp_path / "stated", audio=subtitles.parent / "a.mp3").dropped == {}
    monkeypatch.setitem(sys.modules, "datasets", None)
    missing = refused(Path("owner/name@abc"), out)
    assert "is read with `datasets`, which is not installed" in str(missing)


def test_an_import_overwrites_nothing(tmp_path: Path) -> None:
    source = sources.ljspeech(tmp_path / "source")
    imported(source, tmp_path / "a")
    before = {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    with pytest.raises(RecipeError, match="overwrites nothing"):
        imported(source, tmp_path / "a")
    assert {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()} == before


def test_a_damaged_or_interrupted_source_leaves_nothing_behind(tmp_path: Path) -> None:
    source = sources.webdataset(tmp_path / "source")
    shard = source / "0001.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    result = imported(source, tmp_path / "a")
    assert [r for r in result.dropped if r.startswith("the archive breaks off")]
    assert result.sets["train"]["rows"] + result.sets["dev"]["rows"] >= 6

    def interrupt(what: str, done: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    recipe = NewRecipe("malay", "ms", "ladder", "builtin:mini", None, ["spanish"])
    with pytest.raises(KeyboardInterrupt):
        import_source(ImportRequest(source, Options(), None, recipe, tmp_path / "b", True), interrupt)
    assert [p for p in (tmp_path / "b").rglob("*") if p.name != "data"] == []


def test_a_dataset_of_the_hub_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for `datasets`, whose network no test has: what is asked of it, and what becomes of its rows."""
    asked: list[tuple[Any, ...]] = []

    class Stream(list[Any]):
        features = {"audio": SimpleNamespace(), "transcription": None}

    def load_dataset(name: str, config: str | None, **options: Any) -> Stream:
        asked.append((name, config, options["revision"], options["split"], options["streaming"]))
        return Stream(sources._rows(0, 6) if options["split"] == "train" else sources._rows(6))

    def names(name: str, config: str | None, revision: str | None) -> list[str]:
        return ["train", "test"]

    stand_in = SimpleNamespace(load_dataset=load_dataset, get_dataset_split_names=names, Audio=type("Audio", (), {}))
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    monkeypatch.chdir(tmp_path)
    result = imported(Path("owner/speech:ms@abc123"), tmp_path / "recipes")
    assert asked == [("owner/speech", "ms", "abc123", s, True) for s in ("train", "test")]
    assert sorted(r["text"] for n in ("train", "dev") for r in rows(tmp_path / "recipes", n)) == sorted(sources.TEXTS)
    assert "- **revision**: abc123" in (tmp_path / "recipes/data/malay/README.md").read_text("utf-8")
    assert result.what.startswith("owner/speech of the Hugging Face hub, splits train, test")


def test_near_duplicates_never_stand_on_both_sides() -> None:
    """Case, signs, quotes and composition make no other sentence; whoever says them."""
    forms = ("Café „{}“!", "cafe\u0301 '{}'", "CAFÉ {}")
    for speakers in (1, 2, 6, 40):
        texts = [(f.format(i // 3), f"s{i * 7 % speakers}") for i in range(600) for f in forms[i % 3 : i % 3 + 1]]
        parts = split(texts)
        sides = [{near_key(texts[i][0]) for i in side} for side in (parts.train, parts.dev)]
        assert not sides[0] & sides[1]
        assert 10 <= len(parts.dev) <= 120
        assert sorted(parts.train + parts.dev + parts.unused) == list(range(600))
        assert split(texts) == parts
        voices = [{texts[i][1] for i in side} for side in (parts.train, parts.dev)]
        assert parts.rule.startswith("by speaker" if not voices[0] & voices[1] else "by sentence")


def test_speakers_judge_where_there_are_several() -> None:
    parts = split([(f"Ayat nombor {'abcdefghij'[i // 10 % 10]}{'abcdefghij'[i % 10]} {i // 100}", f"s{i % 20}") for i in range(400)])
    assert parts.rule.startswith("by speaker")
    assert not {i % 20 for i in parts.train} & {i % 20 for i in parts.dev}
    assert parts.unused == []


def test_every_format_names_itself() -> None:
    assert all(f.title for f in FORMATS.values())


def test_a_recording_that_cannot_be_a_voice_is_not_chosen_as_one(tmp_path: Path) -> None:
    """In all but two next to nothing is heard: that may train, but ends a run at a reference."""
    folder = sources.KINDS["ljspeech"].make(tmp_path / "source")
    files = sorted(folder.rglob("*.wav"))
    for file in files[:-2]:
        sound, rate = soundfile.read(file)
        sound[rate // 5 :] = 0
        soundfile.write(file, sound, rate)
    result = imported(folder, tmp_path / "recipes", template="ladder")
    assert result.recipe is not None
    references = {row["reference"] for row in rows(tmp_path / "recipes", "dev")}
    assert references
    voices = {name for name in result.recipe.read_text("utf-8").replace(",", " ").replace("]", " ").split() if name.endswith(".wav")}
    assert {Path(name).stem for name in references | voices} <= {f.stem for f in files[-2:]}
