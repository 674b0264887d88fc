"""`extends`, `vars` and `--set`: which one recipe results from several files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qrecipe.errors import Place, Problem, RecipeError
from qrecipe.recipe import inspect
from qrecipe.source.compose import MAX_CHAIN, compose


class Files:
    """Recipes in a folder; every one starts with `qrecipe: 1`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"qrecipe: 1\n{text}", encoding="utf-8")
        return path

    def compose(self, name: str, *sets: str) -> dict[str, Any]:
        composed = compose(self.root / name, list(sets), name)
        composed.problems.raise_any(RecipeError)
        plain = composed.node.plain()
        assert isinstance(plain, dict)
        del plain["qrecipe"]
        return plain

    def refused(self, name: str, *sets: str) -> Problem:
        with pytest.raises(RecipeError) as e:
            self.compose(name, *sets)
        (problem,) = e.value.problems
        return problem


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.chdir(tmp_path)
    return Files(tmp_path)


# extends


def test_a_map_merges_key_by_key(files: Files) -> None:
    files.write("t.yaml", "base: {model: a, revision: r}\nevaluation: {seeds: [0, 1], batch: 4}\n")
    files.write("r.yaml", "extends: t.yaml\nbase: {model: b}\nevaluation: {seeds: [7]}\nname: own\n")
    assert files.compose("r.yaml") == {"base": {"model": "b", "revision": "r"}, "evaluation": {"seeds": [7], "batch": 4}, "name": "own"}


def test_a_scalar_takes_the_place_of_a_map(files: Files) -> None:
    files.write("t.yaml", "stages:\n  - {id: a, select: {every: 5}}\n")
    files.write("r.yaml", "extends: t.yaml\nstages:\n  - {id: a, select: null}\n")
    assert files.compose("r.yaml")["stages"] == [{"id": "a", "select": None}]


def test_later_files_of_a_list_win(files: Files) -> None:
    files.write("one.yaml", "seed: 1\nname: one\n")
    files.write("two.yaml", "seed: 2\nversion: two\n")
    files.write("r.yaml", "extends: [one.yaml, two.yaml]\ndescription: own\n")
    assert files.compose("r.yaml") == {"seed": 2, "name": "one", "version": "two", "description": "own"}


def test_a_chain_reads_from_the_far_end(files: Files) -> None:
    files.write("far.yaml", "seed: 1\nname: far\nversion: far\n")
    files.write("near.yaml", "extends: far.yaml\nname: near\nversion: near\n")
    files.write("r.yaml", "extends: near.yaml\nversion: own\n")
    assert files.compose("r.yaml") == {"seed": 1, "name": "near", "version": "own"}


def test_two_parents_may_share_a_grandparent(files: Files) -> None:
    files.write("far.yaml", "seed: 1\n")
    files.write("one.yaml", "extends: far.yaml\nname: one\n")
    files.write("two.yaml", "extends: far.yaml\nversion: two\n")
    files.write("r.yaml", "extends: [one.yaml, two.yaml]\n")
    assert files.compose("r.yaml") == {"seed": 1, "name": "one", "version": "two"}


def test_a_circle_is_shown_as_a_chain(files: Files) -> None:
    files.write("a.yaml", "extends: b.yaml\n")
    files.write("b.yaml", "extends: c.yaml\n")
    files.write("c.yaml", "name: c\nextends: a.yaml\n")
    problem = files.refused("a.yaml")
    assert problem.message == "`extends` goes in a circle: a.yaml -> b.yaml -> c.yaml -> a.yaml"
    assert (problem.code, problem.place, problem.place.length) == ("QR014", Place("c.yaml", 3, 10), 6)


def test_a_file_that_extends_itself(files: Files) -> None:
    files.write("a.yaml", "extends: ./a.yaml\n")
    assert files.refused("a.yaml").message == "`extends` goes in a circle: a.yaml -> a.yaml"


