"""A stage that was stopped gives the bytes that it would have given undisturbed, wherever it was stopped."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from qrecipe.data.batches import Sampler
from qrecipe.data.speech import SpeechData
from qrecipe.data.text import TextData
from qrecipe.errors import EngineError, UserError
from qrecipe.files import sealed, write_json
from qrecipe.model.kernels import fused
from qrecipe.model.load import LoadedBase
from qrecipe.recipe.stage import TextLmStage
from qrecipe.run.locking import lock_stage
from qrecipe.train import loop, optimizer
from qrecipe.train.checkpoints import Every, StageCheckpoints, newest_first
from qrecipe.train.loop import Hooks, StageResult, train_stage
from qrecipe.train.objectives.speech import SpeechObjective
from qrecipe.train.objectives.text_lm import TextLmObjective
from qrecipe.train.observer import StepReport
from qrecipe.train.progress import HeldOut
from tests.support import recipes
from tests.support.training import LANGUAGE, PROJECTION, Recorder, learner_of, speech_stage

SELECT = {"metric": "talker_nll", "data": "dev", "every": 2, "patience": 9}


Train = Callable[..., tuple[StageResult, Recorder]]


@pytest.fixture
def train(opened: LoadedBase, own: SpeechData, tmp_path: Path) -> Train:
    """Trains a stage of seven steps, with checkpoints under `tmp_path/name`; `stop` ends it after a step."""

    def go(
        name: str | None, stop: int | None = None, wrap: Any = None, every: int = 2, keep: int = 2, on_step: Any = None, **changes: Any
    ) -> tuple[StageResult, Recorder]:
        fields = {"steps": 7, "schedule": "cosine", "batch": {"frames": 12}, "layout": "mixed", **changes}
        stage = speech_stage(LANGUAGE, PROJECTION, **fields)
        shapes = {k: tuple(v.shape) for k, v in opened.net.state_dict().items()}
        torch.manual_seed(0)  # as a run does: low-rank deltas are drawn
        learner, found = learner_of(opened, stage)
        objective: Any = SpeechObjective(stage, opened, learner.tables, {"malay": own}, seed=0)
        if wrap is not None:
            objective = wrap(objective)

        def note(report: Any) -> None:
            if on_step is not None:
                on_step(report)
            if report.step == stop:
                raise KeyboardInterrupt

        told = Recorder(note)

        def held_out(step: int) -> HeldOut:
            size = float(next(iter(learner.parameters())).detach().abs().sum())
            return HeldOut(size, size)

        checkpoints = None
        if name is not None:
            trainable = lock_stage(stage.id, found, shapes).model_dump(mode="json")
            checkpoints = StageCheckpoints(tmp_path / name, trainable, Every(60, every, keep), told)
        try:
            result = train_stage(
                stage,
                opened,
                learner,
                objective,
                Sampler(objective.lengths(), {}, stage.batch, 0),
                Hooks(
                    None if stage.select is None else held_out,
                    checkpoints,
                    told,
                ),
            )
        finally:
            learner.close()
        return result, told

    return go


def same(one: StageResult, other: StageResult) -> bool:
    """Bit for bit."""
    assert one.delta.whole.keys() == other.delta.whole.keys()
    assert one.delta.rows.keys() == other.delta.rows.keys()
    return (
        (one.steps, one.chosen_step, one.history, one.losses) == (other.steps, other.chosen_step, other.history, other.losses)
        and all(torch.equal(v, other.delta.whole[k]) for k, v in one.delta.whole.items())
        and all(torch.equal(v[1], other.delta.rows[k][1]) for k, v in one.delta.rows.items())
    )


LOW_RANK = [LANGUAGE, {"match": "talker.model.layers.0.self_attn.q_proj", "lr": 1e-2, "lora": {"rank": 2, "alpha": 4}}]


COMPACT = {"moments": "8bit", "masters": "bfloat16"}


@pytest.mark.parametrize("changes", [{}, {"select": SELECT}, {"train": LOW_RANK}, COMPACT], ids=["last", "best", "low rank", "compact"])
def test_stopped_after_every_step(train: Train, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Stopped and started again after each of its steps: losses, rates, selection and weights are those of one go."""
    whole, told = train(None, **changes)
    reports: list[Any] = []
    for stop in range(1, 7):
        with pytest.raises(KeyboardInterrupt):
            train("parts", stop=stop, every=100, **changes)
        assert (tmp_path / "parts" / f"step-{stop:08d}" / "manifest.json").is_file()
    parts, rest = train("parts", every=100, **changes)
    reports = rest.steps
    assert [r.step for r in reports] == [7]
    assert same(parts, whole)
    assert reports == told.steps[-1:]
    assert rest.of("resumed") == [{"event": "resumed", "step": 6}]


