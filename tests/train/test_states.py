"""States of frozen layers are computed once: the same losses as without, whole shards, nothing of another model or layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from qrecipe.data.batches import Sampler
from qrecipe.data.speech import SpeechData
from qrecipe.data.states import States, Wanted, example_key
from qrecipe.model import forward, prompt
from qrecipe.model.load import LoadedBase
from qrecipe.train.loop import Hooks, StageResult, train_stage
from qrecipe.train.objectives.speech import SpeechObjective
from qrecipe.verbs import gc
from tests.support.training import Recorder, learner_of, speech_stage

PREDICTOR = {"match": "talker.code_predictor", "except": ["talker.code_predictor.model.codec_embedding"], "lr": 1e-3}
UPPER = {"match": "talker.model.layers.4-5", "lr": 1e-3}

pytestmark = pytest.mark.slow


@pytest.fixture
def train(opened: LoadedBase, own: SpeechData, tmp_path: Path) -> Callable[..., tuple[StageResult, list[dict[str, float]], int | None]]:
    def go(
        entry: dict[str, Any], cached: bool, first_layer: int | None, terms: tuple[str, ...]
    ) -> tuple[StageResult, list[dict[str, float]], int | None]:
        stage = speech_stage(entry, steps=6, layout="mixed", batch={"frames": 24})
        learner, _ = learner_of(opened, stage)
        objective = SpeechObjective(stage, opened, learner.tables, {"malay": own}, 0, terms)
        sampler = Sampler(objective.lengths(), {}, stage.batch, 0)
        size = None
        if cached:
            states = States(tmp_path, opened, learner.tables, first_layer, "base")
            size = objective.cache_states(states, islice(sampler.batches(), 6))
        recorder = Recorder()
        try:
            result = train_stage(stage, opened, learner, objective, sampler, Hooks(observer=recorder))
        finally:
            learner.close()
        return result, [r.losses for r in recorder.steps], size

    return go


@pytest.mark.parametrize(
    ("entry", "first_layer", "terms"),
    [(PREDICTOR, None, ("predictor",)), (UPPER, 4, ("talker", "predictor"))],
    ids=["predictor", "upper-layers"],
)
def test_training_on_kept_states_is_training(train: Any, entry: dict[str, Any], first_layer: int | None, terms: tuple[str, ...]) -> None:
    plain, expected, _ = train(entry, False, first_layer, terms)
    kept, seen, size = train(entry, True, first_layer, terms)
    assert size is not None
    for ours, theirs in zip(seen, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert expected[-1]["predictor"] < expected[0]["predictor"]
    for name, values in plain.delta.whole.items():
        assert values.sub(kept.delta.whole[name]).abs().max() < 1e-3, name


def _wanted(opened: LoadedBase, own: SpeechData) -> dict[str, Wanted]:
    examples = [own.example(r, opened.language_row("malay"), "streaming", "x_vector", opened.tokenizer) for r in own.rows]
    return {example_key(e): Wanted(example_key(e), len(e.codes), lambda e=e: e) for e in examples}  # type: ignore[misc]


def test_a_shard_is_whole_or_computed_again(opened: LoadedBase, own: SpeechData, tmp_path: Path) -> None:
    """What was there is not computed again; one changed byte, and the shard is made anew with the same bytes."""
    tables = forward.Tables(opened.talker)
    wanted = _wanted(opened, own)
    first = States(tmp_path, opened, tables, None, "base")
    told: list[tuple[int, int]] = []
    assert first.fill(wanted, lambda *a: told.append(a)) > 0
    assert told[-1] == (len(own.rows), len(own.rows))
    (file,) = first.folder.glob("*.safetensors")
    content = file.read_bytes()
    made: list[int] = []
    again = States(tmp_path, opened, tables, None, "base")
    again._compute = lambda examples: made.append(1) or States._compute(again, examples)  # type: ignore[assignment, method-assign, func-returns-value]
    again.fill(wanted)
    assert not made
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again.fill(wanted)
    assert made
    assert file.read_bytes() == content
    row = own.rows[0]
    example = own.example(row, opened.language_row("malay"), "streaming", "x_vector", opened.tokenizer)
    batch = prompt.collate([example], prompt.ControlIds.of(opened.config))
    with torch.no_grad():
        alone = forward.label_hidden(tables, batch, torch.float32)[batch.frame_label]
    assert torch.allclose(again.row(example_key(example)), alone, atol=1e-4)


def test_states_are_named_by_everything_that_makes_them(opened: LoadedBase, own: SpeechData, tmp_path: Path) -> None:
    example = own.example(own.rows[0], opened.language_row("malay"), "streaming", "x_vector", opened.tokenizer)
    others = [
        replace(example, language=opened.language_row("english")),
        replace(example, layout="non_streaming"),
        replace(example, codes=example.codes.flip(0)),
        replace(example, body=example.body[:-1]),
        replace(example, x_vector=None),
        replace(example, reference_body=[1, 2], reference_codes=example.codes),
    ]
    assert len({example_key(e) for e in (example, *others)}) == len(others) + 1
    tables = forward.Tables(opened.talker)
    folders = {States(tmp_path, opened, tables, layer, talker).folder for layer in (None, 4, 5) for talker in ("base", "stage")}
    assert len(folders) == 6


def test_rows_that_come_once_are_not_kept(opened: LoadedBase, own: SpeechData, tmp_path: Path) -> None:
    stage = speech_stage(PREDICTOR, steps=1, layout="streaming")
    objective = SpeechObjective(stage, opened, forward.Tables(opened.talker), {"malay": own}, 0, ("predictor",))
    sampler = Sampler(objective.lengths(), {}, stage.batch, 0)
    states = States(tmp_path, opened, forward.Tables(opened.talker), None, "base")
    assert objective.cache_states(states, islice(sampler.batches(), 1)) is None
    assert not states.folder.exists()


def test_what_is_not_used_is_garbage(opened: LoadedBase, own: SpeechData, tmp_path: Path) -> None:
    states = States(tmp_path, opened, forward.Tables(opened.talker), None, "base")
    states.fill(_wanted(opened, own))
    assert not gc.find(tmp_path / "runs", tmp_path / "bundles", tmp_path, 1.0).garbage
    found = gc.find(tmp_path / "runs", tmp_path / "bundles", tmp_path, -1.0).garbage
    assert [g.path.parent for g in found] == [states.folder]
