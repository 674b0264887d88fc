"""The honest baseline: the base under the language of its own that it speaks best with, chosen on sentences that judge nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qrecipe.data.speech import SpeechData, SpeechRow
from qrecipe.evaluate.gates import centre_of
from qrecipe.evaluate.values import Value, per_prompt
from qrecipe.inputs.documents.verdicts import Verdict
from qrecipe.recipe.metrics import spec_of
from qrecipe.recipe.recipe import Evaluation
from qrecipe.run.best_language import CHOOSING, MOST, split
from tests.support import recipes
from tests.support.running import run_recipe


def data_of(*texts: str) -> SpeechData:
    codes = torch.zeros((10, 16), dtype=torch.int64)
    rows = [SpeechRow(i, t, [], [], codes, 1.0, 0.0, "", Path("ref.wav"), None, False) for i, t in enumerate(texts, start=1)]
    return SpeechData("dev", "malay", rows)


def texts(data: SpeechData) -> list[str]:
    return [r.text for r in data.rows]


def test_sentences_that_choose_do_not_judge_and_content_alone_decides() -> None:
    words = [f"Ayat nombor {i}." for i in range(60)]
    choosing, judging = split(data_of(*words), Evaluation())
    assert not set(texts(choosing)) & set(texts(judging))
    assert (len(choosing.rows), len(judging.rows)) == (MOST, 60 - 60 // CHOOSING)
    turned, _ = split(data_of(*words[::-1]), Evaluation())
    assert texts(turned) == texts(choosing)
    # what would not be judged anyway takes nothing away
    _, few = split(data_of(*words), Evaluation(prompts=12))
    assert set(texts(few)) == {w for w in words[:12] if w in texts(judging)}


def test_near_duplicates_are_on_one_side() -> None:
    words = [f"Ayat nombor {i}{end}" for i in range(9) for end in ("", "!", " ?")]
    choosing, judging = split(data_of(*words), Evaluation())
    plain = [{t.rstrip(" !?") for t in texts(part)} for part in (choosing, judging)]
    assert not plain[0] & plain[1]
    assert len(choosing.rows) == 9


@pytest.mark.slow
def test_a_gate_over_the_base_s_best_language(tiny: Callable[..., Path], tmp_path: Path) -> None:
    gate = {"metric": "silence_share", "data": "dev", "speak_as": "best", "max_increase": 5.0, "baseline": "base"}
    settings = {"seeds": [0], "batch": 2, "layouts": ["streaming"], "frame_cap": 1.0, "probe_gates": False}
    outcome = run_recipe(tiny(accept=[gate], evaluation=settings, stages=[recipes.stage(steps=1)]), tmp_path)
    (verdict,) = outcome.accept
    assert verdict.gate == "silence_share(dev) max_increase 5 over base as best"
    assert verdict.prompts == 2  # of three: one chose
    assert verdict.tried.keys() == {"english", "spanish", "auto"}
    assert verdict.tried[str(verdict.spoken_as)] == min(verdict.tried.values())

    # the numbers are those of the values that the run's folder holds, measured on two sentences and on the third
    spec = spec_of("silence_share")
    stored: dict[tuple[str, str | None], list[Value]] = {}
    for file in (tmp_path / "runs" / "tiny" / "values").glob("*.json"):
        entry = json.loads(file.read_text())
        stored[entry["key"][0], entry["key"][7]] = [Value(**v) for v in entry["values"]]
    chose, judged = stored["values, choosing", "english"], stored["values, judging", verdict.spoken_as]
    assert {v.line for v in chose} | {v.line for v in judged} == {1, 2, 3}
    assert not {v.line for v in chose} & {v.line for v in judged}
    assert verdict.tried["english"] == pytest.approx(centre_of(spec, per_prompt(chose)), abs=1e-5)
    assert verdict.baseline == pytest.approx(centre_of(spec, per_prompt(judged)), abs=1e-5)
    assert verdict.value == pytest.approx(verdict.measured - verdict.baseline, abs=1e-5)
    assert outcome.bundle is not None
    line = verdict.against_best()
    assert line is not None
    card = (outcome.bundle / "README.md").read_text().replace("\\", "")
    assert line in card
    assert line in (tmp_path / "runs" / "tiny" / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, "cer on dev: the base told nothing 0.41, told spanish 0.165, this model 0.13"),
        ({"spoken_as": "auto", "baseline": 0.41}, "cer on dev: the base told nothing 0.41, this model 0.13"),
    ],
)
def test_the_line_that_compares(change: dict[str, Any], text: str) -> None:
    fields = {"gate": "g", "metric": "cer", "data": "dev", "outcome": "pass", "severity": "error", "threshold": 0.0, "kind": "min_decrease"}
    fields |= {"confidence": 0.95, "prompts": 27, "measured": 0.13, "baseline": 0.165, "untold": 0.41, "spoken_as": "spanish"}
    line = Verdict.model_validate({**fields, **change}).against_best()
    assert line == f"{text} (27 sentences, which did not choose the language)"