def test_a_chain_that_is_too_long(files: Files) -> None:
    for i in range(MAX_CHAIN + 1):
        files.write(f"{i}.yaml", f"extends: {i + 1}.yaml\n")
    files.write(f"{MAX_CHAIN + 1}.yaml", "name: far\n")
    chain = " -> ".join(f"{i}.yaml" for i in range(MAX_CHAIN + 1))
    assert files.refused("0.yaml").message == f"`extends` is deeper than {MAX_CHAIN} files: {chain}"
    assert files.compose("2.yaml") == {"name": "far"}


def test_a_missing_file_names_the_nearest(files: Files) -> None:
    files.write("templates/ladder.yaml", "")
    files.write("r.yaml", "extends: templates/lader.yaml\n")
    problem = files.refused("r.yaml")
    assert (problem.code, problem.place, problem.place.length) == ("QR014", Place("r.yaml", 2, 10), 20)
    assert (problem.message, problem.help) == (
        "`extends` names a missing file: templates/lader.yaml",
        "did you mean `templates/ladder.yaml`?",
    )


def test_a_missing_file_of_a_list_stands_at_its_own_place(files: Files) -> None:
    files.write("one.yaml", "")
    files.write("r.yaml", "extends: [one.yaml, nowhere/two.yaml]\n")
    problem = files.refused("r.yaml")
    assert (problem.place, problem.help) == (Place("r.yaml", 2, 21), None)


@pytest.mark.parametrize("value", ["5", "{a: b}", "['']", "null", "[[a.yaml]]"])
def test_extends_names_files(files: Files, value: str) -> None:
    files.write("r.yaml", f"extends: {value}\n")
    assert files.refused("r.yaml").message == "`extends` names a file or a list of files"


def test_problems_name_a_template_from_the_same_folder_as_the_recipe(files: Files) -> None:
    files.write("templates/t.yaml", "name: &x t\n")
    files.write("recipes/r.yaml", "extends: ../templates/t.yaml\n")
    assert files.refused("recipes/r.yaml").place == Place("templates/t.yaml", 2, 7)


# stages and other lists


def ids(recipe: dict[str, Any]) -> list[str]:
    return [stage["id"] for stage in recipe["stages"]]


def test_stages_merge_by_id_where_the_template_has_them(files: Files) -> None:
    files.write("t.yaml", "stages:\n  - {id: a, epochs: 1, clip: 2}\n  - {id: b, epochs: 1}\n")
    files.write("r.yaml", "extends: t.yaml\nstages:\n  - {id: b, epochs: 5}\n  - {id: a, epochs: 3}\n")
    assert files.compose("r.yaml")["stages"] == [{"id": "a", "epochs": 3, "clip": 2}, {"id": "b", "epochs": 5}]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (["new"], "a b new"),
        (["new", "a"], "new a b"),
        (["a", "new", "b"], "a new b"),
        (["new", "b"], "a new b"),
        (["b", "new"], "a b new"),
        (["one", "two", "b", "three"], "a one two b three"),
        (["one", "a", "two", "b"], "one a two b"),
    ],
)
def test_a_new_stage_goes_right_before_the_next_one_that_both_have(files: Files, own: list[str], expected: str) -> None:
    files.write("t.yaml", "stages: [{id: a}, {id: b}]\n")
    files.write("r.yaml", "extends: t.yaml\nstages: [" + ", ".join(f"{{id: {i}}}" for i in own) + "]\n")
    assert ids(files.compose("r.yaml")) == expected.split()


def test_two_own_stages_of_one_id_stay_two_where_nothing_is_extended(files: Files) -> None:
    files.write("r.yaml", "stages: [{id: a}, {id: a}]\n")
    assert ids(files.compose("r.yaml")) == ["a", "a"]


def test_other_lists_are_replaced_inside_a_merged_stage_too(files: Files) -> None:
    files.write("t.yaml", "accept: [{metric: x}]\nstages:\n  - {id: a, data: [p, q], train: [{match: m, lr: 1}, {match: n, lr: 1}]}\n")
    files.write("r.yaml", "extends: t.yaml\naccept: []\nstages:\n  - {id: a, data: [s], train: [{match: n, lr: 2}]}\n")
    assert files.compose("r.yaml") == {"accept": [], "stages": [{"id": "a", "data": ["s"], "train": [{"match": "n", "lr": 2}]}]}


