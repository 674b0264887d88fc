"""What the base will say for a recipe: spelled, batched, named by its content, counted before anything happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qrecipe.hashes import FileHashes
from qrecipe.plan import Planned, make_plan
from qrecipe.plan.synthetic import Sentence, SyntheticDataset
from qrecipe.recipe import load
from tests.support import audio, recipes

TABLE = "respelling: 1\nfrom: ms\ninto: es\nalphabet: abcdefghijlmnopqrstuvyz\nrules:\n  - k -> c\n  - w -> u\ntests: {suka: suca, wang: uang}\n"
TRAIN = [{"match": "talker.model.codec_embedding", "rows": "languages", "lr": 1.0e-3}]
STAGE = {"id": "read", "objective": "respell", "data": ["text"], "train": TRAIN, "epochs": 1}


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Planned]:
    """Plans a recipe with one `respell` stage and fields replaced."""
    monkeypatch.setenv("QRECIPE_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    for i in range(2):
        audio.write(data / f"voice{i}.wav", audio.speech(i, 0.5))
    recipes.write_rows(data / "text.jsonl", [{"text": t} for t in recipes.MALAY])
    recipes.write_rows(data / "english.jsonl", [{"text": t} for t in recipes.ENGLISH])
    (data / "table.yaml").write_text(TABLE)

    def make(**changes: Any) -> Planned:
        fields: dict[str, Any] = {
            "languages": {
                "malay": {"bcp47": "ms", "init": {"copy": "spanish"}, "respelling": {"language": "spanish", "table": "data/table.yaml"}}
            },
            "datasets": {
                "text": {"kind": "text", "language": "malay", "path": "data/text.jsonl"},
                "english": {"kind": "text", "language": "english", "path": "data/english.jsonl"},
            },
            "teacher": {"voices": ["data/voice0.wav"]},
            "stages": [STAGE],
        }
        file = recipes.write(tmp_path, {**recipes.recipe(), **fields, **changes})
        return make_plan(load(file), FileHashes())

    return make


def test_sentences_are_spelled_for_the_reader(planned: Callable[..., Planned]) -> None:
    found = planned()
    assert not found.errors
    dataset = found.synthetic["text"]
    assert (dataset.language, dataset.spoken_as) == ("malay", "spanish")
    assert [s.spoken for s in dataset.sentences][1:3] == ["Saya suca macan nasi.", "Adic pergi ce secolah."]
    (taught,) = found.plan.stages[0].taught
    assert (taught.dataset, taught.spoken_as, taught.sentences, taught.voices) == ("text", "spanish", 6, 1)
    letters = sum(len(t) for t in recipes.MALAY)
    assert taught.frames == round(letters / 13.0 * 12.5)
    assert taught.positions == round(max(len(t) for t in recipes.MALAY) / 13.0 * 12.5), "one batch lasts as long as its longest"


def test_self_is_the_text_of_that_language_as_it_is(planned: Callable[..., Planned]) -> None:
    found = planned(stages=[{**STAGE, "data": ["text", {"use": "self", "language": "english", "share": 0.2}]}])
    assert not found.errors
    dataset = found.synthetic["english"]
    assert [s.text for s in dataset.sentences] == [s.spoken for s in dataset.sentences] == recipes.ENGLISH
    assert [(d.dataset, d.language, d.share) for d in found.plan.stages[0].data] == [
        ("text", "malay", None),
        ("self-english", "english", 0.2),
    ]
    assert [t.dataset for t in found.plan.stages[0].taught] == ["english", "text"]


def test_the_rows_of_old_languages_that_the_base_says_do_not_train(planned: Callable[..., Planned]) -> None:
    seen = [{"match": "talker.model.text_embedding", "rows": "seen", "lr": 1.0e-3}]
    alone = planned(stages=[{**STAGE, "train": seen}])
    both = planned(stages=[{**STAGE, "train": seen, "data": ["text", {"use": "self", "language": "english", "share": 0.2}]}])
    assert alone.trainables["read"].groups[0].rows == both.trainables["read"].groups[0].rows


def test_the_language_row_counts_as_taught(planned: Callable[..., Planned]) -> None:
    assert "QR028" not in {p.code for p in planned().problems}
    rate = [{"match": "talker.text_projection", "lr": 1.0e-3}]
    assert "QR028" in {p.code for p in planned(stages=[{**STAGE, "train": rate}]).problems}


def test_what_the_base_says_is_part_of_the_fingerprint(planned: Callable[..., Planned], tmp_path: Path) -> None:
    def fingerprint(**changes: Any) -> str:
        found = planned(**changes).plan.stages[0].fingerprint
        assert found is not None
        return found

    before = fingerprint()
    assert fingerprint() == before
    changed = [
        fingerprint(teacher={"voices": ["data/voice1.wav"]}),
        fingerprint(teacher={"voices": ["data/voice0.wav"], "seed": 1}),
    ]
    assert fingerprint(teacher={"voices": ["data/voice0.wav"], "batch": 2}) == before, "no part of what is said"
    (tmp_path / "data" / "table.yaml").write_text(TABLE.replace("k -> c", "k -> q").replace("suca", "suqa"))
    changed.append(fingerprint())
    assert len({before, *changed}) == 4


def test_where_nobody_speaks_voices_do_not_matter(planned: Callable[..., Planned]) -> None:
    train = [{"match": "talker.text_projection", "lr": 1.0e-3}]
    stage = {**STAGE, "objective": "embedding_match", "train": train}
    found = planned(stages=[stage], teacher={})
    assert not found.errors
    (taught,) = found.plan.stages[0].taught
    assert (taught.frames, taught.voices) == (0, 0)
    assert found.plan.stages[0].fingerprint == planned(stages=[stage]).plan.stages[0].fingerprint


def test_a_voice_that_is_missing_leaves_the_plan_incomplete(planned: Callable[..., Planned]) -> None:
    found = planned(teacher={"voices": ["data/nobody.wav"]})
    assert [p.code for p in found.problems if p.code == "QR040"]
    assert found.plan.stages[0].fingerprint is None


def test_voices_in_which_unread_sentences_judge_are_looked_at(planned: Callable[..., Planned], tmp_path: Path) -> None:
    """Though nothing else speaks: the base learns from text alone."""
    train = [{"match": "talker.model.text_embedding", "rows": "seen", "lr": 1.0e-3}]
    stage = {"id": "one", "objective": "text_lm", "data": ["text"], "train": train, "steps": 1}
    recipes.write_rows(tmp_path / "data" / "unread.jsonl", [{"text": t} for t in recipes.MALAY_DEV])
    kinds = {"text": "data/text.jsonl", "unread": "data/unread.jsonl"}
    fields: dict[str, Any] = {"datasets": {k: {"kind": "text", "language": "malay", "path": p} for k, p in kinds.items()}}
    fields |= {"stages": [stage], "accept": [{"metric": "runaway_rate", "data": "unread", "max": 0.5}]}

    def content(voice: str) -> tuple[str | None, list[str]]:
        found = planned(**fields, teacher={"voices": [voice]})
        return found.plan.datasets["unread"].sha256, [p.code for p in found.problems if p.code in ("QR040", "QR048")]

    one, other = content("data/voice0.wav"), content("data/voice1.wav")
    assert one[0] != other[0]
    assert one[0] is not None
    assert one[1] == other[1] == []
    assert content("data/nobody.wav") == (None, ["QR040"])
    assert content("../voice.wav") == (None, ["QR048"])


def test_paths_lead_out_of_the_folder_for_no_recipe(planned: Callable[..., Planned]) -> None:
    language = {"bcp47": "ms", "init": {"copy": "spanish"}, "respelling": {"language": "spanish", "table": "/etc/hostname"}}
    found = planned(languages={"malay": language}, teacher={"voices": ["../voice.wav", "data/voice0.wav"]})
    assert [p.code for p in found.errors] == ["QR048", "QR048"]


def test_sentences_added_at_the_end_leave_the_batches_before_as_they_were() -> None:
    def dataset(n: int) -> SyntheticDataset:
        return SyntheticDataset(
            "t", "malay", "spanish", tuple(Sentence(i, "", "a" * (1 + i * 7 % 31)) for i in range(n)), (Path("v"),), None
        )

    few, many = (list(dataset(n).batches(4)) for n in (64, 100))
    assert many[:16] == few
    assert sorted(i for b in many for i in b) == list(range(100))
    lengths = [len(dataset(64).sentences[i].spoken) for i in few[0]]
    assert lengths == sorted(lengths)


def test_the_time_that_it_takes_follows_from_the_bases_shape(planned: Callable[..., Planned]) -> None:
    """Six layers and seven times three: 27 layers a step. What is estimated is in no hash."""
    found = planned().plan
    (taught,) = found.stages[0].taught
    assert taught.seconds == pytest.approx(taught.positions * 27 * 8e-5, abs=0.05)
    guess = taught.model_copy(update={"seconds": 9.0, "frames": 1, "positions": 1})
    other = found.model_copy(update={"stages": [found.stages[0].model_copy(update={"taught": [guess]})]})
    assert other.hash == found.hash
    assert other.model_copy(update={"seed": 9}).hash != found.hash
