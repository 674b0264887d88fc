"""What is compiled ahead is a step of the stage itself; whatever goes wrong in the process, the run goes on."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch

from qrecipe.model.load import open_model
from qrecipe.model.weights import parameters
from qrecipe.model.working import WorkingWeights, with_languages
from qrecipe.plan import complete_plan
from qrecipe.plan.complete import RunPlan
from qrecipe.recipe import load
from qrecipe.run import compile_ahead
from qrecipe.run.compile_ahead import CompileAhead
from qrecipe.train.objectives.speech import SpeechObjective

RECIPES = Path(__file__).parents[2] / "recipes"


def work_of(plan: RunPlan, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """What the process would be given on a GPU with room."""
    sent: list[tuple[object, ...]] = []

    class Context:
        def Process(self, *, target: object, args: tuple[object, ...], daemon: bool) -> Context:  # as multiprocessing calls it
            sent.append(args)
            return self

        def start(self) -> None:
            pickle.dumps(sent[-1][:-1])

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**12, 10**12))
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: Context())
    CompileAhead.start(plan, torch.device("cuda"), [s.id for s in plan.loaded.recipe.stages])
    return sent[0][:-1]


@pytest.mark.slow  # opens the embedded base
@pytest.mark.parametrize("recipe", ["malay.yaml", "malay-respell.yaml"])
def test_a_step_of_every_stage_is_taken_and_no_weight_changes(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = complete_plan(load(RECIPES / recipe))
    base, languages, rows, work = work_of(plan, monkeypatch)
    assert [w.stage.id for w in work] == [s.id for s in plan.loaded.recipe.stages]  # type: ignore[attr-defined]  # a tuple of the process's arguments
    opened = open_model(plan.base)
    added = {key: (row, plan.loaded.recipe.languages[key]) for key, row in plan.rows.items()}
    start = with_languages(WorkingWeights(opened), plan.base.languages, added)
    assert (base, languages, rows) == (plan.base, plan.loaded.recipe.languages, plan.rows)
    before = {name: value.clone() for name, value in parameters(opened.net).items()}
    computed: list[set[str]] = []
    plain = SpeechObjective.loss_sums

    def loss_sums(self: SpeechObjective, micro: object, step: int) -> dict[str, torch.Tensor]:
        sums = plain(self, micro, step)  # type: ignore[arg-type]  # passed on
        computed.append({term for term, value in sums.items() if value.requires_grad})
        return sums

    monkeypatch.setattr(SpeechObjective, "loss_sums", loss_sums)
    for item in work:  # type: ignore[attr-defined]  # as above
        compile_ahead.take_a_step(opened, start, item)
        assert computed.pop() == set(item.terms)
    assert all(torch.equal(value, before[name]) for name, value in parameters(opened.net).items())
    opened.close()


def test_a_run_waits_for_its_stage_and_for_nothing_that_has_ended() -> None:
    answers, answering = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    ahead = CompileAhead(process, answers)
    answering.send("one")
    answering.send("two")
    ahead.wait("two")
    ahead.wait("one")
    answering.close()  # as where the process dies
    ahead.wait("three")
    ahead.close()
    assert not process.is_alive()


def test_nothing_is_compiled_ahead_on_a_cpu_or_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = complete_plan(load(RECIPES / "malay.yaml"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**6, 10**12))
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: pytest.fail("a process begins"))
    stages = [s.id for s in plan.loaded.recipe.stages]
    for device in ("cpu", "cuda"):
        with CompileAhead.start(plan, torch.device(device), stages) as ahead:
            ahead.wait("language")
