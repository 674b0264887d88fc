"""The studies: how many runs, which recipes, what a row holds, what a stop leaves, what the page says of rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from qrecipe.errors import RecipeError
from qrecipe.hashes import FileHashes
from qrecipe.plan import make_plan
from qrecipe.recipe import inspect
from qrecipe.recipe.respelling import read
from qrecipe.source.writer import write_yaml
from tests.support import audio, recipes

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "research" / "studies"
STUDIES = [TOOLS / f"{name}.yaml" for name in ("malay", "turkish", "romanian", "italian", "transfer")]
sys.path.insert(0, str(TOOLS))  # the tools are scripts, not a package
try:
    import pool
    import recordings
    import report
    import run as runner
    import sentences
    import study as studies
    import synthetic
finally:
    sys.path.remove(str(TOOLS))


def test_the_embedded_base_is_studied_in_at_most_120_runs() -> None:
    """Three seeds each, one factor at a time and three interactions at least."""
    found = [studies.load(path) for path in STUDIES[:2]]
    assert sum(len(s.runs()) for s in found) <= 120
    assert all(len(s.seeds) >= 3 for s in found)
    malay = found[0]
    for factor in ("trains", "replay", "minutes", "first"):
        levels = {p[factor] for p in malay.points if set(p) == {factor}}
        assert levels == malay.factors[factor].keys() - {malay.centre[factor]}, factor
    assert len([p for p in malay.points if len(p) > 1 and "then" not in p and "sentences" not in p]) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_every_run_is_a_recipe_without_mistakes(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QRECIPE_ALLOW", str(ROOT))
    study = studies.load(path)
    names = set()
    for point in study.points:
        file = tmp_path / "run.yaml"
        content = study.recipe_of(studies.Run(point, 1), tmp_path)
        file.write_text(write_yaml(content))
        loaded, problems = inspect(file)
        assert [p.message for p in problems if p.severity == "error"] == [], point
        assert loaded is not None
        assert [p.message for p in make_plan(loaded, FileHashes()).errors] == [], point
        names.add(loaded.recipe.name)
        ids = [s.id for s in loaded.recipe.stages]
        level = {**study.centre, **point}
        assert ("speech" in ids) == (level.get("then", "speech") == "speech")
        assert all(g.severity == "warn" for g in loaded.recipe.accept)
    assert len(names) == len(study.points), "every run has a folder of its own"


def test_mistakes_of_a_study_have_their_place(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("a: {x: {}, y: {}}")
    head = "study: 1\nname: n\nrecipe: r.yaml\nfactors: f.yaml\nresults: r.csv\nseeds: [0]\nvary: [a]\n"
    for text, message in (
        ("centre: {a: z}", "no level `z`"),
        ("centre: {a: x}\nalso: [{b: x}]", "no factor is called `b`"),
        ("centre: {a: x}\nalso: [{a: y}]", "two runs are the same"),
        ("centre: {}", "`centre` has no level of `a`"),
        ("centre: {a: x}\nsede: 1", "unknown field `sede`"),
    ):
        (tmp_path / "s.yaml").write_text(head + text)
        with pytest.raises(RecipeError, match=message):
            studies.load(tmp_path / "s.yaml")


def tiny_study(folder: Path) -> Path:
    """Two runs and two seeds over the tiny recipe."""
    accept = [{"metric": "talker_nll", "data": "dev", "max": 0.0, "severity": "warn"}]
    recipes.write(folder, recipes.recipe(accept=accept), "recipe.yaml")
    (folder / "factors.yaml").write_text("steps: {one: {stages: [{id: language, steps: 1}]}, more: {stages: [{id: language, steps: 3}]}}")
    study = {"study": 1, "name": "tiny", "recipe": "recipe.yaml", "factors": "factors.yaml", "results": "results.csv"}
    study |= {"seeds": [0, 1], "centre": {"steps": "one"}, "vary": ["steps"]}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder / "study.yaml"


WORKER = """
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *a: os._exit(130))
signal.signal(signal.SIGINT, signal.SIG_IGN)
for line in sys.stdin:
    item = json.loads(line)["item"]
    with open(os.environ["ASKED"], "a") as f:
        print(item["run"], item["seed"], os.environ.get("CUDA_VISIBLE_DEVICES"), file=f)
    behaviour = os.environ.get("BEHAVIOUR", "")
    print(json.dumps({"event": {"event": "step", "stage": "language", "step": 1, "of": 2}}), flush=True)
    if behaviour in ("hang", "stop") and item["run"] == "steps=more":
        if behaviour == "stop":
            os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)
    if behaviour == "crash" and item["run"] == "steps=more":
        os._exit(9)
    if behaviour == "fail":
        print(json.dumps({"failed": "no such luck"}), flush=True)
        continue
    row = {"run": item["run"], "seed": item["seed"], "plan": item["plan"], "device": "CPU", "seconds": 60.0}
    print(json.dumps({"row": {**row, "talker_nll(dev) value": 3.25, "talker_nll(dev) low": 3.0, "talker_nll(dev) high": 3.5}}), flush=True)