# paths


def test_paths_are_relative_to_the_file_that_states_them(files: Files) -> None:
    files.write(
        "shared/t.yaml", "base: {model: ./base}\ndatasets:\n  a: {path: data/a.jsonl, reference: ../ref.ogg}\n  b: {path: data/b.jsonl}\n"
    )
    files.write("own/r.yaml", "extends: ../shared/t.yaml\ndatasets:\n  b: {path: data/b.jsonl}\n  c: {path: /data/c.jsonl}\n")
    assert files.compose("own/r.yaml") == {
        "base": {"model": "../shared/base"},
        "datasets": {
            "a": {"path": "../shared/data/a.jsonl", "reference": "../ref.ogg"},
            "b": {"path": "data/b.jsonl"},
            "c": {"path": "/data/c.jsonl"},
        },
    }


def test_a_hub_id_is_no_path(files: Files) -> None:
    files.write("shared/t.yaml", "base: {model: Qwen/Base}\n")
    files.write("own/r.yaml", "extends: ../shared/t.yaml\n")
    assert files.compose("own/r.yaml") == {"base": {"model": "Qwen/Base"}}


# vars


def described(files: Files, vars_: str, text: str) -> Any:
    files.write("r.yaml", f"vars: {vars_}\ndescription: {text}\n")
    return files.compose("r.yaml")["description"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$n", 3),
        ("${n}", 3),
        ("$x", 1e-4),
        ("$on", True),
        ("'$n'", 3),
        ("$n epochs", "3 epochs"),
        ("$n$n", "33"),
        ("data/$word/train.jsonl", "data/malay/train.jsonl"),
        ("${word}_text", "malay_text"),
        ("is $on", "is true"),
        ("5 $$", "5 $"),
        ("$$word", "$word"),
    ],
)
def test_variables(files: Files, text: str, expected: object) -> None:
    """A value that is one variable alone keeps the variable's type."""
    found = described(files, "{n: 3, x: 1.0e-4, on: true, word: malay}", text)
    assert found == expected
    assert type(found) is type(expected)


def test_variables_stand_in_every_value_and_in_no_key(files: Files) -> None:
    files.write("r.yaml", "vars: {l: malay}\nlanguages: {$l: {bcp47: $l}}\nstages:\n  - {id: a, data: [$l, {use: $l}]}\n")
    recipe = files.compose("r.yaml")
    assert recipe["languages"] == {"$l": {"bcp47": "malay"}}
    assert recipe["stages"] == [{"id": "a", "data": ["malay", {"use": "malay"}]}]


def test_a_recipe_gives_the_variables_of_its_template(files: Files) -> None:
    files.write("t.yaml", "template: true\nvars: {language: null, rate: 1.0e-4}\ndescription: $language at $rate\n")
    files.write("r.yaml", "extends: t.yaml\nvars: {language: malay}\n")
    assert files.compose("r.yaml") == {"vars": {"language": "malay", "rate": 1e-4}, "description": "malay at 0.0001"}


def test_a_variable_is_not_looked_up_in_a_variable(files: Files) -> None:
    assert described(files, "{a: $b, b: 1}", "<$a>") == "<$b>"


def test_an_undefined_variable_names_the_nearest(files: Files) -> None:
    files.write("r.yaml", "vars: {language: malay}\ndescription: in $langauge\n")
    problem = files.refused("r.yaml")
    assert (problem.code, problem.place, problem.message) == ("QR013", Place("r.yaml", 3, 14), "variable `$langauge` is not defined")
    assert problem.help == "did you mean `language`? (define it under `vars`)"


def test_a_null_variable_must_be_given(files: Files) -> None:
    files.write("t.yaml", "template: true\nvars: {language: null}\ndescription: $language\n")
    files.write("r.yaml", "extends: t.yaml\n")
    problem = files.refused("r.yaml")
    assert (problem.code, problem.place) == ("QR013", Place("t.yaml", 4, 14))
    assert problem.message == "variable `$language` has no value"
    assert problem.help == "the template leaves it open: write `vars: {language: …}`"


