"""What a plan counts, hashes and refuses. No weights are read: the real base is known by its shipped catalogue."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from qrecipe.errors import BaseModelError, RecipeError
from qrecipe.inputs.tokenizer import TextTokenizer
from qrecipe.plan import Planned, make_plan, require_complete
from qrecipe.plan.values import PlannedStage
from qrecipe.recipe import load
from tests.support.bases import base_folder

LARGE = "Qwen/Qwen3-TTS-12Hz-1.7B-Base"
WORDS = ["pagi", "malam", "buku", "kedai", "rumah", "sungai", "ikan", "nasi", "hujan", "pintu"]
TEXTS = [f"Ada {a} dekat {b}." for a in WORDS for b in WORDS]


def recording(of: int) -> list[list[int]]:
    """Two frames that no other recording has."""
    return [[of, 2, 3, 4, 5, 6, 7, 8]] * 2


Make = Callable[..., Planned]


@pytest.fixture(autouse=True)
def _nothing_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty hub cache, no network, and no hashes remembered from elsewhere."""
    hub = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(hub))
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setenv("QRECIPE_CACHE", str(tmp_path / "cache"))


def train(match: str | list[str], **more: Any) -> dict[str, Any]:
    return {"match": match, "lr": 1e-4, **more}


def stage(id_: str, *trained: dict[str, Any], data: list[Any] | None = None, objective: str = "speech", **more: Any) -> dict[str, Any]:
    return {"id": id_, "objective": objective, "data": data or ["speech"], "train": list(trained), "epochs": 1, **more}


LANGUAGE_ROW = train("talker.model.codec_embedding", rows="languages")


@pytest.fixture
def plan(tmp_path: Path) -> Make:
    """Plans a recipe of these stages in a folder of its own; other keywords replace fields of the recipe."""

    def make(*stages: dict[str, Any], base: str = "builtin:mini", folder: str = "one", texts: list[str] = TEXTS, **changes: Any) -> Planned:
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        rows = {
            "text": [{"text": t} for t in texts],
            "train": [{"text": "Ini " + t, "audio_codes": recording(i)} for i, t in enumerate(texts)],
            "dev": [{"text": "Pokok itu tinggi.", "audio_codes": recording(1000)}],
            "english": [{"text": "The zebra quizzed us.", "audio_codes": recording(1001)}],
        }
        for name, content in rows.items():
            (root / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in content))
        recipe = {
            "qrecipe": 1,
            "name": "planned",
            "version": "0.1.0",
            "base": {"model": base},
            "languages": {"malay": {"bcp47": "ms", "init": {"copy": "english"}}},
            "datasets": {
                "text": {"kind": "text", "language": "malay", "path": "text.jsonl"},
                "speech": {"kind": "speech", "language": "malay", "path": "train.jsonl"},
                "dev": {"kind": "speech", "language": "malay", "path": "dev.jsonl"},
                "replay": {"kind": "speech", "language": "english", "path": "english.jsonl"},
            },
            "stages": list(stages),
            **changes,
        }
        path = root / "recipe.yaml"
        path.write_text(json.dumps(recipe))  # JSON is YAML
        return make_plan(load(path))

    return make


def only(planned: Planned) -> PlannedStage:
    assert planned.errors == []
    (found,) = planned.plan.stages
    return found


def codes(planned: Planned) -> list[str]:
    return [p.code for p in planned.errors]


# counts on the real base, of which this machine has nothing


