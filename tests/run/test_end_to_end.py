"""From a recipe to a bundle through the command line: what it prints, what it leaves, how gates decide, how it stops."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from qrecipe.cli import main
from qrecipe.plan.patterns import matches
from qrecipe.run.store import RunStore
from tests.support import audio, recipes
from tests.support.bases import load_weights
from tests.support.running import run_recipe
from tests.support.shared import Finished

pytestmark = pytest.mark.slow

PASSES = {"metric": "talker_nll", "data": "dev", "max": 100.0}
FAILS = {"metric": "talker_nll", "data": "dev", "max": 0.001}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The object of the last line of standard output."""
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found


def in_a_process(*arguments: object, cwd: Path, **environment: str) -> Done:
    """`qrecipe` in a process of its own, on one thread as this one is."""
    command = [sys.executable, "-m", "qrecipe", *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=400, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def cli(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """`qrecipe` in this process, in `tmp_path`: the same code without the seconds of importing torch."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> Done:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        signal.signal(signal.SIGTERM, before)
        captured = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, captured.out, captured.err)

    return call


def events(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (runs / "tiny" / "events.jsonl").read_text(encoding="utf-8").splitlines()]


def hashes(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


def two_stages(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    """A language stage and a head stage, with fields of each replaced."""
    head = {"id": "head", "train": [{"match": "talker.codec_head", "lr": 1.0e-3}], "steps": 1}
    return [recipes.stage(steps=1, **first), recipes.stage(**head, **second)]


@dataclass(frozen=True)
class Twice:
    """The same recipe, every objective in it, run from scratch in two places with caches of their own, by two processes."""

    here: Path
    done: Done
    """How the command ended that ran in `here`."""
    there: Path


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Twice:
    text = {
        "id": "text",
        "objective": "text_lm",
        "data": ["text"],
        "train": [{"match": "talker.model.text_embedding", "rows": "seen", "lr": 1.0e-3}],
        "steps": 2,
        "fit_steps": 5,
    }
    select = {"metric": "talker_nll", "data": "dev", "every": 1}
    spoken = {"metric": "duration_ratio", "data": "dev", "min": 0.0, "severity": "warn"}
    stages = [text, recipes.stage(prompt="mixed", select=select, gates=[PASSES, spoken])]
    here, there = (tmp_path_factory.mktemp(name) for name in ("here", "there"))
    for folder in (here, there):
        recipes.write(folder, recipes.recipe(stages=stages, accept=[PASSES]))
    done = in_a_process("run", "recipe.yaml", cwd=here, QRECIPE_CACHE=str(here / "cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QRECIPE_CACHE", str(there / "cache"))
        run_recipe(there / "recipe.yaml", there)
    return Twice(here, done, there)


def test_a_run_says_what_happened(twice: Twice) -> None:
    folder, done = twice.here, twice.done
    assert done.code == 0, done.err
    result = done.result
    assert result["status"] == "accepted"
    assert (folder / result["bundle"]).is_dir()
    assert [(s["id"], s["status"]) for s in result["stages"]] == [("text", "kept"), ("language", "kept")]
    assert next(v["outcome"] for v in result["stages"][1]["verdicts"]) == "pass"
    assert len(done.out.splitlines()) == 1
    for word in ("Traceback", "Warning", "warnings.warn", "sox", "flash"):
        assert word not in done.err
    assert "hear it: qrecipe say" in done.err


def test_events_tell_the_same(twice: Twice) -> None:
    found = events(twice.here / "runs")
    kinds = [e["event"] for e in found]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_finished"
    assert kinds.count("stage_started") == kinds.count("stage_finished") == 2
    assert kinds.count("step") == 2 + 3
    assert kinds.count("select") == 4
    assert {"self_check", "languages", "fitted", "verdict", "bundle"} <= set(kinds)
    assert all(a["time"] <= b["time"] for a, b in pairwise(found))
    check = next(e for e in found if e["event"] == "self_check")
    assert check["verdict"] in ("skipped", "passed")


def test_the_same_recipe_gives_the_same_bytes(twice: Twice) -> None:
    """Other folders, other caches, another time: the bundle's files and the lock are bit-identical."""
    here, there = (folder / "bundles" / "tiny-0.1.0" for folder in (twice.here, twice.there))
    assert hashes(here) == hashes(there)
    assert len(hashes(here)) > 10
    assert (twice.here / "recipe.lock").read_bytes() == (twice.there / "recipe.lock").read_bytes() == (here / "recipe.lock").read_bytes()


def test_samples_are_kept_to_listen_to(twice: Twice) -> None:
    """Two prompts, by the base and by the stage that is judged."""
    spoken = list((twice.here / "runs").rglob("samples/dev/*/*.flac"))
    assert sorted(f.name for f in spoken) == ["1.flac", "1.flac", "2.flac", "2.flac"]
    assert all(f.stat().st_size > 44 for f in spoken)


def test_a_second_run_trains_nothing(finished: Finished, cli: Callable[..., Done], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(finished.runs, runs)
    before = len(events(runs))
    done = cli("run", finished.recipe, "--runs", runs, "--bundles", tmp_path / "bundles")
    assert done.code == 0, done.err
    kinds = [e["event"] for e in events(runs)[before:]]
    assert "stage_reused" in kinds
    assert not {"step", "stage_started", "measuring"} & set(kinds)
    assert hashes(tmp_path / "bundles" / "tiny-0.1.0") == hashes(finished.bundles / "tiny-0.1.0")


def test_fresh_puts_the_old_run_aside(finished: Finished, cli: Callable[..., Done], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(finished.runs, runs)
    before = hashes(runs / "tiny")
    done = cli("run", finished.recipe, "--fresh", "--runs", runs, "--bundles", tmp_path / "bundles")
    assert done.code == 0, done.err
    assert "stage_reused" not in [e["event"] for e in events(runs)]
    after = hashes(runs / "tiny.1")
    assert {k: after.get(k) for k in before if k != ".held"} == {k: v for k, v in before.items() if k != ".held"}
    assert hashes(tmp_path / "bundles" / "tiny-0.1.0") == hashes(finished.bundles / "tiny-0.1.0")


def test_a_changed_stage_is_trained_again_and_the_ones_before_are_not(tiny: Callable[..., Path], cli: Callable[..., Done]) -> None:
    tiny(stages=two_stages({}, {}))
    assert cli("run", "recipe.yaml").code == 0
    done = cli("run", "recipe.yaml", "--set", "stages.head.steps=2", "--set", "version=0.2.0")
    assert done.code == 0, done.err
    kinds = [(e["event"], e.get("stage")) for e in events(Path("runs"))]
    assert kinds.count(("stage_started", "language")) == 1
    assert kinds.count(("stage_reused", "language")) == 1
    assert kinds.count(("stage_started", "head")) == 2


def changed_tensors(bundle: Path, base: Path) -> set[str]:
    new, old = load_weights(bundle), load_weights(base)
    return {n for n in old if not new[n].equal(old[n])}


CODEC = {"talker.model.codec_embedding.weight"}
PROJECTION = {f"talker.text_projection.linear_fc{i}.{p}" for i in (1, 2) for p in ("weight", "bias")}
HEAD = {"talker.codec_head.weight"}


def test_low_rank_deltas_become_ordinary_weights(tiny: Callable[..., Path], cli: Callable[..., Done], mini: Any, tmp_path: Path) -> None:
    """From recipe to bundle: attention of two layers moves by matrices of the rank, counted so by plan and lock, and nothing else moves."""
    rank, alpha, attention = 2, 4.0, "talker.model.layers.0-1.self_attn"
    train = [{"match": attention, "lr": 0.05, "lora": {"rank": rank, "alpha": alpha}}]
    file = tiny(stages=[recipes.stage(train=train, steps=2)], accept=[PASSES])
    done = cli("run", file)
    assert done.code == 0, done.err
    base = load_weights(mini.folder)
    linear = {n for n in base if matches(attention, n) and "_proj.weight" in n}
    assert changed_tensors(Path(done.result["bundle"]), mini.folder) == linear | CODEC, "the language's row stands at its init"
    lock = json.loads((tmp_path / "recipe.lock").read_text())
    assert lock["stages"][0]["tensors"] == {n: rank * sum(base[n].shape) for n in sorted(linear)}
    fingerprint = json.loads((tmp_path / "runs" / "tiny" / "run.json").read_text())["stages"][0]["fingerprint"]
    stored = RunStore(tmp_path / "runs" / "tiny").load_stage(fingerprint)
    assert stored is not None
    for name in linear:
        sizes = torch.linalg.svdvals((stored.delta.whole[name] - base[name].float()).double())
        assert sizes[rank] < 1e-4 * sizes[0] < sizes[rank - 1], name
    again = cli("run", file)
    assert again.code == 0
    assert [e["event"] for e in events(tmp_path / "runs")].count("stage_reused") == 1


def test_a_stage_is_chosen_by_what_is_heard(tiny: Callable[..., Path], cli: Callable[..., Done], tmp_path: Path) -> None:
    """The chosen step is the one whose speech is best, and says the same again when a gate judges it."""
    select = {"metric": "duration_ratio", "data": "dev", "every": 1, "prompts": 2, "bounds": [{"metric": "silence_share", "max": 1.0}]}
    judged = {"metric": "duration_ratio", "data": "dev", "min": 0.0, "severity": "warn"}
    file = tiny(stages=[recipes.stage(steps=2, select=select, gates=[judged])])
    done = cli("run", file)
    assert done.code == 0, done.err
    looks = [(e["step"], e["value"]) for e in events(tmp_path / "runs") if e["event"] == "select"]
    assert [step for step, _ in looks] == [0, 1, 2]
    (verdict,) = done.result["stages"][0]["verdicts"]
    best = min(looks, key=lambda look: abs(look[1] - 1.0))
    run = tmp_path / "runs" / "tiny"
    stage = run / "stages" / json.loads((run / "run.json").read_text())["stages"][0]["fingerprint"][:16]
    assert json.loads((stage / "result.json").read_text())["chosen_step"] == best[0]
    assert verdict["value"] == pytest.approx(best[1], abs=1e-6)
    samples = stage / "samples"
    spoken = {f.name for f in (samples / f"dev-step{best[0]}").iterdir()}
    assert len(spoken) == 1
    assert all((f / "batch.json").exists() for f in (samples / "dev-step0").iterdir())


def test_a_failed_gate_stops_the_run(tiny: Callable[..., Path], cli: Callable[..., Done]) -> None:
    tiny(stages=two_stages({"gates": [FAILS], "on_fail": "stop"}, {}))
    done = cli("run", "recipe.yaml")
    assert done.code == 3
    assert done.result["status"] == "stopped"
    assert done.result["bundle"] is None
    assert [(s["id"], s["status"]) for s in done.result["stages"]] == [("language", "failed")]
    assert not Path("bundles").exists()
    assert "talker_nll(dev) max 0.001 is fail" in done.err


def test_a_failed_gate_takes_the_stage_back(tiny: Callable[..., Path], cli: Callable[..., Done], mini: Any) -> None:
    """The next stage starts from before it, and the bundle holds nothing of it; the row stays at its init."""
    tiny(stages=two_stages({"gates": [FAILS], "on_fail": "revert"}, {}))
    done = cli("run", "recipe.yaml")
    assert done.code == 0, done.err
    assert [s["status"] for s in done.result["stages"]] == ["reverted", "kept"]
    assert changed_tensors(Path(done.result["bundle"]), mini.folder) <= CODEC | HEAD
    new = load_weights(Path(done.result["bundle"]))[next(iter(CODEC))].float()
    mean = (new[2050] + new[2054]) / 2
    expected = mean * (new[2050].norm() + new[2054].norm()) / 2 / mean.norm()
    assert (new[2072].sub(expected).abs() <= expected.abs() * 2**-8 + 1e-6).all(), "equal but for rounding to bfloat16"


def test_a_failed_gate_may_be_passed_over(tiny: Callable[..., Path], cli: Callable[..., Done], mini: Any) -> None:
    tiny(stages=two_stages({"gates": [FAILS], "on_fail": "continue"}, {}))
    done = cli("run", "recipe.yaml")
    assert done.code == 0, done.err
    assert [s["status"] for s in done.result["stages"]] == ["kept", "kept"]
    assert changed_tensors(Path(done.result["bundle"]), mini.folder) == CODEC | PROJECTION | HEAD


def test_good_enough_skips_the_rest(tiny: Callable[..., Path], cli: Callable[..., Done], mini: Any) -> None:
    tiny(stages=two_stages({"gates": [PASSES], "on_pass": "finish"}, {}), accept=[PASSES])
    done = cli("run", "recipe.yaml")
    assert done.code == 0, done.err
    assert [s["status"] for s in done.result["stages"]] == ["kept", "skipped"]
    assert changed_tensors(Path(done.result["bundle"]), mini.folder) == CODEC | PROJECTION


def test_without_accept_there_is_no_bundle(tiny: Callable[..., Path], cli: Callable[..., Done]) -> None:
    tiny(stages=[recipes.stage(steps=1)], accept=[PASSES, FAILS])
    done = cli("run", "recipe.yaml")
    assert done.code == 3
    assert done.result["status"] == "rejected"
    assert done.result["bundle"] is None
    assert [v["outcome"] for v in done.result["accept"]] == ["pass", "fail"]
    assert not Path("bundles").exists()


def test_until_evaluate_and_build(tiny: Callable[..., Path], cli: Callable[..., Done], mini: Any) -> None:
    """A run up to a stage, its model measured, the rest of the run, and a bundle without the last stage."""
    tiny(stages=two_stages({}, {}), accept=[PASSES])
    until = cli("run", "recipe.yaml", "--until", "language")
    assert (until.code, until.result["status"], until.result["bundle"]) == (0, "until", None)
    assert [s["id"] for s in until.result["stages"]] == ["language"]
    assert not Path("bundles").exists()

    measured = cli("evaluate", "runs/tiny@language", "--data", "data/dev.jsonl", "--language", "malay", "--format", "json")
    assert measured.code == 0, measured.err
    result = json.loads(measured.out)
    assert [i["text"] for i in result["items"]] == recipes.MALAY_DEV
    mean = sum(i["talker_nll"] for i in result["items"]) / 3
    assert result["summary"]["talker_nll"] == pytest.approx(mean)

    whole = cli("run", "recipe.yaml")
    assert whole.code == 0, whole.err
    built = cli("bundle", "build", "runs/tiny", "--stages", "language", "--bundles", "parts", "--format", "json")
    assert built.code == 0, built.err
    bundle = Path(json.loads(built.out)["bundle"])
    assert changed_tensors(bundle, mini.folder) == CODEC | PROJECTION
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert manifest["accepted"] is False
    assert [s["status"] for s in manifest["stages"]] == ["kept", "skipped"]
    assert cli("bundle", "verify", bundle).code == 0

    of_bundle = cli("evaluate", bundle, "--data", "data/dev.jsonl", "--language", "malay", "--format", "json")
    assert [i["talker_nll"] for i in json.loads(of_bundle.out)["items"]] == [i["talker_nll"] for i in result["items"]]

    again = cli("bundle", "build", "runs/tiny", "--bundles", "whole", "--format", "json")
    assert hashes(Path(json.loads(again.out)["bundle"])) == hashes(Path(whole.result["bundle"]))
    (bundle / "config.json").write_text("{}")
    assert cli("bundle", "verify", bundle).code == 2


def test_a_bundle_speaks(finished: Finished, cli: Callable[..., Done], tmp_path: Path) -> None:
    reference = finished.recipe.parent / "data" / "ref.wav"
    arguments = ["say", finished.outcome.bundle, "Selamat pagi.", "--language", "malay", "--reference", reference]
    first = cli(*arguments, "--out", "a.wav")
    assert first.code == 0, first.err
    assert cli(*arguments, "--out", "b.wav").code == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()
    assert Path("a.wav").stat().st_size > 1000
    assert cli(*arguments, "--out", "a.mp3").code == 0
    assert soundfile.info("a.mp3").format == "MP3"
    unknown = cli(*arguments, "--out", "a.m4a")
    assert (unknown.code, Path("a.m4a").exists()) == (2, False)
    assert "no kind of sound ends in `.m4a`" in unknown.err
    wrong = cli("say", finished.outcome.bundle, "Hai.", "--language", "maley", "--reference", reference, "--out", "c.wav")
    assert wrong.code == 2
    assert "did you mean `malay`" in wrong.err
    assert not Path("c.wav").exists()


def test_a_bad_recording_names_its_line(tiny: Callable[..., Path], cli: Callable[..., Done]) -> None:
    recipe = tiny()
    rows = recipe.parent / "data" / "train.jsonl"
    audio.write(recipe.parent / "data" / "silent.wav", 0 * audio.speech(0))
    rows.write_text(rows.read_text() + json.dumps({"audio": "silent.wav", "text": "Saya suka."}) + "\n")
    done = cli("run", "recipe.yaml")
    assert done.code == 2
    assert f"data/train.jsonl:{len(recipes.MALAY) + 1}:1" in done.err
    assert "silent.wav: silent" in done.err
    assert "Traceback" not in done.err
    assert cli("prepare", "recipe.yaml").code == 2
    skipping = cli("run", "recipe.yaml", "--set", "datasets.speech.on_bad_row=skip")
    assert skipping.code == 0, skipping.err
    assert "1 skipped" in skipping.err


def test_prepare_describes_the_data(tiny: Callable[..., Path], cli: Callable[..., Done]) -> None:
    tiny()
    done = cli("prepare", "recipe.yaml", "--format", "json")
    assert done.code == 0, done.err
    reports = json.loads(done.out)
    found = {r["dataset"]: r for r in (reports["datasets"] if isinstance(reports, dict) else reports)}
    assert found["speech"]["rows"] == len(recipes.MALAY)
    assert found["speech"]["minutes"] == pytest.approx(7.5 / 60, abs=0.01)
    assert any("6 sentences" in w for w in found["speech"]["warnings"])


def test_two_runs_do_not_meet(finished: Finished, cli: Callable[..., Done]) -> None:
    from qrecipe.run.store import RunStore

    with RunStore(finished.runs / "tiny").held():
        done = cli("run", finished.recipe, "--runs", finished.runs, "--bundles", finished.bundles)
    assert done.code == 2
    assert f"process {os.getpid()}" in done.err