@pytest.mark.parametrize("text", ["5$", "$ 5", "${", "${a b}", "$5"])
def test_a_dollar_that_starts_no_variable(files: Files, text: str) -> None:
    files.write("r.yaml", f"description: '{text}'\n")
    problem = files.refused("r.yaml")
    assert (problem.code, problem.help) == ("QR013", "write `$$` for a dollar")


def test_a_list_is_no_variable(files: Files) -> None:
    files.write("r.yaml", "vars: {a: [1]}\n")
    assert files.refused("r.yaml").message == "variable `a` must be a string, a number or a truth value"


# --set


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("name=other", "name", "other"),
        ("seed=7", "seed", 7),
        ("description=", "description", None),
        ("description=no", "description", "no"),
        ("description='7'", "description", "7"),
        ("description=a=b", "description", "a=b"),
        ("base.revision=abc", "base", {"model": "m", "revision": "abc"}),
        ("evaluation.seeds=[1, 2]", "evaluation", {"seeds": [1, 2]}),
        ("evaluation={batch: 2}", "evaluation", {"batch": 2}),
        ("vars.rate=2", "vars", {"rate": 2}),
    ],
)
def test_set(files: Files, text: str, field: str, expected: object) -> None:
    files.write("r.yaml", "name: own\nbase: {model: m}\n")
    assert files.compose("r.yaml", text)[field] == expected


def test_set_finds_stages_by_id_and_other_elements_by_number(files: Files) -> None:
    files.write("r.yaml", "stages:\n  - {id: a, epochs: 1}\n  - {id: b, epochs: 1, train: [{lr: 1}, {lr: 1}]}\n")
    assert files.compose("r.yaml", "stages.b.epochs=3", "stages.b.train.1.lr=5")["stages"] == [
        {"id": "a", "epochs": 1},
        {"id": "b", "epochs": 3, "train": [{"lr": 1}, {"lr": 5}]},
    ]


def test_set_comes_before_variables_and_after_extends(files: Files) -> None:
    files.write("t.yaml", "vars: {rate: 1}\nstages: [{id: a, lr: $rate}]\n")
    files.write("r.yaml", "extends: t.yaml\n")
    assert files.compose("r.yaml", "vars.rate=5")["stages"] == [{"id": "a", "lr": 5}]


def test_the_last_set_wins(files: Files) -> None:
    files.write("r.yaml", "seed: 1\n")
    assert files.compose("r.yaml", "seed=2", "seed=3")["seed"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed", "`seed` is not of the form path=value"),
        ("=3", "`=3` is not of the form path=value"),
        ("a..b=3", "`a..b=3` is not of the form path=value"),
        (
            "seed=[1",
            "the value of `seed=[1` cannot be read: while parsing a flow sequence expected ',' or ']', but got '<stream end>'",
        ),
        ("stages.x.epochs=1", "`stages.x.epochs=1`: there is no `x`"),
        ("stages.9.epochs=1", "`stages.9.epochs=1`: there is no `9`"),
        ("stages.².epochs=1", "`stages.².epochs=1`: there is no `²`"),
        ("name.x=1", "`name.x=1`: `x` is asked of a value that has no fields"),
    ],
)
def test_sets_that_cannot_be_applied(files: Files, text: str, message: str) -> None:
    files.write("r.yaml", "name: own\nstages: [{id: text}]\n")
    problem = files.refused("r.yaml", text)
    assert (problem.code, problem.place.file, problem.message) == ("QR015", f"--set {text}", message)


def test_set_suggests_the_stage(files: Files) -> None:
    files.write("r.yaml", "stages: [{id: language}]\n")
    assert files.refused("r.yaml", "stages.langauge.epochs=1").help == "did you mean `language`?"


def test_a_field_that_set_makes_up_is_a_problem_of_set(files: Files) -> None:
    files.write("r.yaml", "name: own\n")
    found = [p for p in inspect(files.root / "r.yaml", ["nmae=x"])[1] if p.code == "QR010"]
    assert [(p.place.file, p.help) for p in found] == [("--set nmae=x", "did you mean `name`?")]


