"""Tables: what they show where there is no number."""

from __future__ import annotations

import pytest
from rich.console import Console

from qrecipe.bundle.card import _evaluation
from qrecipe.evaluate.gates import undecidable
from qrecipe.inputs.documents.verdicts import Judgement
from qrecipe.recipe.gate import Gate
from qrecipe.report.tables import verdict_table


@pytest.mark.parametrize("outcome", ["skipped", "fail"])
def test_a_gate_without_a_value_says_why(outcome: Judgement) -> None:
    gate = Gate.model_validate({"metric": "cer", "data": "dev", "max": 0.2, "severity": "warn"})
    verdict = undecidable(gate, "no prompt has a value", outcome)
    console = Console(width=200)
    with console.capture() as shown:
        console.print(verdict_table("accept", [verdict.as_json()]))
    assert f"{outcome}: no prompt has a value" in shown.get()
    assert "no prompt has a value" in _evaluation({"accept": [verdict]})[-2]
