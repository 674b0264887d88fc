"""The command line as programs use it: JSON forms, exit codes, no traceback, nothing heavy imported, schemas that hold."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from qrecipe.plan.schemas import schemas
from qrecipe.source.reader import read_file
from tests.support import commands

ROOT = Path(__file__).parents[2]
BROKEN = ROOT / "tests" / "recipe" / "broken"
SHIPPED = sorted([*(ROOT / "recipes").glob("*.yaml"), *(ROOT / "recipes" / "templates").glob("*.yaml")])


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Nothing of the user's caches, and no network."""
    folder = tmp_path_factory.mktemp("home")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("QRECIPE", "HF_"))}
    return {**kept, "QRECIPE_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}


class Qrecipe:
    """The command line in the folder of the broken recipes."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def __call__(self, *arguments: str, cwd: Path = BROKEN) -> subprocess.CompletedProcess[str]:
        return commands.here(*arguments, cwd=cwd, environment=self.environment)

    def process(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """In a process of its own: what a person sees, warnings of imported libraries and all."""
        return commands.process(*arguments, cwd=BROKEN, environment=self.environment)


@pytest.fixture(scope="module")
def qrecipe(environment: dict[str, str]) -> Qrecipe:
    return Qrecipe(environment)


# validate


def test_validate_a_sound_recipe(qrecipe: Qrecipe) -> None:
    done = qrecipe("validate", "sound.yaml", "--format", "json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"problems": []})
    done = qrecipe.process("validate", "sound.yaml")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 file: no problems\n", "")


def test_validate_names_every_problem_of_every_file(qrecipe: Qrecipe) -> None:
    done = qrecipe("validate", "language-row-taken.yaml", "sound.yaml", "gate-unknown-metric.yaml", "--format", "json")
    assert done.returncode == 2
    assert done.stderr == ""
    problems = json.loads(done.stdout)["problems"]
    assert [(p["code"], p["file"], p["line"], p["column"]) for p in problems] == [
        ("QR022", "language-row-taken.yaml", 4, 21),
        ("QR020", "gate-unknown-metric.yaml", 6, 18),
        ("QR020", "gate-unknown-metric.yaml", 7, 18),
    ]
    assert problems[0] == {
        "code": "QR022",
        "severity": "error",
        "file": "language-row-taken.yaml",
        "line": 4,
        "column": 21,
        "message": "row 2050 is taken by the base: english",
        "help": "`auto` finds a free row",
        "note": None,
    }


def test_warnings_alone_are_no_failure_unless_strict(qrecipe: Qrecipe) -> None:
    done = qrecipe("validate", "dataset-missing-file.yaml", "--format", "json")
    assert done.returncode == 0
    assert [p["severity"] for p in json.loads(done.stdout)["problems"]] == ["warning"]
    assert qrecipe("validate", "dataset-missing-file.yaml", "--strict").returncode == 2


def test_validate_prints_for_people_on_standard_error(qrecipe: Qrecipe) -> None:
    done = qrecipe("validate", "unknown-field-stage.yaml")
    assert (done.returncode, done.stdout) == (2, "1 file: 1 error\n")
    assert done.stderr == (BROKEN / "unknown-field-stage.txt").read_text() + "\n"


def test_validate_for_github(qrecipe: Qrecipe) -> None:
    done = qrecipe("validate", "unknown-field-stage.yaml", "--format", "github")
    assert done.returncode == 2
    message = "unknown field `epoch`%0Ahelp: did you mean `epochs`?"
    assert done.stdout == f"::error file=unknown-field-stage.yaml,line=5,col=5,endColumn=10,title=QR010::{message}\n"


def test_github_sees_files_from_the_repository_and_no_file_for_an_argument(qrecipe: Qrecipe, environment: dict[str, str]) -> None:
    inside = Qrecipe({**environment, "GITHUB_WORKSPACE": str(ROOT)})
    done = inside("validate", "unknown-field-stage.yaml", "--format", "github", "--set", "seed=a%,b")
    first, second = done.stdout.splitlines()
    assert first.startswith("::error title=QR012::seed: should be a whole number%0Ahelp: ")
    assert second.startswith("::error file=tests/recipe/broken/unknown-field-stage.yaml,line=5,")


# explain


def test_explain(qrecipe: Qrecipe) -> None:
    done = qrecipe("explain", "qr010", "--format", "json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["code"], found["meaning"]) == (0, "QR010", "unknown field")
    assert found["wrong"] != found["right"]
    assert "What to do: the help has the nearest right spelling" in qrecipe("explain", "QR010").stdout
    assert "QR071  another run works in this folder" in qrecipe("explain").stdout
    assert qrecipe("explain", "QR999").returncode == 2


# plan

PLAN = {
    "hash",
    "complete",
    "recipe",
    "version",
    "numerics",
    "seed",
    "base",
    "languages",
    "datasets",
    "stages",
    "accept",
    "settings",
    "done",
    "warnings",
}
STAGE = {
    "id",
    "objective",
    "data",
    "trainable",
    "parameters",
    "parameters_max",
    "epochs",
    "steps",
    "select",
    "gates",
    "on_pass",
    "on_fail",
    "fingerprint",
}
TRAIN = {"match", "except", "rows", "tensors", "rows_count", "rows_sha256", "parameters", "parameters_max", "lr", "weight_decay"}


def test_plan_json(qrecipe: Qrecipe) -> None:
    done = qrecipe.process("plan", "sound.yaml", "--format", "json", "--set", "stages.text.epochs=7")
    assert (done.returncode, done.stderr) == (0, "")
    plan = json.loads(done.stdout)
    assert set(plan) >= PLAN
    text, language = plan["stages"]
    assert set(text) >= STAGE
    assert text["epochs"] == 7
    assert plan["done"] == {"text": False, "language": False}
    row, projection = language["trainable"]
    assert set(row) >= TRAIN
    assert (row["match"], row["rows"], row["tensors"]) == (
        ["talker.model.codec_embedding"],
        "languages",
        ["talker.model.codec_embedding.weight"],
    )
    assert language["parameters"] == row["parameters"] + projection["parameters"]
    assert len(projection["tensors"]) == 4


def test_plan_of_the_real_base_has_null_for_what_is_unknown(qrecipe: Qrecipe) -> None:
    done = qrecipe("plan", "sound.yaml", "--format", "json", "--set", "base.model=Qwen/Qwen3-TTS-12Hz-1.7B-Base")
    plan = json.loads(done.stdout)
    text, language = plan["stages"]
    assert (text["parameters"], text["parameters_max"], text["fingerprint"]) == (None, 311_164_928, None)
    assert language["trainable"][0]["parameters"] == 2_048
    assert [w["code"] for w in plan["warnings"]] == ["QR052"]
    assert plan["complete"] is False
    strict = qrecipe("plan", "sound.yaml", "--strict", "--format", "json", "--set", "base.model=Qwen/Qwen3-TTS-12Hz-1.7B-Base")
    assert (strict.returncode, [p["code"] for p in json.loads(strict.stdout)["problems"]]) == (2, ["QR052"])


def test_plan_for_people(qrecipe: Qrecipe) -> None:
    done = qrecipe("plan", "sound.yaml")
    assert done.returncode == 0
    assert "talker.text_projection" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("(complete)")


def test_plan_of_a_broken_recipe(qrecipe: Qrecipe) -> None:
    done = qrecipe.process("plan", "pattern-overlap.yaml", "--format", "json")
    assert (done.returncode, [p["code"] for p in json.loads(done.stdout)["problems"]]) == (2, ["QR032"])


# arguments


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["pla", "sound.yaml"], "QR070", "did you mean `plan`?"),
        (["train"], "QR070", "no verb is called `train`"),
        (["plan"], "QR070", "Missing argument"),
        (["plan", "sound.yaml", "--stict"], "QR070", "--stict"),
        (["plan", "sound.yaml", "--format", "xml"], "QR070", "'xml' is not one of"),
        (["validate", "none.yaml"], "QR001", "No such file"),
        (["plan", "none.yaml"], "QR001", "No such file"),
        (["show", "none.yaml"], "QR001", "No such file"),
        (["plan", "data"], "QR001", "Is a directory"),
        (["plan", "sound.yaml", "--set", "stages.txt.epochs=3"], "QR015", "there is no `txt`"),
        (["plan", "template.yaml"], "QR016", "this file is a template"),
        (["schema", "recipes"], "QR070", "did you mean `recipe`?"),
    ],
)
def test_wrong_arguments(qrecipe: Qrecipe, arguments: list[str], code: str, says: str) -> None:
    done = qrecipe(*arguments)
    assert done.returncode == 2
    assert f"[{code}]" in done.stderr
    assert says in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["plan", "none.yaml"], "QR001"), (["plan"], "QR070"), (["pla", "x.yaml"], "QR070"), (["show", "stage-twice.yaml"], "QR023")],
)
def test_problems_are_json_on_standard_output_where_json_is_asked_for(qrecipe: Qrecipe, arguments: list[str], code: str) -> None:
    done = qrecipe(*arguments, "--format", "json")
    assert done.returncode == 2
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["code"] == code
    assert set(problem) == {"code", "severity", "file", "line", "column", "message", "help", "note"}


def test_every_verb_has_help(qrecipe: Qrecipe) -> None:
    done = qrecipe("--help")
    assert done.returncode == 0
    for verb in ("validate", "plan", "show", "schema"):
        assert verb in done.stdout
        assert qrecipe(verb, "--help").returncode == 0


def test_show_prints_a_recipe_that_means_the_same(qrecipe: Qrecipe, tmp_path: Path) -> None:
    shown = qrecipe("show", "sound.yaml", "--set", "name=shown").stdout
    (tmp_path / "shown.yaml").write_text(shown)
    assert json.loads(qrecipe("show", "shown.yaml", "--format", "json", cwd=tmp_path).stdout)["name"] == "shown"


# what is imported

HEAVY = ("torch", "transformers", "librosa", "qwen_tts", "soundfile", "scipy", "sklearn")


@pytest.mark.parametrize("verb", ["validate", "plan"])
def test_nothing_heavy_is_imported(environment: dict[str, str], verb: str) -> None:
    program = (
        "import sys, json\n"
        "from qrecipe.cli import main\n"
        "try:\n"
        f"    main([{verb!r}, {str(ROOT / 'recipes' / 'malay.yaml')!r}])\n"
        "except SystemExit as e:\n"
        "    print(json.dumps([e.code, sorted({m.split('.')[0] for m in sys.modules})]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    assert "qrecipe" in modules
    assert [m for m in HEAVY if m in modules] == []


# schemas


@pytest.mark.parametrize("name", sorted(schemas()))
def test_the_committed_schema_is_the_generated_one(name: str) -> None:
    committed = json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))
    assert committed == schemas()[name], "run `qrecipe schema --write schemas`"


def test_no_schema_is_left_over() -> None:
    assert {p.name for p in (ROOT / "schemas").glob("*.json")} == {f"{n}.schema.json" for n in schemas()}


@pytest.mark.parametrize("name", sorted(schemas()))
def test_every_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas()[name])


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((ROOT / "schemas" / "recipe.schema.json").read_text(encoding="utf-8")))


def plain(path: Path) -> dict[str, Any]:
    found = read_file(path).plain()
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("path", [*SHIPPED, BROKEN / "sound.yaml"], ids=lambda p: p.name)
def test_recipes_follow_the_schema(validator: jsonschema.Draft202012Validator, path: Path) -> None:
    assert [e.message for e in validator.iter_errors(plain(path))] == []


KINDS = ("unknown-field-", "wrong-", "missing-fields", "empty-", "unknown-kind", "unknown-objective", "share-outside")
NEEDS_THE_OTHER_FILE = {"unknown-field-of-the-other-objective", "unknown-field-text-dataset"}
"""Whether the field is known depends on an `objective` or `kind` that the extended file states."""
STRUCTURAL = sorted(p for p in BROKEN.glob("*.yaml") if p.name.startswith(KINDS) and p.stem not in NEEDS_THE_OTHER_FILE)


@pytest.mark.parametrize("path", STRUCTURAL, ids=lambda p: p.stem)
def test_an_editor_sees_what_is_wrong_with_a_recipe_that_extends_another(validator: jsonschema.Draft202012Validator, path: Path) -> None:
    assert list(validator.iter_errors(plain(path)))


SOUND = plain(BROKEN / "sound.yaml")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["epoch"], 3),
        (["base", "modell"], "x"),
        (["languages", "malay", "tokenid"], 1),
        (["datasets", "speech", "refrence"], "x"),
        (["datasets", "text", "reference"], "x"),
        (["stages", 0, "predictor_weight"], 0.5),
        (["stages", 1, "train", 0, "learning_rate"], 1.0),
        (["stages", 1, "gates", 0, "maximum"], 1.0),
        (["stages", 1, "epochs"], "three"),
        (["stages", 1, "train", 0, "lr"], 0),
        (["stages", 1, "train", 0, "rows"], "all"),
        (["stages", 1, "data"], "speech"),
        (["stages", 1, "objective"], "spech"),
        (["languages", "malay", "token_id"], 5000),
        (["name"], "Malay TTS"),
        (["version"], "v1"),
        (["qrecipe"], 2),
        (["stages"], []),
        (["datasets", "speech", "kind"], None),
    ],
)
def test_an_editor_sees_what_is_wrong_with_a_recipe_that_stands_alone(
    validator: jsonschema.Draft202012Validator, path: list[str | int], value: object
) -> None:
    recipe: Any = copy.deepcopy(SOUND)
    at = recipe
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    assert list(validator.iter_errors(recipe))


@pytest.mark.parametrize("field", ["qrecipe", "name", "version", "base", "languages", "datasets", "stages"])
def test_a_recipe_that_stands_alone_needs_its_fields(validator: jsonschema.Draft202012Validator, field: str) -> None:
    recipe = {k: v for k, v in SOUND.items() if k != field}
    assert list(validator.iter_errors(recipe))
    if field != "qrecipe":
        assert list(validator.iter_errors({**recipe, "extends": "other.yaml"})) == []


@pytest.mark.slow  # waits for torch and stock qwen_tts
def test_an_embedded_base_that_does_not_exist_is_not_another_one(qrecipe: Qrecipe) -> None:
    done = qrecipe("say", "builtin:mimi", "Hello.", "--reference", str(ROOT / "recipes" / "data" / "english" / "ref.ogg"), "--out", "x.wav")
    assert (done.returncode, "`builtin:mimi` is not an embedded base" in done.stderr) == (2, True)