"""


@pytest.fixture
def tiny_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the tiny study with workers that only pretend; gives the exit code, and after it what the workers were asked for."""
    for name, value in (("QRECIPE_ALLOW", tmp_path), ("ASKED", tmp_path / "asked"), ("CUDA_VISIBLE_DEVICES", "")):
        monkeypatch.setenv(name, str(value))
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(pool, "WORKER", tmp_path / "worker.py")
    file = tiny_study(tmp_path)
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}

    def go(*arguments: str, behaviour: str = "") -> int:
        monkeypatch.setenv("BEHAVIOUR", behaviour)
        return int(runner.main([str(file), "--runs", str(tmp_path / "runs"), *arguments]))

    yield go
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines() if (folder / "asked").exists() else []


def rows(folder: Path) -> list[tuple[str, str]]:
    return [(r["run"], r["seed"]) for r in report.read(folder / "results.csv")]


@pytest.mark.slow
def test_what_is_stopped_goes_on_and_no_row_is_made_twice(tiny_runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny_runs("--dry-run") == 0
    assert asked(tmp_path) == []
    assert "2 runs with 2 seeds, 4 in all" in (said := capsys.readouterr().out)
    assert "4 to do: 0.1 hours if each takes 90 seconds" in said
    assert tiny_runs(behaviour="stop") == 3, "Ctrl-C"
    assert "stopped with 1 of 4 done; the same command goes on" in capsys.readouterr().out
    assert rows(tmp_path) == [("centre", "0")]
    assert tiny_runs("--limit", "1s", behaviour="hang") == 3
    assert rows(tmp_path) == [("centre", "0")]
    assert tiny_runs("--jobs", "2") == 0
    assert "3 to do: 0.0 hours with 2 at a time if each takes 90 seconds" in capsys.readouterr().out, "the row was made one at a time"
    assert sorted(rows(tmp_path)) == [("centre", "0"), ("centre", "1"), ("steps=more", "0"), ("steps=more", "1")]
    assert {(r["jobs"], r["talker_nll(dev) value"]) for r in report.read(tmp_path / "results.csv")} == {("1", "3.25"), ("2", "3.25")}
    many = len(asked(tmp_path))
    assert tiny_runs() == 0
    assert len(asked(tmp_path)) == many, "nothing was left to do"
    file = tmp_path / "results.csv"
    (row,) = (r for r in report.read(file) if (r["run"], r["seed"]) == ("centre", "1"))
    file.write_text(file.read_text().replace(row["plan"], "of other settings"))
    assert tiny_runs() == 0
    assert len(asked(tmp_path)) == many + 1, "a row of other settings is made again"
    assert len(rows(tmp_path)) == 4, "and stands in the place of the old one"
    assert "of other settings" not in file.read_text()


def test_a_run_that_fails_leaves_the_others_alone(tiny_runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny_runs(behaviour="crash") == 1
    assert rows(tmp_path) == [("centre", "0"), ("centre", "1")]
    assert "its process ended with exit code 9" in capsys.readouterr().out


def test_a_machine_on_which_nothing_runs_is_left_soon(tiny_runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny_runs(behaviour="fail") == 1
    assert len(asked(tmp_path)) in (3, 4)
    assert "no such luck" in capsys.readouterr().out


def test_gpus_are_shared_out(tiny_runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert tiny_runs("--jobs", "2", "--seeds", "0") == 0
    assert sorted(line.split()[-1] for line in asked(tmp_path)) == ["2", "5"]


def test_rows_of_other_columns_are_not_mixed(tiny_runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.csv").write_text("run,seed,plan\n")
    assert tiny_runs() == 2
    assert "other columns" in capsys.readouterr().err
    assert asked(tmp_path) == []


@pytest.mark.slow
def test_two_runs_give_their_rows(mini: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QRECIPE_ALLOW", str(tmp_path))
    file, runs = tiny_study(tmp_path), tmp_path / "runs"
    arguments = [sys.executable, str(TOOLS / "run.py"), str(file), "--runs", str(runs), "--seeds", "1"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=550, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr
    found = {r["run"]: r for r in report.read(tmp_path / "results.csv")}
    assert set(found) == {"centre", "steps=more"}
    for row in found.values():
        low, value, high = (float(row[f"talker_nll(dev) {n}"]) for n in ("low", "value", "high"))
        assert low < value < high
    assert found["centre"]["talker_nll(dev) value"] != found["steps=more"]["talker_nll(dev) value"]
    assert list((runs / "tiny" / "shared" / "stages").glob("*/result.json")), "the start is shared"
    assert not [f for f in (runs / "tiny").iterdir() if f.name.startswith("study-tiny") and f.is_dir()], "and the runs are gone"
    assert not any((runs / "tiny" / "bundles").iterdir())


def test_intervals_of_differences_are_students_over_seeds() -> None:
    def row(run: str, seed: int, value: float) -> dict[str, str]:
        return {"run": run, "seed": str(seed), "m value": str(value), "m low": str(value - 0.1), "m high": str(value + 0.2)}

    centre = [row("centre", s, v) for s, v in enumerate((0.5, 0.6, 0.55))]
    other = [row("x", s, v) for s, v in enumerate((0.45, 0.5, 0.52))]
    gaps = report.gaps(other, centre, "m")
    found = report.difference(gaps, report.Spread.of([gaps]))
    expected = stats.ttest_rel([0.45, 0.5, 0.52], [0.5, 0.6, 0.55]).confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    alone = report.difference(gaps[:1], report.Spread.of([gaps]))
    assert alone is not None
    assert (alone.low, alone.high) == (None, None), "one seed has no interval"
    groups = [gaps, [0.1, 0.2, 0.3], [0.3, 0.1], [0.7]]
    left_over = np.concatenate([np.subtract(g, np.mean(g)) for g in groups])
    pooled = report.Spread.of(groups)
    assert pooled.freedom == 5
    assert pooled.variance == pytest.approx(float(np.square(left_over).sum()) / 5), "what a model of one mean a run leaves over"
    value = report.value(centre, "m")
    assert value is not None
    assert (value.value, value.low, value.high) == pytest.approx((0.55, 0.45, 0.75))


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_the_page_says_what_the_rows_say(path: Path) -> None:
    study = studies.load(path)
    page = report.PAGE.read_text("utf-8")
    text, picture = report.section(study)
    assert report.placed(page, study.name, text) == page, f"python research/studies/report.py research/studies/{path.name}"
    if picture is not None:
        assert (report.PAGE.parent / f"study-{study.name}.svg").read_text("utf-8") == picture


def test_rows_become_a_table_and_a_plot(tmp_path: Path) -> None:
    study = studies.load(tiny_study(tmp_path))
    assert report.section(study) == ("0 of 4 runs have been carried out.", None)
    fields = ["run", "seed", *(f"cer(dev) {n}" for n in ("value", "low", "high"))]
    lines = [fields, ["centre", "0", "0.5", "0.4", "0.6"], ["centre", "1", "0.6", "0.5", "0.7"], ["steps=more", "0", "0.4", "0.3", "0.5"]]
    study.results.write_text("".join(",".join(line) + "\n" for line in lines))
    text, picture = report.section(study)
    assert text.startswith("3 of 4 runs have been carried out.")
    assert "| centre | 2 | 0.550 (0.450 to 0.650) |" in text
    assert "| steps=more | 1 | 0.400 (0.300 to 0.500) |" in text
    assert text.split("![")[0].rstrip().endswith("| -0.100 |")
    assert picture is not None
    assert picture.count("<circle") == 2


@pytest.mark.slow
def test_what_a_person_recorded_is_split_by_its_text(tmp_path: Path) -> None:
    """Two stamps with one text are one row; a long one that begins like a held-out one trains nothing."""
    texts = {f"Un lucru {n} care se vede bine": 3.0 for n in ("mare", "mic", "vechi")}
    texts |= {f"{w} cea lungă care stă aici": 3.0 for w in ("Casa", "Masa", "Vaca")} | {
        "O vaca": 1.0,
        "Prea mult text pentru atat de puțin timp": 0.5,
    }
    texts |= {"0,25 $": 2.0}
    for i, (text, seconds) in enumerate([*texts.items(), ("Casa cea lungă care stă aici", 3.0)]):
        folder = tmp_path / "stamps" / f"{i}"
        audio.write(folder / "x_desc_ro.ogg.wav", audio.speech(i, seconds)).rename(folder / "x_desc_ro.ogg")
        (folder / "x.txt").write_text(f"Something.\nfr.utf8=Rien.\nro.utf8={text}\n", "utf-8")
    found = list(recordings.recordings(recordings.SOURCES["romanian"], tmp_path / "stamps"))
    assert sorted(r.text for r in found) == sorted(t for t in texts if "$" not in t)
    lengths = [(r, recordings.write(r, tmp_path / f"{r.rank}.ogg")) for r in found]
    assert {r.text for r, s in lengths if s is None} == {"Prea mult text pentru atat de puțin timp"}, "nobody speaks so fast"
    held, trained = recordings.split([(r, s) for r, s in lengths if s is not None], 40)
    assert len(held) == 4, "one of those that begin alike"
    assert [r.text for r in trained] == ["O vaca"]


@pytest.mark.slow
def test_sentences_are_distinct_short_and_held_out_ones_are_not_among_them() -> None:
    for language in sentences.GRAMMARS:
        found = sentences.sentences(language, 1500)
        assert len(set(found)) == 1500
        assert max(map(len, found)) <= sentences.LONGEST
        assert all(t[0].isupper() and t[-1] in ".?!" and "{" not in t and "  " not in t for t in found)
        assert not set(found) & set(synthetic.held(language))
    assert len(synthetic.texts("malay", 400)) == 400
    assert not set(synthetic.texts("malay", 400)) & set(synthetic.held("malay"))


def test_romanian_is_respelled_for_spanish() -> None:
    table = read(ROOT / "recipes" / "respellings" / "romanian-spanish.yaml")
    assert table.spell("Un câine roșu se joacă cu o minge, în țară.") == "Un ciine rochu se yoaca cu o minye, in tsara."


@pytest.mark.slow
@pytest.mark.parametrize("language", sorted(sentences.GRAMMARS))
def test_every_sentence_can_be_respelled(language: str) -> None:
    table = read(ROOT / "recipes" / "respellings" / f"{language}-spanish.yaml")
    assert [t for t in synthetic.texts(language, 1000) if table.foreign(table.spell(t))] == []