@pytest.mark.parametrize(
    ("entry", "parameters"),
    [
        (train("talker.model.text_embedding"), 311_164_928),
        (train("talker.code_predictor"), 175_125_760),
        (train("talker.code_predictor", **{"except": ["talker.code_predictor.model.codec_embedding"]}), 112_211_200),
        (LANGUAGE_ROW, 2_048),
        (train("talker.text_projection"), 8_392_704),
        (train("talker.model.layers"), 1_409_408_000),
        (train("talker.model.layers.24-27"), 1_409_408_000 // 7),
        (train(["talker.codec_head", "talker.text_projection"]), 6_291_456 + 8_392_704),
        (train("talker.model.text_embedding", rows=[5, 7, 5]), 2 * 2_048),
    ],
)
def test_counts_on_the_real_base(plan: Make, entry: dict[str, Any], parameters: int) -> None:
    planned = plan(stage("a", entry), base=LARGE)
    found = only(planned)
    assert found.trainable[0].parameters == found.parameters == found.parameters_max == parameters
    assert [p.code for p in planned.warnings if p.code == "QR052"]
    assert not planned.plan.complete


def test_a_stage_counts_all_its_entries(plan: Make) -> None:
    found = only(plan(stage("a", LANGUAGE_ROW, train("talker.text_projection"), train("talker.code_predictor")), base=LARGE))
    assert found.parameters == 2_048 + 8_392_704 + 175_125_760


def test_seen_rows_of_a_base_without_its_tokenizer_are_unknown_up_to_all(plan: Make) -> None:
    entry = train("talker.model.text_embedding", rows="seen")
    found = only(plan(stage("a", entry, data=["text"], objective="text_lm"), base=LARGE))
    assert (found.trainable[0].parameters, found.trainable[0].rows_count, found.parameters) == (None, None, None)
    assert found.trainable[0].parameters_max == found.parameters_max == 311_164_928
    assert found.fingerprint is None


@pytest.mark.slow
def test_one_unknown_entry_makes_the_sum_unknown_with_its_upper_bound(plan: Make) -> None:
    found = only(plan(stage("a", train("talker.model.text_embedding", rows="seen"), LANGUAGE_ROW), base=LARGE))
    assert (found.parameters, found.parameters_max) == (None, 311_164_928 + 2_048)


def test_a_base_that_nobody_knows_leaves_everything_open(plan: Make) -> None:
    planned = plan(stage("a", train("talker.model.layers")), base="someone/Other-Base")
    found = only(planned)
    assert (found.trainable, found.parameters, found.parameters_max) == ([], None, None)
    assert planned.plan.languages["malay"].token_id is None
    with pytest.raises(RecipeError) as e:
        require_complete(planned)
    assert [p.code for p in e.value.problems] == ["QR052"]


@pytest.mark.parametrize("base", ["a--b/c", "a..b/c", "a/b.git", "~nobody-has-this-name/x", "./none"])
def test_names_that_no_hub_allows_are_not_there(plan: Make, base: str) -> None:
    assert "QR052" in [p.code for p in plan(stage("a", LANGUAGE_ROW), base=base).warnings]


def test_a_base_that_can_never_be_one_is_an_error(plan: Make) -> None:
    with pytest.raises(BaseModelError) as e:
        plan(stage("a", LANGUAGE_ROW), base="builtin:maxi")
    assert e.value.problems[0].code == "QR050"


# counts on the embedded base


def recount(texts: list[str]) -> int:
    """Different tokens of the texts' bodies, by the stock template and class."""
    transformers = pytest.importorskip("transformers")
    stock = transformers.Qwen2TokenizerFast.from_pretrained(str(resources.files("qrecipe.builtin") / "mini"))
    bodies = (stock(f"<|im_start|>assistant\n{t}<|im_end|>\n<|im_start|>assistant\n").input_ids[3:-5] for t in texts)
    return len({i for body in bodies for i in body})


@pytest.mark.slow  # waits for transformers
def test_seen_rows_are_counted_exactly(plan: Make) -> None:
    entry = train("talker.model.text_embedding", rows="seen")
    planned = plan(
        stage("text", entry, data=["text"], objective="text_lm"), stage("speech", entry, data=["speech", {"use": "replay", "share": 0.2}])
    )
    assert planned.errors == []
    text, speech = planned.plan.stages
    width = json.loads((resources.files("qrecipe.plan") / "catalogues" / "mini.json").read_text())["config"]["talker_config"][
        "text_hidden_size"
    ]
    assert text.trainable[0].rows_count == recount(TEXTS)
    assert text.parameters == recount(TEXTS) * width
    # tokens of replay alone ("zebra quizzed") are not among the rows of the speech stage
    own = [f"Ini {t}" for t in TEXTS]
    assert speech.trainable[0].rows_count == recount(own) < recount([*own, "The zebra quizzed us."])


def test_seen_rows_hold_no_special_token(plan: Make) -> None:
    planned = plan(stage("a", train("talker.model.text_embedding", rows="seen"), LANGUAGE_ROW))
    rows = planned.trainables["a"].rows_of("talker.model.text_embedding.weight")
    special = TextTokenizer.of_folder(Path(str(resources.files("qrecipe.builtin") / "mini"))).special
    assert rows
    assert not set(rows) & set(special.values())


# token ids


def rows_of(planned: Planned) -> dict[str, int | None]:
    return {k: v.token_id for k, v in planned.plan.languages.items()}


def language(**more: Any) -> dict[str, Any]:
    return {"bcp47": "ms", "init": {"copy": "english"}, **more}


@pytest.mark.parametrize("base", ["builtin:mini", LARGE])
def test_auto_takes_the_lowest_row_that_no_map_lists(plan: Make, base: str) -> None:
    languages = {"malay": language(), "iban": language(token_id=2073), "jawi": language(), "kadazan": language()}
    planned = plan(stage("a", LANGUAGE_ROW), base=base, languages=languages)
    listed = planned.base.listed_rows()
    rows = rows_of(planned)
    assert rows["malay"] == 2072
    assert rows["iban"] == 2073
    assert len(set(rows.values())) == 4
    assert not set(rows.values()) & listed
    free = [r for r in range(2072, 3072) if r not in listed and r != 2073]
    assert [rows["malay"], rows["jawi"], rows["kadazan"]] == free[:3]


def test_auto_skips_rows_that_the_config_of_a_folder_lists(plan: Make, tmp_path: Path) -> None:
    base_folder(tmp_path / "one" / "base", spk_id={"ana": 2072, "budi": [2073, 2075]})
    planned = plan(stage("a", LANGUAGE_ROW), base="./base", languages={"malay": language(), "iban": language()})
    assert planned.errors == []
    assert rows_of(planned) == {"malay": 2074, "iban": 2076}


def test_a_folder_is_counted_like_its_catalogue_and_named_without_its_path(plan: Make, tmp_path: Path) -> None:
    base_folder(tmp_path / "one" / "base")
    entries = (LANGUAGE_ROW, train("talker.model.text_embedding", rows="seen"), train("talker.code_predictor"))
    folder, builtin = plan(stage("a", *entries), base="./base"), plan(stage("a", *entries))
    assert only(folder).trainable == only(builtin).trainable
    assert folder.plan.complete
    assert str(tmp_path) not in json.dumps(folder.plan.as_json())


def test_another_config_is_another_base(plan: Make, tmp_path: Path) -> None:
    base_folder(tmp_path / "one" / "base")
    before = fingerprints(plan(stage("a", LANGUAGE_ROW), base="./base"))
    (tmp_path / "one" / "base" / "generation_config.json").write_text("{}")
    assert fingerprints(plan(stage("a", LANGUAGE_ROW), base="./base")) != before


def test_a_row_of_a_control_or_another_language_is_refused(plan: Make) -> None:
    assert codes(plan(stage("a", LANGUAGE_ROW), languages={"malay": language(token_id=2050)})) == ["QR022"]
    assert codes(plan(stage("a", LANGUAGE_ROW), languages={"malay": language(token_id=2150)})) == ["QR022"]


def test_more_languages_than_rows(plan: Make) -> None:
    many = {f"l{i}": language() for i in range(1001)}
    planned = plan(stage("a", LANGUAGE_ROW), languages={**many, "malay": language()})
    assert "QR022" in codes(planned)


# hashes and fingerprints

TWO = (stage("first", LANGUAGE_ROW), stage("second", train("talker.text_projection")))


def fingerprints(planned: Planned) -> list[str | None]:
    assert planned.errors == []
    return [s.fingerprint for s in planned.plan.stages]


def test_a_recipe_in_another_folder_is_the_same_plan(plan: Make, tmp_path: Path) -> None:
    first = plan(*TWO, folder="one")
    shutil.copytree(tmp_path / "one", tmp_path / "deep" / "two")
    second = make_plan(load(tmp_path / "deep" / "two" / "recipe.yaml"))
    assert first.plan.complete
    assert first.plan.hash == second.plan.hash
    assert first.plan == second.plan
    assert str(tmp_path) not in json.dumps(first.plan.as_json())


def test_a_recipe_of_two_files_is_the_same_plan_as_of_one(plan: Make, tmp_path: Path) -> None:
    first = plan(*TWO)
    whole = json.loads((tmp_path / "one" / "recipe.yaml").read_text())
    template = {"qrecipe": 1, "template": True, "stages": whole.pop("stages")}
    (tmp_path / "one" / "t.yaml").write_text(json.dumps(template))
    (tmp_path / "one" / "recipe.yaml").write_text(json.dumps({**whole, "extends": "t.yaml"}))
    assert make_plan(load(tmp_path / "one" / "recipe.yaml")).plan.hash == first.plan.hash


def test_a_learning_rate_changes_its_stage_and_the_later_ones(plan: Make) -> None:
    three = [*TWO, stage("third", train("talker.codec_head"))]
    before = fingerprints(plan(*three))
    three[1] = stage("second", train("talker.text_projection", lr=2e-4))
    after = fingerprints(plan(*three))
    assert None not in before
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False]


