"""Passwords and tokens do not get into recipes, events, errors or cards; text of strangers stays text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from qrecipe.bundle.card import escape, model_card
from qrecipe.errors import EngineError, Place, Problem
from qrecipe.inputs.documents.bundle import BundleStage
from qrecipe.plan import make_plan
from qrecipe.recipe import inspect, load
from qrecipe.redaction import looks_secret, redact
from qrecipe.run.events import Events
from tests.support import recipes

TOKEN = "hf_" + "abcdefghij" * 3
SECRETS = [
    TOKEN,
    "https://me:hunter22@example.org/x",
    "ghp_" + "a1" * 20,
    "AKIAIOSFODNN7EXAMPLE",
    "https://example.org/file?token=0123456789abcdef",
    "-----BEGIN RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_forms_that_are_known(secret: str) -> None:
    assert looks_secret(f"a {secret} b")
    assert "[secret]" in redact(f"a {secret} b")


@pytest.mark.parametrize(
    "text", ["hf_short", "Qwen/Qwen3-TTS-12Hz-1.7B-Base", "fd4b254389122332181a7c3db7f27e918eec64e3", "https://a.b/c:d@e"]
)
def test_plain_texts(text: str) -> None:
    assert not looks_secret(text)
    assert redact(text) == text


def test_the_environment_s_tokens_are_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of any form: in an error, in a problem, in an event."""
    monkeypatch.setenv("MY_HUB_TOKEN", "correct horse battery")
    assert "horse" not in str(EngineError("401 for correct horse battery"))
    problem = Problem("QR050", "cannot get it: correct horse battery", Place("r.yaml"), "try correct horse battery")
    assert "horse" not in json.dumps(problem.as_json())
    events = Events(tmp_path / "events.jsonl")
    events.emit("run_failed", message="correct horse battery", nested={"x": [TOKEN]})
    events.close()
    text = (tmp_path / "events.jsonl").read_text()
    assert "horse" not in text
    assert TOKEN not in text
    assert json.loads(text)["event"] == "run_failed"


@pytest.mark.parametrize("at", ["description", "vars", "base"])
def test_a_recipe_with_a_secret_is_refused(at: str, tmp_path: Path) -> None:
    """So that no lock, card or bundle can hold it. The message does not repeat it."""
    changes = {"description": {"description": f"x {TOKEN}"}, "vars": {"vars": {"a": TOKEN}}, "base": {"base": {"model": SECRETS[1]}}}[at]
    loaded, problems = inspect(recipes.write(tmp_path, recipes.recipe(**changes)))
    assert loaded is None
    assert [p.code for p in problems] == ["QR017"]
    assert TOKEN not in str(problems)


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert Problem("QR041", "a\x1b[2Jb\x07", Place("m")).message == "a?[2Jb?"


HOSTILE = "</td><script>alert(1)</script> | [x](javascript:alert(1)) `code` ![i](http://e.org/p.png) **b** \n\n# H"


def test_the_card_is_plain_text(tmp_path: Path) -> None:
    """Whatever a description, a language or a folder is called."""
    planned = make_plan(
        load(
            recipes.write(
                tmp_path,
                recipes.recipe(
                    description=HOSTILE,
                    languages={'x"`|<b>': {"bcp47": "ms", "init": {"copy": "english"}}},
                    datasets={
                        "speech": {"kind": "speech", "language": 'x"`|<b>', "path": "data/train.jsonl"},
                        "replay": {"kind": "speech", "language": "english", "path": "data/english.jsonl"},
                    },
                ),
            )
        )
    )
    plan = planned.plan.model_copy(update={"base": planned.plan.base.model_copy(update={"model": HOSTILE, "revision": "`|<i>"})})
    stages = [BundleStage(id=s.id, status="kept", fingerprint=None, parameters=1) for s in plan.stages]
    card = model_card(plan, stages, {})
    _, front, body = card.split("---\n", 2)
    assert set(yaml.safe_load(front)) <= {"language", "library_name", "pipeline_tag", "tags", "base_model", "base_model_relation"}
    outside = "".join(part for i, part in enumerate(body.split("```")) if i % 2 == 0)
    assert "<script" not in outside
    assert "<b>" not in outside
    assert re.findall(r"(?<!\\)\]\((.*?)\)", outside) == [], "nothing links to what may not exist"
    assert "![" not in outside
    assert body.count("```") == 2, "the one block of code"
    rows = [line for line in outside.splitlines() if line.startswith("| ") and "ms" in line]
    assert [line.replace("\\|", "").count("|") for line in rows] == [4]
    assert escape("a\nb") == "a b"