@pytest.mark.parametrize(
    ("text", "column", "pointed"),
    [
        ("stages.txet.epochs=1", 8, "txet"),
        ("seed=no", 6, "no"),
        ("nmae=x", 1, "nmae"),
        ("stages.text.epoch=2", 13, "epoch"),
        ("seed=[1", 6, "["),
    ],
)
def test_a_problem_of_set_points_into_the_argument(files: Files, text: str, column: int, pointed: str) -> None:
    files.write("r.yaml", "name: own\nstages: [{id: text, objective: speech}]\n")
    found = [p for p in inspect(files.root / "r.yaml", [text])[1] if p.place.file.startswith("--set")]
    assert [(p.place.column, text[p.place.column - 1 :][: p.place.length]) for p in found] == [(column, pointed)]


# remove


def test_remove_takes_away_what_a_template_brings(files: Files) -> None:
    files.write(
        "t.yaml", "datasets: {a: {path: x}, b: {path: y}}\nstages: [{id: p, select: {every: 1}, gates: [1]}, {id: q}]\naccept: [1]\n"
    )
    files.write("r.yaml", "extends: t.yaml\nremove: [datasets.a, stages.q, stages.p.select, accept]\n")
    assert files.compose("r.yaml") == {"datasets": {"b": {"path": "y"}}, "stages": [{"id": "p", "gates": [1]}]}


def test_what_is_removed_can_be_stated_anew(files: Files) -> None:
    files.write("t.yaml", "base: {model: a, revision: r}\n")
    files.write("r.yaml", "extends: t.yaml\nremove: [base]\nbase: {model: b}\n")
    assert files.compose("r.yaml") == {"base": {"model": "b"}}


@pytest.mark.parametrize(
    ("remove", "message", "help_"),
    [
        (
            "[stages.langauge]",
            "`remove` names `stages.langauge`, and what is extended has no `langauge`",
            "did you mean `stages.language`?",
        ),
        ("[dataset]", "`remove` names `dataset`, and what is extended has no `dataset`", "did you mean `datasets`?"),
        ("[1]", "`remove` is a list of paths such as `stages.talker` or `datasets.replay`", None),
    ],
)
def test_removing_what_is_not_there(files: Files, remove: str, message: str, help_: str | None) -> None:
    files.write("t.yaml", "datasets: {a: {path: x}}\nstages: [{id: language}]\n")
    files.write("r.yaml", f"extends: t.yaml\nremove: {remove}\n")
    problem = files.refused("r.yaml")
    assert (problem.place, problem.message, problem.help) == (Place("r.yaml", 3, 10), message, help_)


def test_there_is_nothing_to_remove_from(files: Files) -> None:
    files.write("r.yaml", "remove: [stages]\n")
    assert files.refused("r.yaml").code == "QR018"


# folders


