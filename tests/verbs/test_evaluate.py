"""`evaluate` and `compare` as a person uses them: folders, documents with schemas, pages, resumption."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from qrecipe.errors import Place, UserError
from qrecipe.inputs.documents.check import check
from qrecipe.model.generate import speech
from qrecipe.recipe import load
from qrecipe.recipe.evaluator import Asr, Evaluators
from qrecipe.recipe.recipe import Evaluation
from qrecipe.report.tables import comparison_table, statistics_table
from qrecipe.verbs.evaluate import EvaluationRequest, compare, evaluate, from_recipe
from tests.support import recipes
from tests.support.running import run_recipe

METRICS = ["talker_nll", "duration_ratio", "silence_share"]


def request(folder: Path, **more: Any) -> EvaluationRequest:
    settings = Evaluation(seeds=[0], prompts=2, batch=2, layouts=["streaming"], frame_cap=1.0)
    fields: dict[str, Any] = {
        "data": folder / "data" / "dev.jsonl",
        "metrics": METRICS,
        "language": "english",
        "settings": settings,
        "reference": folder / "data" / "ref.wav",
        "out": folder / "out",
    }
    return EvaluationRequest(**{**fields, **more})


@pytest.fixture
def place(tmp_path: Path, mini: Any) -> Path:
    recipes.write_data(tmp_path)
    return tmp_path


def test_an_evaluation_leaves_a_document_samples_and_a_page(place: Path) -> None:
    found = evaluate("builtin:mini", request(place))
    document = json.loads((place / "out" / "evaluation.json").read_text())
    assert check("evaluation", document, Place("x")) == []
    assert document == json.loads(found.model_dump_json())
    assert found.metrics.keys() == set(METRICS)
    assert found.metrics["silence_share"].recordings is not None
    assert found.metrics["duration_ratio"].recordings is None
    assert [i["line"] for i in found.items] == [1, 2, 3]
    assert [(s.line, s.seed, s.transcript) for s in found.samples] == [(1, 0, None), (2, 0, None)]
    for sample in found.samples:
        assert sample.audio is not None
        assert (place / "out" / sample.audio).is_file()
    page = (place / "out" / "report.html").read_text()
    assert page.count("<audio") == 4
    assert "http" not in page
    assert recipes.MALAY_DEV[0] in page


def test_one_prompt_has_no_interval_in_any_place(place: Path) -> None:
    few = request(place, settings=Evaluation(seeds=[0], prompts=1, batch=1, layouts=["streaming"], frame_cap=1.0))
    comparison = compare("builtin:mini", "builtin:mini", few)
    document = json.loads((place / "out" / "comparison.json").read_text())
    assert check("comparison", document, Place("x")) == []
    for name in ("duration_ratio", "silence_share"):
        statistics = (document["a"]["metrics"][name], document["differences"][name])
        assert [(s["low"], s["high"]) for s in statistics] == [(None, None)] * 2
        assert comparison.verdicts[name] == "undecided"
    tables = Console(width=200)
    with tables.capture() as shown:
        tables.print(statistics_table("A", comparison.a.metrics), comparison_table("A and B", comparison))
    assert len(re.findall(r"\bnone\b", shown.get())) == 4
    assert "<td>none</td>" in (place / "out" / "report.html").read_text()


def test_a_language_that_the_recogniser_does_not_know_is_refused_before_anything_is_spoken(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("faster_whisper", "jiwer"):
        pytest.importorskip(package)
    (place / "asr").mkdir()
    (place / "asr" / "config.json").write_text("{}")
    (place / "asr" / "tokenizer.json").write_text('["<|en|>", "<|no|>"]')
    monkeypatch.setattr("qrecipe.verbs.evaluate.measure", pytest.fail)
    evaluators = Evaluators(asr=Asr(model="./asr"))
    with pytest.raises(UserError, match="knows no language `nb`") as refused:
        evaluate("builtin:mini", request(place, metrics=["cer"], evaluators=evaluators, root=place, tags={"english": "nb"}))
    assert refused.value.problems[0].place.file == "--bcp47", "there is no recipe whose `evaluators` could say it"


def test_the_same_command_speaks_only_what_is_missing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken: list[int] = []
    real = speech.speak

    def listening(opened: Any, script: Any, only: Any) -> Any:
        spoken.extend(sorted({script.requests[i].seed for i in only}))
        return real(opened, script, only)

    monkeypatch.setattr(speech, "speak", listening)
    first = evaluate("builtin:mini", request(place))
    assert spoken == [0]
    again = evaluate("builtin:mini", request(place))
    assert (spoken, again.metrics) == ([0], first.metrics)
    evaluate("builtin:mini", request(place, settings=request(place).settings.model_copy(update={"seeds": [0, 1]})))
    assert spoken == [0, 1]
    for flac in (place / "out" / "samples").rglob("1.flac"):
        flac.write_bytes(flac.read_bytes()[:-10])
    assert evaluate("builtin:mini", request(place)).metrics == first.metrics
    assert spoken == [0, 1, 0]


def test_a_model_compared_with_itself_does_not_differ(place: Path) -> None:
    found = compare("builtin:mini", "builtin:mini", request(place))
    document = json.loads((place / "out" / "comparison.json").read_text())
    assert check("comparison", document, Place("x")) == []
    assert {(s.value, s.low, s.high) for s in found.differences.values()} == {(0.0, 0.0, 0.0)}
    assert set(found.verdicts.values()) == {"undecided"}
    assert "A: builtin:mini" in (place / "out" / "report.html").read_text()


def test_a_recipe_gives_its_settings_and_its_gates(tiny: Callable[..., Path], tmp_path: Path) -> None:
    accept = [
        {"metric": "duration_ratio", "data": "dev", "min": 0.8},
        {"metric": "talker_nll", "data": "dev", "max": 9.0},
    ]
    file = tiny(accept=accept)
    made = from_recipe(load(file), "dev", request(tmp_path, language="auto", reference=None), gates=True)
    assert (made.language, made.settings.seeds, made.tags) == ("malay", [0], {"malay": "ms"})
    assert [g.label() for g in made.gates] == ["duration_ratio(dev) min 0.8", "talker_nll(dev) max 9"]
    found = evaluate("builtin:mini", request(tmp_path, gates=made.gates, name="dev"))
    assert [(g["tried"], g["sound"]) for g in found.gates] == [(True, False), (False, True)]
    with pytest.raises(UserError, match="no speech dataset `text`"):
        from_recipe(load(file), "text", request(tmp_path))


def test_texts_of_one_language_under_another_s_token(place: Path) -> None:
    found = evaluate("builtin:mini", request(place, language="spanish", heard_language="english", metrics=["duration_ratio"]))
    assert found.language == "spanish"
    kept = [json.loads(f.read_text()) for f in (place / "out" / "samples").rglob("batch.json")]
    assert [k["language"] for k in kept] == ["spanish"]


def test_a_run_refuses_a_gate_that_cannot_fail(tiny: Callable[..., Path], tmp_path: Path) -> None:
    file = tiny(accept=[{"metric": "duration_ratio", "data": "dev", "min": 0.1}])
    with pytest.raises(UserError, match="was tried on recordings") as caught:
        run_recipe(file, tmp_path)
    (problem,) = caught.value.problems
    line = file.read_text().splitlines()[problem.place.line - 1]
    assert (problem.code, "metric: duration_ratio" in line) == ("QR083", True)
    content = yaml.safe_load(file.read_text())
    content["evaluation"]["probe_gates"] = False
    recipes.write(tmp_path, content)
    assert run_recipe(file, tmp_path).status in ("accepted", "rejected")
    assert (tmp_path / "runs" / "tiny" / "report.html").is_file()
