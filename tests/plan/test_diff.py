"""What changed in meaning between two recipes, and what did not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from qrecipe.errors import UserError
from qrecipe.hashes import FileHashes
from qrecipe.plan import make_plan
from qrecipe.plan.diff import Difference, compare
from qrecipe.recipe import load
from qrecipe.recipe.revisions import at_revision
from qrecipe.report.diff import as_markdown, as_text

BROKEN = Path(__file__).parents[1] / "recipe" / "broken"
OLD = (BROKEN / "sound.yaml").read_text(encoding="utf-8")
Changed = Callable[..., Difference]


@pytest.fixture
def changed(tmp_path: Path) -> Changed:
    """`changed(("text", "other text"), ...)`: the difference from the sound recipe to the one with texts replaced."""
    shutil.copytree(BROKEN / "data", tmp_path / "data")
    (tmp_path / "old.yaml").write_text(OLD, encoding="utf-8")

    def make(*replacements: tuple[str, str]) -> Difference:
        text = OLD
        for before, after in replacements:
            assert before in text
            text = text.replace(before, after)
        (tmp_path / "new.yaml").write_text(text, encoding="utf-8")
        hashes = FileHashes(tmp_path / "hashes.sqlite")
        return compare(make_plan(load(tmp_path / "old.yaml"), hashes), make_plan(load(tmp_path / "new.yaml"), hashes))

    return make


def said(difference: Difference) -> list[tuple[str, str]]:
    return [(c.where, c.what) for c in difference.changes]


def again(difference: Difference) -> dict[str, str | None]:
    return {s.stage: s.reason for s in difference.stages}


def test_formatting_and_composition_change_nothing(changed: Changed, tmp_path: Path) -> None:
    found = changed(
        ("lr: 5.0e-5", "lr: 0.00005"),
        ("base: {model: builtin:mini}", "# a comment\nbase:\n  model: 'builtin:mini'"),
        ("epochs: 1", "epochs: 1.0"),
    )
    assert (said(found), again(found)) == ([], {"text": None, "language": None})
    (tmp_path / "new.yaml").write_text("qrecipe: 1\nextends: old.yaml\n")
    hashes = FileHashes(tmp_path / "hashes.sqlite")
    found = compare(make_plan(load(tmp_path / "old.yaml"), hashes), make_plan(load(tmp_path / "new.yaml"), hashes))
    assert said(found) == []
    assert "nothing changed in meaning" in as_text(found, "x")


def test_another_spelling_of_the_same_tensors_is_no_other_training(changed: Changed) -> None:
    found = changed(("talker.text_projection", "talker.text_projection.*"))
    assert said(found) == []


def test_rates_and_what_trains(changed: Changed) -> None:
    found = changed(
        ("lr: 5.0e-5}", "lr: 1.0e-4}\n      - {match: talker.codec_head, lr: 1.0e-5}"),
        ("rows: languages, lr: 1.0e-3", "rows: languages, lr: 1.0e-3, weight_decay: 0.1"),
    )
    whats = [w for where, w in said(found) if where == "stage language"]
    assert "weight decay of talker.model.codec_embedding (rows: languages): 0 -> 0.1" in whats
    assert "talker.text_projection learns at 0.0001 instead of 5e-05" in whats
    assert any(w.startswith("now trains talker.codec_head at 1e-05, ") for w in whats)
    assert any(w.startswith("parameters that train: ") for w in whats)
    assert again(found) == {"text": None, "language": "what it learns from or how it learns changed"}


def test_an_earlier_stage_makes_later_ones_run_again(changed: Changed) -> None:
    found = changed(("lr: 1.0e-4}\n    epochs: 1", "lr: 1.0e-4}\n    epochs: 2"))
    assert said(found) == [("stage text", "epochs: 1 -> 2")]
    assert again(found) == {"text": "what it learns from or how it learns changed", "language": "it follows `text`"}


def test_gates_change_what_is_judged_and_nothing_that_is_trained(changed: Changed) -> None:
    found = changed(
        ("min_decrease: 0.1", "min_decrease: 0.2"),
        ("max: 0.2}", "max: 0.2, severity: warn}"),
        ("epochs: 1\n    gates", "epochs: 1\n    on_fail: revert\n    gates"),
    )
    assert said(found) == [
        ("stage language", "on_fail: stop -> revert"),
        ("stage language", "gate removed: talker_nll(dev) min_decrease 0.1 over base"),
        ("stage language", "gate added: talker_nll(dev) min_decrease 0.2 over base"),
        ("accept", "gate runaway_rate(keep) max 0.2: severity: error -> warn"),
    ]
    assert set(again(found).values()) == {None}


def test_data_by_content(changed: Changed, tmp_path: Path) -> None:
    rows = (tmp_path / "data" / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "data" / "fewer.jsonl").write_text("".join(rows[:50]))
    (tmp_path / "data" / "same.jsonl").write_text("".join(rows))
    found = changed(("path: data/train.jsonl", "path: data/fewer.jsonl"))
    assert said(found) == [("data", "`speech`: path: data/train.jsonl -> data/fewer.jsonl")]
    assert again(found)["language"] == "what it learns from or how it learns changed"
    assert again(changed(("path: data/train.jsonl", "path: data/same.jsonl"))) == {"text": None, "language": None}


def test_base_and_languages_begin_anew(changed: Changed) -> None:
    found = changed(("builtin:mini", "Qwen/Qwen3-TTS-12Hz-0.6B-Base"), ("mean_of: [english]", "copy: german"))
    assert ("base", "builtin:mini -> Qwen/Qwen3-TTS-12Hz-0.6B-Base@5d83992436ea") in said(found)
    assert again(found)["text"] == "the base, a language or the seed changed"


def test_markdown_shows_patterns_as_they_are(changed: Changed) -> None:
    found = changed(("match: talker.text_projection", "match: talker.model.layers.*.mlp"))
    text = as_markdown(found, "recipes/malay.yaml since main")
    assert r"now trains talker.model.layers.\*.mlp at 5e-05" in text
    assert text.startswith("### recipes/malay.yaml since main\n")


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_against_a_revision(tmp_path: Path) -> None:
    shutil.copytree(BROKEN / "data", tmp_path / "recipes" / "data")
    recipe = tmp_path / "recipes" / "r.yaml"
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "t.yaml").write_text(OLD.replace("path: data/", "path: ../recipes/data/"))
    recipe.write_text("qrecipe: 1\nextends: ../templates/t.yaml\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "templates" / "t.yaml").write_text((tmp_path / "templates" / "t.yaml").read_text().replace("5.0e-5", "9.0e-5"))
    hashes = FileHashes(tmp_path / "hashes.sqlite")
    with at_revision(recipe, "HEAD") as before:
        found = compare(make_plan(load(before), hashes), make_plan(load(recipe), hashes))
    assert said(found) == [("stage language", "talker.text_projection learns at 9e-05 instead of 5e-05")]
    assert not before.exists()
    for revision in ("nowhere", "--output=x"):
        with pytest.raises(UserError, match="is no revision"), at_revision(recipe, revision):
            pass
    with pytest.raises(UserError, match=r"recipes/s\.yaml is not in HEAD"), at_revision(tmp_path / "recipes" / "s.yaml", "HEAD"):
        pass