def test_a_gate_changes_the_plan_and_no_fingerprint(plan: Make) -> None:
    gate = {"metric": "talker_nll", "data": "dev", "max": 5.0}
    before, after = plan(*TWO), plan({**TWO[0], "gates": [gate], "on_fail": "continue"}, TWO[1], accept=[gate])
    assert fingerprints(before) == fingerprints(after)
    assert before.plan.hash != after.plan.hash
    assert after.plan.stages[0].gates == ["talker_nll(dev) max 5"]


@pytest.mark.parametrize("what", ["text", "codes", "one row less"])
def test_data_content_changes_the_fingerprint(plan: Make, tmp_path: Path, what: str) -> None:
    before = fingerprints(plan(*TWO))
    file = tmp_path / "one" / "train.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    lines[3] = {"text": lines[3].replace("Ini", "Itu"), "codes": lines[3].replace("[[3,", "[[9,"), "one row less": ""}[what]
    file.write_text("".join(lines))
    after = fingerprints(make_plan(load(tmp_path / "one" / "recipe.yaml")))
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_the_spelling_of_a_manifest_and_its_name_do_not_count(plan: Make, tmp_path: Path) -> None:
    before = fingerprints(plan(*TWO))
    root = tmp_path / "one"
    rows = [json.loads(line) for line in (root / "train.jsonl").read_text().splitlines()]
    (root / "other.jsonl").write_text("\n\n".join(json.dumps(dict(reversed(r.items())), indent=None) for r in rows))
    (root / "recipe.yaml").write_text((root / "recipe.yaml").read_text().replace("train.jsonl", "other.jsonl"))
    assert fingerprints(make_plan(load(root / "recipe.yaml"))) == before


def test_data_that_no_stage_reads_does_not_count(plan: Make, tmp_path: Path) -> None:
    before = fingerprints(plan(*TWO))
    (tmp_path / "one" / "dev.jsonl").write_text(json.dumps({"text": "Lain.", "audio_codes": recording(1002)}))
    assert fingerprints(make_plan(load(tmp_path / "one" / "recipe.yaml"))) == before


def test_held_out_data_counts_where_it_selects_the_step(plan: Make, tmp_path: Path) -> None:
    select = {"metric": "talker_nll", "data": "dev", "every": 5}
    before = fingerprints(plan({**TWO[0], "select": select}, TWO[1]))
    (tmp_path / "one" / "dev.jsonl").write_text(json.dumps({"text": "Lain.", "audio_codes": recording(1002)}))
    assert fingerprints(make_plan(load(tmp_path / "one" / "recipe.yaml")))[0] != before[0]


def test_what_is_heard_counts_where_it_selects_the_step(plan: Make) -> None:
    """Seeds and the recogniser are part of a stage that is chosen by ear, and of no other."""
    recogniser = {"asr": {"model": "wheel:whisper-base"}}

    def prints(metric: str, **changes: Any) -> list[str | None]:
        return fingerprints(plan({**TWO[0], "select": {"metric": metric, "data": "dev", "every": 5}}, **changes))

    by_ear, wide = prints("cer", evaluators=recogniser), {"asr": {"model": "wheel:whisper-base", "beam_size": 7}}
    assert prints("cer", evaluators=wide) != by_ear
    assert prints("cer", evaluators=recogniser, evaluation={"seeds": [5]}) != by_ear
    assert prints("cer", evaluators=recogniser, evaluation={"batch": 3}) == by_ear
    likely = prints("talker_nll", evaluators=recogniser)
    assert prints("talker_nll", evaluators=wide, evaluation={"seeds": [5]}) == likely


@pytest.mark.parametrize("asr", [None, {"model": "large-v3"}])
def test_likelihood_decides_where_nobody_can_listen(plan: Make, asr: dict[str, str] | None) -> None:
    select = {"metric": "cer", "data": "dev", "every": 5, "otherwise": "talker_nll"}
    planned = plan({**TWO[0], "select": select}, evaluators={"asr": asr})
    assert planned.plan.stages[0].select == "talker_nll(dev) every 5 steps"
    assert not planned.problems.strict().errors
    assert [p.code for p in planned.problems if "select" in p.message] == (["QR082"] if asr else [])
    listening = plan({**TWO[0], "select": select}, evaluators={"asr": {"model": "wheel:whisper-base"}})
    assert listening.plan.stages[0].select == "cer(dev) every 5 steps"
    assert fingerprints(listening) != fingerprints(planned)


@pytest.mark.parametrize(
    "change", [{"seed": 7}, {"languages": {"malay": language(token_id=2100)}}, {"languages": {"malay": language(init={"copy": "spanish"})}}]
)
def test_what_every_stage_starts_from_counts_for_every_stage(plan: Make, change: dict[str, Any]) -> None:
    before, after = fingerprints(plan(*TWO)), fingerprints(plan(*TWO, **change))
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_an_unread_description_changes_no_fingerprint(plan: Make) -> None:
    assert fingerprints(plan(*TWO)) == fingerprints(plan(*TWO, description="words", version="9.0.0"))


# data


def test_a_sentence_that_trains_and_judges_is_refused_at_its_line(plan: Make, tmp_path: Path) -> None:
    gate = {"metric": "talker_nll", "data": "dev", "max": 5.0}
    planned = plan(stage("a", LANGUAGE_ROW, gates=[gate]), texts=[*TEXTS, "pokok."])
    assert planned.errors == []
    file = tmp_path / "one" / "dev.jsonl"
    file.write_text(
        json.dumps({"text": "Baharu.", "audio_codes": recording(1003)})
        + "\n"
        + json.dumps({"text": "  Ini " + TEXTS[4], "audio_codes": recording(1004)})
    )
    (problem,) = make_plan(load(tmp_path / "one" / "recipe.yaml")).errors
    assert (problem.code, problem.message) == ("QR046", "this sentence also judges, in `dev` (line 2)")
    assert (problem.place.file, problem.place.line) == (str(tmp_path / "one" / "train.jsonl"), 5)


def test_few_sentences_warn_and_never_stop(plan: Make) -> None:
    planned = plan(stage("a", LANGUAGE_ROW), texts=TEXTS[:99])
    assert [p.message for p in planned.warnings if "sentences" in p.message] == [
        "`speech` has 99 sentences; below 100 a language is hardly learned"
    ]
    require_complete(planned)


def test_bad_rows_stop_or_are_counted(plan: Make, tmp_path: Path) -> None:
    plan(stage("a", LANGUAGE_ROW))
    root = tmp_path / "one"
    with open(root / "train.jsonl", "a") as f:
        f.write("{}\n")
    assert codes(make_plan(load(root / "recipe.yaml"))) == ["QR041"]
    skipping = make_plan(load(root / "recipe.yaml", ["datasets.speech.on_bad_row=skip"]))
    assert skipping.errors == []
    assert (skipping.plan.datasets["speech"].rows, skipping.plan.datasets["speech"].bad_rows) == (100, 1)


def test_missing_data_is_a_warning_until_it_runs(plan: Make, tmp_path: Path) -> None:
    plan(stage("a", LANGUAGE_ROW))
    (tmp_path / "one" / "train.jsonl").unlink()
    planned = make_plan(load(tmp_path / "one" / "recipe.yaml"))
    assert planned.errors == []
    assert (planned.plan.stages[0].fingerprint, planned.plan.complete) == (None, False)
    with pytest.raises(RecipeError) as e:
        require_complete(planned)
    assert [p.code for p in e.value.problems] == ["QR040"]


def test_a_base_in_the_hub_cache_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache's layout is read directly; the hub client's own look-up must agree."""
    import huggingface_hub
    from huggingface_hub import constants

    from qrecipe.inputs.snapshots import cached_snapshot
    from qrecipe.recipe.base import Base

    commit = "fd4b254389122332181a7c3db7f27e918eec64e3"
    repository = tmp_path / "models--Qwen--Some-Base"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for revision in (None, "main", commit, "v2", "0" * 40):
        stock = huggingface_hub.try_to_load_from_cache("Qwen/Some-Base", "config.json", cache_dir=tmp_path, revision=revision)
        expected = Path(stock).parent if isinstance(stock, str) else None
        assert cached_snapshot(Base(model="Qwen/Some-Base", revision=revision)) == expected
    assert cached_snapshot(Base(model="Qwen/Other")) is None


def test_low_rank_deltas_are_counted_by_their_factors(plan: Make) -> None:
    """The 1.7B talker: 28 layers, hidden 2048, intermediate 6144, 16 heads and 8 key heads of 128."""
    attention = (2048 + 16 * 128) + 2 * (2048 + 8 * 128) + (16 * 128 + 2048)
    feed_forward = 3 * (2048 + 6144)
    planned = plan(stage("a", train("talker.model.layers", lora={"rank": 8, "alpha": 16})), base=LARGE)
    (group,) = planned.plan.stages[0].trainable
    assert group.parameters == 28 * 8 * (attention + feed_forward) == 8_716_288
    assert group.lora == {"rank": 8, "alpha": 16}
    assert not [t for t in group.tensors if "norm" in t]
    assert len(group.tensors) == 28 * 7


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (train("talker.model.text_embedding"), "never adapts an embedding table"),
        (train("talker.code_predictor"), "never adapts an embedding table"),
        (train("talker.model.codec_embedding", rows="languages"), "`rows` picks rows"),
        (train("talker.model.norm"), "selects none"),
    ],
)
def test_low_rank_deltas_are_for_linear_layers(plan: Make, entry: dict[str, Any], says: str) -> None:
    planned = plan(stage("a", LANGUAGE_ROW), stage("b", {**entry, "lora": {"rank": 8, "alpha": 16}}), base=LARGE)
    assert [p.code for p in planned.errors] == ["QR036"]
    assert says in planned.errors[0].message
