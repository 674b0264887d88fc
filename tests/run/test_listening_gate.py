"""A gate that people decide: the run waits for their ballots, counts them by what was heard, and refuses edited ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qrecipe.errors import UserError
from qrecipe.files import digest
from qrecipe.verbs.listen import ListenRequest, pairs_of
from tests.support import recipes
from tests.support.running import run_recipe

GATE = {"metric": "preference", "data": "dev", "ballots": "votes/*.json", "min": 0.2}


@pytest.mark.slow
def test_ballots_let_a_model_pass(tmp_path: Path, mini: object) -> None:
    recipe = recipes.write(tmp_path, recipes.recipe(accept=[GATE], evaluation={**recipes.RECIPE["evaluation"], "prompts": 3}))
    first = run_recipe(recipe, tmp_path)
    assert (first.status, first.accept[0].outcome) == ("rejected", "undecided")
    assert "nobody has voted yet" in (first.accept[0].reason or "")

    # eight listeners prefer what the last stage said, whichever sound was called A
    _, pairs = pairs_of(ListenRequest(str(tmp_path / "runs" / "tiny")))
    assert len(pairs) == 3
    model = _sounds_of(tmp_path / "runs" / "tiny", first.stages[0].fingerprint)
    votes = tmp_path / "votes"
    votes.mkdir()
    for n in range(8):
        answers = []
        for pair in pairs:
            a, b = pair.sounds if n % 2 else pair.sounds[::-1]
            answers.append({"text": pair.text, "first": a.sha256, "second": b.sha256, "answer": 2 if b.sha256 in model else -2})
        value = {"ballot": 1, "listener": f"l{n}", "scale": "ab", "answers": answers}
        (votes / f"l{n}.json").write_text(json.dumps({**value, "sha256": digest(value)}))
    second = run_recipe(recipe, tmp_path)
    verdict = second.accept[0]
    assert (verdict.value, verdict.prompts, verdict.outcome) == (1.0, 3, "pass")
    assert verdict.evaluator is not None
    assert verdict.evaluator["votes"] == 24
    assert second.bundle is not None
    assert "| accept | preference(dev) min 0.2 | 1 |" in (second.bundle / "README.md").read_text()

    edited = json.loads((votes / "l0.json").read_text())
    edited["answers"][0]["answer"] = 0
    (votes / "l0.json").write_text(json.dumps(edited))
    with pytest.raises(UserError, match="the ballot was edited"):
        run_recipe(recipe, tmp_path)


def _sounds_of(run: Path, fingerprint: str | None) -> set[str]:
    import hashlib

    import soundfile

    assert fingerprint is not None
    files = (run / "stages" / fingerprint[:16] / "samples").rglob("*.flac")
    return {hashlib.sha256(soundfile.read(str(f), dtype="float32")[0].tobytes()).hexdigest() for f in files}