def test_a_kill_loses_what_came_after_the_last_checkpoint_and_nothing_else(train: Train, tmp_path: Path) -> None:
    whole, _ = train(None)
    with pytest.raises(KeyboardInterrupt):
        train("killed", stop=5)
    assert [f.name for f in newest_first(tmp_path / "killed")] == ["step-00000005", "step-00000004"], "two are kept"
    (newest,) = newest_first(tmp_path / "killed")[:1]
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    again, told = train("killed")
    assert [r.step for r in told.steps] == [5, 6, 7]
    assert same(again, whole)


@pytest.mark.parametrize("file", ["learned.safetensors", "optimizer.safetensors", "rest.safetensors", "progress.json", "manifest.json"])
@pytest.mark.parametrize("how", ["truncated", "flipped", "gone"])
def test_a_damaged_checkpoint_is_passed_over(train: Train, tmp_path: Path, file: str, how: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        train("damaged", stop=5)
    path = tmp_path / "damaged" / "step-00000005" / file
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(KeyboardInterrupt):
        train("damaged", stop=5)
    found = newest_first(tmp_path / "damaged")
    assert [f.name for f in found] == ["step-00000005", "step-00000004"], "the damaged one was written again from the one before"


def test_damage_is_said(train: Train, tmp_path: Path) -> None:
    whole, _ = train(None)
    with pytest.raises(KeyboardInterrupt):
        train("damaged", stop=5)
    for folder in newest_first(tmp_path / "damaged"):
        os.truncate(folder / "learned.safetensors", 100)
    again, told = train("damaged")
    assert [e["reason"] for e in told.of("checkpoint_damaged")] == ["learned.safetensors was changed"] * 2
    assert [r.step for r in told.steps] == list(range(1, 8)), "none is left, so it starts again"
    assert same(again, whole)


def test_only_what_trains_is_stored(train: Train, tmp_path: Path, opened: LoadedBase) -> None:
    with pytest.raises(KeyboardInterrupt):
        train("small", stop=3)
    trained = sum(p.numel() for n, p in opened.talker.text_projection.named_parameters())
    trained += opened.talker.model.codec_embedding.weight.shape[1]
    newest = newest_first(tmp_path / "small")[0]
    assert sum(t.numel() for t in load_file(newest / "learned.safetensors").values()) == trained
    moments = load_file(newest / "optimizer.safetensors")
    assert sum(t.numel() for k, t in moments.items() if not k.endswith(".step")) == 2 * trained


def test_a_checkpoint_of_another_trainable_set_is_refused(train: Train, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train("other", stop=3)
    for folder in newest_first(tmp_path / "other"):
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["trainable"]["tensors"]["talker.codec_head.weight"] = 5
        del manifest["sha256"]
        write_json(folder / "manifest.json", sealed(manifest))
    with pytest.raises(EngineError, match="another trainable set"):
        train("other")


def test_the_temporary_map_of_text_is_kept(opened: LoadedBase, tmp_path: Path) -> None:
    """It was fitted from batches before the first step; a stage that goes on does not fit another."""
    stage = TextLmStage.model_validate(
        {
            "id": "t",
            "objective": "text_lm",
            "data": ["text"],
            "train": [{"match": "talker.model.text_embedding", "rows": "seen", "lr": 5e-3}],
            "steps": 4,
            "fit_steps": 3,
        }
    )
    data = TextData("text", "malay", [opened.tokenizer.assistant(t)[1] for t in recipes.MALAY])
    seen = sorted({t for body in data.bodies for t in body})
    fitted: list[dict[str, Any]] = []

    def go(folder: Path, stop: int | None = None) -> StageResult:
        learner, _ = learner_of(opened, stage, seen)
        objective = TextLmObjective(stage, opened, learner.tables, {"text": data}, seen, 0)
        sampler = Sampler(objective.lengths(), {}, stage.batch, 0)

        def on_step(report: Any) -> None:
            if report.step == stop:
                raise KeyboardInterrupt

        recorder = Recorder(on_step)
        try:
            hooks = Hooks(None, StageCheckpoints(folder, {}, Every(60)), recorder)
            return train_stage(stage, opened, learner, objective, sampler, hooks)
        finally:
            fitted.extend(recorder.of("fitted"))
            learner.close()

    whole = go(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "parts", stop=2)
    assert same(go(tmp_path / "parts"), whole)
    assert len(fitted) == 2


def test_no_step_draws_from_a_generator(train: Train) -> None:
    """So that checkpoints need not hold them."""

    def generators() -> list[Any]:
        return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]

    states: list[Any] = []
    train(None, on_step=lambda r: states.append(generators()), select=SELECT, prompt="mixed")
    assert len(states) == 7
    assert all(state == states[0] for state in states)


def test_the_best_weights_are_stored_once(train: Train, tmp_path: Path) -> None:
    """As a link to the checkpoint of their step, so that two checkpoints hold three times what is learned at most."""
    with pytest.raises(KeyboardInterrupt):
        train("linked", stop=5, select=SELECT)
    files = [f for folder in newest_first(tmp_path / "linked") for f in folder.glob("*.safetensors") if f.stem in ("learned", "best")]
    assert len(files) == 4
    assert len({f.stat().st_ino for f in files}) <= 3


def test_fewer_checkpoints_are_kept_where_a_recipe_asks_for_it(train: Train, tmp_path: Path) -> None:
    for keep in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            train(f"keep{keep}", stop=5, every=1, keep=keep)
        assert len(newest_first(tmp_path / f"keep{keep}")) == keep


def test_a_checkpoint_of_a_later_format_is_passed_over(train: Train, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train("later", stop=3)
    for folder in newest_first(tmp_path / "later"):
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["checkpoint"] = 4
        del manifest["sha256"]
        write_json(folder / "manifest.json", sealed(manifest))
    _, told = train("later")
    assert {e["reason"] for e in told.of("checkpoint_damaged")} == {"format 4"}
    assert not told.of("resumed")


class Sick:
    """An objective whose losses are not finite at some steps."""

    def __init__(self, objective: Any, steps: set[int], factor: float = math.nan) -> None:
        self._objective, self._steps, self._factor = objective, steps, factor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)

    def loss_sums(self, micro: Any, step: int) -> dict[str, torch.Tensor]:
        sums = self._objective.loss_sums(micro, step)
        return {k: v * self._factor if step in self._steps else v for k, v in sums.items()}


def test_a_skipped_step_names_its_rows(train: Train) -> None:
    _, told = train(None, wrap=lambda o: Sick(o, {3}), batch={"frames": 1})
    (skipped,) = told.of("step_skipped")
    assert (skipped["step"], skipped["why"]) == (3, "loss")
    assert len(skipped["rows"]) == 1
    assert skipped["rows"][0] in {f"malay:{line}" for line in range(1, 5)}
    assert [r.step for r in told.steps] == [1, 2, 4, 5, 6, 7]


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(train: Train) -> None:
    """The loss itself is fine."""

    class Steep(Sick):
        def loss_sums(self, micro: Any, step: int) -> dict[str, torch.Tensor]:
            sums: dict[str, torch.Tensor] = self._objective.loss_sums(micro, step)
            if step in self._steps:
                for v in sums.values():
                    v.register_hook(lambda g: g * math.inf)
            return sums

    result, told = train(None, wrap=lambda o: Steep(o, {2}))
    assert [e["why"] for e in told.of("step_skipped")] == ["gradient"]
    assert all(bool(torch.isfinite(v).all()) for v in result.delta.whole.values())


def test_given_up_with_the_last_good_checkpoint(train: Train, tmp_path: Path) -> None:
    """And started again it gives up again: another start is no way around bad numbers."""
    for _ in range(2):
        with pytest.raises(EngineError, match=r"5 steps in a row \(step 7, rows malay:.*those of step 2"):
            train("sick", wrap=lambda o: Sick(o, set(range(3, 20))), every=100, steps=9)
        assert [f.name for f in newest_first(tmp_path / "sick")] == ["step-00000002"]


def test_stopped_among_skipped_steps(train: Train) -> None:
    whole, _ = train(None, wrap=lambda o: Sick(o, {3, 5}), select=SELECT)
    for stop in (2, 4, 6):
        with pytest.raises(KeyboardInterrupt):
            train("parts", stop=stop, wrap=lambda o: Sick(o, {3, 5}), select=SELECT)
    parts, _ = train("parts", wrap=lambda o: Sick(o, {3, 5}), select=SELECT)
    assert same(parts, whole)


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: AdamW is one kernel, and a step is given before the numbers of the one before are read."""
    monkeypatch.setattr(optimizer, "skips_on_device", lambda device: True)


class Watched(Sick):
    """Notes in which order steps are computed."""

    def __init__(self, objective: Any, steps: set[int], order: list[str]) -> None:
        super().__init__(objective, steps)
        self._order = order

    def loss_sums(self, micro: Any, step: int) -> dict[str, torch.Tensor]:
        self._order.append(f"given {step}")
        return super().loss_sums(micro, step)


def test_a_step_is_given_before_the_last_one_is_read(train: Train, ahead: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the weights are kept after it, or the one before it was left out: then it is waited for."""
    order: list[str] = []

    def report(*fields: Any) -> StepReport:
        order.append(f"read {fields[0]}")
        return StepReport(*fields)

    monkeypatch.setattr(loop, "StepReport", report)
    _, told = train("ahead", wrap=lambda o: Watched(o, {6}, order), every=3, steps=9, batch={"frames": 1000})
    first = ["given 1", "given 2", "read 1", "given 3", "read 2", "read 3"]
    second = ["given 4", "given 5", "read 4", "given 6", "read 5"]  # step 6 is left out, so that nothing is kept there
    assert order == [*first, *second, "given 7", "read 7", "given 8", "given 9", "read 8", "read 9"]
    assert [e["step"] for e in told.of("step_skipped")] == [6]
    assert [e["step"] for e in told.of("checkpoint")] == [3, 7]


def test_a_step_ahead_changes_nothing(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are left out, a selection, a schedule: the kernel rounds differently, and that is all."""
    expected, one = train(None, wrap=lambda o: Sick(o, {1, 4}), select=SELECT)
    monkeypatch.setattr(optimizer, "skips_on_device", lambda device: True)
    found, other = train(None, wrap=lambda o: Sick(o, {1, 4}), select=SELECT)
    assert other.events == one.events
    assert [(s.step, s.lr_scale) for s in other.steps] == [(s.step, s.lr_scale) for s in one.steps]
    assert [s.losses for s in other.steps] == [pytest.approx(s.losses, abs=1e-4) for s in one.steps]
    assert [step for step, _ in found.history] == [step for step, _ in expected.history]
    assert found.chosen_step == expected.chosen_step
    for name, values in expected.delta.whole.items():
        assert torch.allclose(values, found.delta.whole[name], atol=1e-5)


def test_a_step_that_no_kernel_leaves_out_is_left_out_by_the_host(train: Train, ahead: None) -> None:
    """With moments of 8 bits: nothing moves in a step that is not finite, and none is given ahead."""
    whole, told = train(None, wrap=lambda o: Sick(o, {3}), **COMPACT)
    assert [e["step"] for e in told.of("step_skipped")] == [3]
    assert all(v.isfinite().all() for v in whole.delta.whole.values())
    assert [s.step for s in told.steps] == [1, 2, 4, 5, 6, 7]


def test_stopped_with_a_step_ahead(train: Train, ahead: None, tmp_path: Path) -> None:
    """What the device was given is finished and kept."""
    whole, _ = train(None, wrap=lambda o: Sick(o, {3}))
    for stop in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            train("parts", stop=stop, every=100, wrap=lambda o: Sick(o, {3}))
        assert newest_first(tmp_path / "parts")[0].name == f"step-{stop + 1:08d}"
    parts, told = train("parts", every=100, wrap=lambda o: Sick(o, {3}))
    assert [s.step for s in told.steps] == [7]
    assert same(parts, whole)


def test_given_up_with_a_step_ahead(train: Train, ahead: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step after the last that may be left out is taken before it is read, in a row or in all."""
    with pytest.raises(EngineError, match=r"5 steps in a row \(step 7, rows malay:.*those of step 2"):
        train("row", wrap=lambda o: Sick(o, set(range(3, 20))), every=100, steps=9)
    monkeypatch.setattr(loop, "MAX_BAD_IN_ALL", 1)
    with pytest.raises(EngineError, match=r"2 steps in all \(step 5, rows malay:.*those of step 4"):
        train("all", wrap=lambda o: Sick(o, {2, 5}), every=100, steps=9)
    for name, sick, step in (("row", set(), 2), ("all", {2}, 4)):
        with pytest.raises(KeyboardInterrupt):
            train(f"{name} as far", wrap=lambda o: Sick(o, sick), every=step, stop=step, steps=9)  # noqa: B023
        kept, wanted = (load_file(tmp_path / f / f"step-{step:08d}" / "learned.safetensors") for f in (name, f"{name} as far"))
        assert all(torch.equal(kept[k], v) for k, v in wanted.items())


def test_a_leap_of_the_loss_is_reported(train: Train) -> None:
    _, told = train(None, wrap=lambda o: Sick(o, {19}, 40.0), steps=20, batch={"frames": 1000})
    (spike,) = told.of("loss_spike")
    assert spike["step"] == 19
    assert spike["loss"] > 10 * spike["usual"]
    assert len(spike["rows"]) == 4


class Narrow(Sick):
    """An objective that fits few rows into memory, and finds out before or after it has computed gradients."""

    def __init__(self, objective: Any, rows: int, late: bool) -> None:
        super().__init__(objective, set())
        self._rows, self._late = rows, late

    def loss_sums(self, micro: Any, step: int) -> dict[str, torch.Tensor]:
        if len(micro) <= self._rows:
            return self._objective.loss_sums(micro, step)  # type: ignore[no-any-return]
        if not self._late:
            raise torch.OutOfMemoryError("CUDA out of memory")

        def fail(gradient: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        sums = self._objective.loss_sums(micro, step)
        for value in sums.values():
            value.register_hook(fail)
        return sums  # type: ignore[no-any-return]


@pytest.mark.parametrize("late", [False, True], ids=["forward", "backward"])
def test_out_of_memory_splits_the_micro_batch_and_keeps_the_batch(train: Train, late: bool) -> None:
    whole, one = train(None, batch={"frames": 1000}, layout="streaming")
    split, told = train(None, batch={"frames": 1000}, layout="streaming", wrap=lambda o: Narrow(o, 1, late))
    assert told.of("memory_split")
    assert [e["step"] for e in told.of("memory_split")] == [1] * len(told.of("memory_split")), "found out once"
    for mine, theirs in zip(told.steps, one.steps, strict=True):
        assert mine.losses == pytest.approx(theirs.losses, rel=1e-4)
        assert mine.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-3)
    for name, values in whole.delta.whole.items():
        assert torch.allclose(values, split.delta.whole[name], atol=2e-4)


@pytest.mark.parametrize("late", [False, True], ids=["forward", "backward"])
def test_what_the_compiler_cannot_do_is_computed_without_it(train: Train, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    def compiler(formula: Any, kind: Any) -> Any:
        def fail(gradient: Any = None) -> None:
            raise RuntimeError("no such operation\nand much more")

        def made(*arguments: Any) -> Any:
            if not late:
                fail()
            found = formula(*arguments)
            (found[0] if isinstance(found, tuple) else found).register_hook(fail)
            return found

        return made

    plain, one = train(None, layout="streaming")
    monkeypatch.setattr(fused, "_compile", compiler)
    with fused.compiled(True):
        found, told = train(None, layout="streaming")
    assert told.of("compiling") == [{"event": "compiling", "trouble": "no such operation"}], "told once"
    assert [s.losses for s in told.steps] == [pytest.approx(s.losses, rel=1e-4) for s in one.steps]
    for name, values in plain.delta.whole.items():
        assert torch.allclose(values, found.delta.whole[name], atol=2e-4)


def test_what_fits_is_kept_for_the_next_start(train: Train) -> None:
    with pytest.raises(KeyboardInterrupt):
        train("narrow", stop=2, batch={"frames": 1000}, wrap=lambda o: Narrow(o, 2, False))
    _, told = train("narrow", batch={"frames": 1000}, wrap=lambda o: Narrow(o, 2, False))
    assert told.of("resumed")
    assert not told.of("memory_split")


def test_a_row_that_does_not_fit_alone_is_named(train: Train) -> None:
    with pytest.raises(UserError, match=r"malay:\d: a row of length \d+ does not fit"):
        train(None, wrap=lambda o: Narrow(o, 0, False))