def test_extends_stays_in_the_repository(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write("shared/t.yaml", "seed: 1\n")
    files.write("repository/recipes/r.yaml", "extends: ../../shared/t.yaml\n")
    (files.root / "repository" / ".git").mkdir()
    problem = files.refused("repository/recipes/r.yaml")
    assert (problem.code, problem.message) == ("QR014", "`extends` leads out of the recipe's repository: ../../shared/t.yaml")
    monkeypatch.setenv("QRECIPE_ALLOW", f"/nowhere:{files.root / 'shared'}")
    assert files.compose("repository/recipes/r.yaml") == {"seed": 1}


def test_a_link_does_not_lead_out_either(files: Files) -> None:
    files.write("t.yaml", "seed: 1\n")
    files.write("repository/r.yaml", "extends: t.yaml\n")
    (files.root / "repository" / ".git").mkdir()
    (files.root / "repository" / "t.yaml").symlink_to(files.root / "t.yaml")
    assert "leads out" in files.refused("repository/r.yaml").message


def test_without_a_repository_the_working_folder_counts(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write("t.yaml", "seed: 1\n")
    files.write("recipes/r.yaml", "extends: ../t.yaml\n")
    assert files.compose("recipes/r.yaml") == {"seed": 1}
    monkeypatch.chdir(files.root / "recipes")
    assert "leads out" in inspect("r.yaml")[1][0].message


@pytest.mark.parametrize("named", ["/etc/passwd", "https://example.com/t.yaml"])
def test_extends_is_local_and_relative(files: Files, named: str) -> None:
    files.write("r.yaml", f"extends: {named}\n")
    assert files.refused("r.yaml").message == f"`extends` names local files by a relative path: {named}"


def test_a_recipe_of_very_many_files(files: Files) -> None:
    """Files that extend each other many times over would take forever without a bound."""
    for i in range(60):
        files.write(f"{i}.yaml", "seed: 1\n")
    files.write("r.yaml", "extends: [" + ", ".join(f"{i}.yaml" for i in range(60)) + "]\n")
    with pytest.raises(RecipeError) as e:
        compose(files.root / "r.yaml", [], "r.yaml")
    assert {p.message for p in e.value.problems} == {"the recipe is made of more than 32 files"}


def test_every_file_that_cannot_be_extended_is_named(files: Files) -> None:
    files.write("r.yaml", "extends: [one.yaml, two.yaml]\n")
    assert [p.place.column for p in inspect(files.root / "r.yaml")[1]] == [11, 21]


def test_a_second_stage_of_one_id_is_not_merged_away(files: Files) -> None:
    files.write("t.yaml", "stages: [{id: a}]\n")
    files.write("r.yaml", "extends: t.yaml\nstages: [{id: a, epochs: 1}, {id: a, epochs: 2}]\n")
    assert files.compose("r.yaml")["stages"] == [{"id": "a", "epochs": 1}, {"id": "a", "epochs": 2}]


def test_a_path_that_begins_with_a_variable(files: Files) -> None:
    files.write("shared/t.yaml", "vars: {data: null}\ndatasets: {a: {path: $data/a.jsonl}, b: {path: here/$data/b.jsonl}}\n")
    files.write("own/r.yaml", "extends: ../shared/t.yaml\nvars: {data: /srv}\n")
    datasets = files.compose("own/r.yaml")["datasets"]
    assert datasets == {"a": {"path": "/srv/a.jsonl"}, "b": {"path": "../shared/here/srv/b.jsonl"}}


# notes


def test_a_value_of_a_template_says_so(files: Files) -> None:
    files.write(
        "t.yaml",
        "template: true\nvars: {rate: null}\nstages:\n  - {id: a, objective: speech, epochs: $rate}\n  - {id: b, objective: speech, epchs: 1}\n",
    )
    files.write("r.yaml", "extends: t.yaml\nvars: {rate: fast}\n")
    notes = {p.message: p.note for p in inspect("r.yaml")[1]}
    assert notes["stages.a.epochs: should be a number"] == "the value comes from `$rate` at r.yaml:3:14"
    assert notes["unknown field `epchs`"] == "t.yaml is a template that r.yaml extends"


# template


def test_a_template_is_not_a_recipe_and_its_mark_is_not_handed_on(files: Files) -> None:
    files.write("t.yaml", "template: true\nvars: {rate: null}\nstages:\n  - {id: a, clip: $rate}\n")
    files.write("r.yaml", "extends: t.yaml\nvars: {rate: 2}\n")
    assert files.compose("r.yaml") == {"stages": [{"id": "a", "clip": 2}], "vars": {"rate": 2}}


def test_an_open_variable_may_stand_for_a_number_in_a_template(files: Files) -> None:
    head = "template: true\nvars: {rate: null}\nstages:\n  - id: a\n    objective: speech\n"
    path = files.write("t.yaml", head + "    clip: $rate\n")
    loaded, problems = inspect(path)
    assert loaded is None
    assert [(p.code, p.severity) for p in problems] == [("QR016", "warning")]
    files.write("t.yaml", head + "    clip: a lot\n")
    assert [p.message for p in inspect(path)[1]] == ["stages.a.clip: should be a number"]
