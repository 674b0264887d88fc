"""The studies: how many runs, which recipes, what a row holds, what a stop leaves, what the page says of rows."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy import stats

from qrecipe.errors import RecipeError
from qrecipe.files import FileHashes
from qrecipe.plan import make_plan
from qrecipe.recipe import inspect
from qrecipe.recipe.respelling import read
from qrecipe.recipe.writer import write_yaml
from tests.support import recipes

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools" / "study"
STUDIES = [ROOT / "studies" / f"{name}.yaml" for name in ("malay", "turkish", "transfer")]
sys.path.insert(0, str(TOOLS))  # the tools are scripts, not a package
try:
    import data
    import report
    import run as runner
    import sentences
    import study as studies
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
    (folder / "factors.yaml").write_text("steps: {one: {stages: [{id: language, steps: 1}]}, two: {stages: [{id: language, steps: 2}]}}")
    study = {"study": 1, "name": "tiny", "recipe": "recipe.yaml", "factors": "factors.yaml", "results": "results.csv"}
    study |= {"seeds": [0, 1], "centre": {"steps": "one"}, "vary": ["steps"]}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder / "study.yaml"


def test_what_is_stopped_goes_on_and_no_row_is_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QRECIPE_ALLOW", str(tmp_path))
    file, made = tiny_study(tmp_path), []

    def one(item: Any, folder: Path, keep: bool) -> dict[str, object]:
        if len(made) == 1:
            made.append(None)
            raise KeyboardInterrupt
        made.append((item.run.id, item.run.seed))
        about = {"run": item.run.id, "seed": item.run.seed, "plan": item.plan, "device": "CPU, 1 thread", "seconds": 60.0}
        return {**about, "talker_nll(dev) value": 3.25, "talker_nll(dev) low": 3.0, "talker_nll(dev) high": 3.5}

    monkeypatch.setattr(runner, "one", one)
    arguments = [str(file), "--runs", str(tmp_path / "runs")]
    assert runner.main([*arguments, "--dry-run"]) == 0
    assert made == []
    assert runner.main(arguments) == 3
    assert "2 runs with 2 seeds, 4 in all" in capsys.readouterr().out
    assert runner.main(arguments) == 0
    assert [m for m in made if m] == [("centre", 0), ("steps=two", 0), ("centre", 1), ("steps=two", 1)]
    assert "3 to do, about 3 minutes by the 1 rows" in capsys.readouterr().out
    with open(tmp_path / "results.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [(r["run"], r["seed"], r["talker_nll(dev) value"]) for r in rows][:2] == [("centre", "0", "3.25"), ("steps=two", "0", "3.25")]
    assert runner.main(arguments) == 0
    assert len(made) == 5, "nothing was left to do"


@pytest.mark.slow
def test_a_run_gives_its_row(mini: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QRECIPE_ALLOW", str(tmp_path))
    file = tiny_study(tmp_path)
    assert runner.main([str(file), "--runs", str(tmp_path / "runs"), "--only", "two", "--seeds", "1"]) == 0
    (row,) = report.read(tmp_path / "results.csv")
    assert (row["run"], row["seed"]) == ("steps=two", "1")
    low, value, high = (float(row[f"talker_nll(dev) {n}"]) for n in ("low", "value", "high"))
    assert 0 < low < value < high
    assert not (tmp_path / "runs" / "tiny" / "bundles").exists() or not any((tmp_path / "runs" / "tiny" / "bundles").iterdir())


def test_intervals_of_differences_are_students_over_seeds() -> None:
    def row(run: str, seed: int, value: float) -> dict[str, str]:
        return {"run": run, "seed": str(seed), "m value": str(value), "m low": str(value - 0.1), "m high": str(value + 0.2)}

    centre = [row("centre", s, v) for s, v in enumerate((0.5, 0.6, 0.55))]
    other = [row("x", s, v) for s, v in enumerate((0.45, 0.5, 0.52))]
    found = report.difference(other, centre, "m")
    expected = stats.ttest_rel([0.45, 0.5, 0.52], [0.5, 0.6, 0.55]).confidence_interval(0.95)
    assert found is not None
    assert found.low == pytest.approx(expected.low, rel=1e-3)
    assert found.high == pytest.approx(expected.high, rel=1e-3)
    alone = report.difference(other[:1], centre, "m")
    assert alone is not None
    assert (alone.low, alone.high) == (None, None), "one seed has no interval"
    value = report.value(centre, "m")
    assert value is not None
    assert (value.value, value.low, value.high) == pytest.approx((0.55, 0.45, 0.75))


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_the_page_says_what_the_rows_say(path: Path) -> None:
    study = studies.load(path)
    page = report.PAGE.read_text("utf-8")
    text, picture = report.section(study)
    assert report.placed(page, study.name, text) == page, f"python tools/study/report.py studies/{path.name}"
    if picture is not None:
        assert (report.PAGE.parent / f"study-{study.name}.svg").read_text("utf-8") == picture


def test_rows_become_a_table_and_a_plot(tmp_path: Path) -> None:
    study = studies.load(tiny_study(tmp_path))
    assert report.section(study) == ("0 of 4 runs have been carried out.", None)
    fields = ["run", "seed", *(f"cer(dev) {n}" for n in ("value", "low", "high"))]
    lines = [fields, ["centre", "0", "0.5", "0.4", "0.6"], ["centre", "1", "0.6", "0.5", "0.7"], ["steps=two", "0", "0.4", "0.3", "0.5"]]
    study.results.write_text("".join(",".join(line) + "\n" for line in lines))
    text, picture = report.section(study)
    assert text.startswith("3 of 4 runs have been carried out.")
    assert "| centre | 2 | 0.550 (0.450 to 0.650) |" in text
    assert "| steps=two | 1 | 0.400 (0.300 to 0.500) |" in text
    assert text.split("![")[0].rstrip().endswith("| -0.100 |")
    assert picture is not None
    assert picture.count("<circle") == 2


def test_sentences_are_distinct_short_and_held_out_ones_are_not_among_them() -> None:
    for language in sentences.GRAMMARS:
        found = sentences.sentences(language, 1500)
        assert len(set(found)) == 1500
        assert max(map(len, found)) <= sentences.LONGEST
        assert all(t[0].isupper() and t[-1] in ".?!" and "{" not in t and "  " not in t for t in found)
        assert not set(found) & set(data.held(language))
    assert len(data.texts("malay", 400)) == 400
    assert not set(data.texts("malay", 400)) & set(data.held("malay"))


@pytest.mark.parametrize("language", sorted(sentences.GRAMMARS))
def test_every_sentence_can_be_respelled(language: str) -> None:
    table = read(ROOT / "recipes" / "respellings" / f"{language}-spanish.yaml")
    assert [t for t in data.texts(language, 1000) if table.foreign(table.spell(t))] == []
