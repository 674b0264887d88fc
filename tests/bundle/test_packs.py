"""Language packs: what a bundle changed in its base, in one file; several of them on one base, judged again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qrecipe.bundle.merge import PROJECTION, _projected, merge, place_rows, require_fit
from qrecipe.bundle.pack import Pack, read_pack
from qrecipe.bundle.verify import read_manifest, verify
from qrecipe.errors import BundleError
from qrecipe.inputs.bases import LocalBase
from qrecipe.inputs.documents.bundle import BundleLanguage, PackJudging, PackManifest
from qrecipe.inputs.documents.lock import LockBase
from qrecipe.inputs.weight_files import weight_files
from qrecipe.model.weights import Delta
from qrecipe.qwen3 import CODEC_TABLE, TEXT_TABLE
from qrecipe.recipe.evaluator import Evaluators
from qrecipe.recipe.gate import Gate
from qrecipe.recipe.language import Init, Language
from qrecipe.recipe.recipe import Evaluation
from tests.support import recipes
from tests.support.bases import load_weights
from tests.support.commands import here
from tests.support.running import run_recipe
from tests.support.shared import Finished

WIDTH = 4
HASH = "0" * 64


def base(rows: int = 3072, **languages: int) -> LocalBase:
    """A base of two small tables and one layer."""
    shapes = {CODEC_TABLE: (rows, WIDTH), TEXT_TABLE: (10, WIDTH), "layer": (2, 2)}
    config: dict[str, Any] = {"talker_config": {"codec_language_id": {"english": 2050, **languages}}}
    return LocalBase("b", None, Path("b"), "sha256:base", "bfloat16", config, shapes, None)  # type: ignore[arg-type]


def judging(language: str, **changes: Any) -> PackJudging:
    settings = {language: Language(bcp47="ms", init=Init(copy="english"))}
    plain = {"accept": [], "datasets": {}, "settings": settings, "evaluation": Evaluation(), "evaluators": Evaluators()}
    return PackJudging(**{**plain, **changes})


def gated(files: dict[str, bytes] | None = None, **gate: Any) -> Pack:
    """A pack with one gate on its data `dev`."""
    accept = [Gate(**{"metric": "talker_nll", "data": "dev", "max": 1.0, **gate})]
    one = pack("malay", 2072, judging={"accept": accept, "datasets": {"dev": "malay"}})
    return replace(one, files={"data/dev.jsonl": b"{}"} if files is None else files)


def pack(language: str, row: int, identity: str = "sha256:base", **changes: Any) -> Pack:
    """A pack with a language's row and whatever `changes` has of a delta."""
    delta = Delta(changes.get("whole", {}), {CODEC_TABLE: (torch.tensor([row]), torch.ones(1, WIDTH)), **changes.get("rows", {})})
    manifest = PackManifest(
        pack=1,
        name=language,
        version="0.1.0",
        bundle=HASH,
        base=LockBase(model="b", revision=None, identity=identity, dtype="bfloat16"),
        languages={language: BundleLanguage(bcp47="ms", token_id=row)},
        accepted=True,
        judging=judging(language, **changes.get("judging", {})),
        qrecipe="0",
        tensors={},
    )
    return Pack(Path(f"{language}.qpack"), manifest, delta, {})


def test_the_first_keeps_its_row_and_others_move_out_of_the_way() -> None:
    packs = [pack("malay", 2072), pack("iban", 2072), pack("hausa", 2080), pack("turkish", 2072)]
    rows, deltas = place_rows(packs, base(dutch=2073))
    assert rows == {"malay": 2072, "iban": 2074, "hausa": 2080, "turkish": 2075}
    assert [d.rows[CODEC_TABLE][0].tolist() for d in deltas] == [[2072], [2074], [2080], [2075]]


def test_a_language_never_takes_a_row_that_another_pack_changed() -> None:
    other = pack("iban", 2080, rows={CODEC_TABLE: (torch.tensor([2072, 2080]), torch.eye(2, WIDTH))})
    rows, deltas = place_rows([pack("malay", 2072), other], base())
    assert rows == {"malay": 2073, "iban": 2080}
    assert torch.equal(deltas[1].rows[CODEC_TABLE][1], torch.eye(2, WIDTH))


def test_a_row_keeps_its_values_where_it_moves_behind_another() -> None:
    values = torch.arange(2.0 * WIDTH).reshape(2, WIDTH)
    moving = pack("iban", 2072, rows={CODEC_TABLE: (torch.tensor([2072, 2090]), values)})
    taken = {f"l{i}": 2072 + i for i in range(30)}
    rows, deltas = place_rows([moving], base(**taken))
    ids, moved = deltas[0].rows[CODEC_TABLE]
    assert rows == {"iban": 2102}
    assert ids.tolist() == [2090, 2102]
    assert torch.equal(moved, values.flip(0))


def test_a_table_that_is_full_is_one_sentence() -> None:
    full = {f"l{i}": i for i in range(2072, 3072)}
    with pytest.raises(BundleError, match="no free row is left for `malay`"):
        place_rows([pack("malay", 2072)], base(**full))


def test_changes_are_added_up() -> None:
    before = {"layer": torch.full((2, 2), 1.0), TEXT_TABLE: torch.zeros(10, WIDTH)}
    a = Delta({"layer": torch.tensor([[2.0, 1.0], [1.0, 1.0]])}, {TEXT_TABLE: (torch.tensor([1, 3]), torch.ones(2, WIDTH))})
    b = Delta({"layer": torch.tensor([[4.0, 5.0], [1.0, 1.0]])}, {TEXT_TABLE: (torch.tensor([3, 7]), 2 * torch.ones(2, WIDTH))})
    merged, shared = merge(["a", "b"], [a, b], before.__getitem__)
    assert merged.whole["layer"].tolist() == [[5.0, 5.0], [1.0, 1.0]]
    ids, values = merged.rows[TEXT_TABLE]
    assert ids.tolist() == [1, 3, 7]
    assert values[:, 0].tolist() == [1.0, 3.0, 2.0]
    assert {(s.tensor, s.packs, s.elements, s.of) for s in shared} == {
        ("layer", ("a", "b"), 1, 4),
        (TEXT_TABLE, ("a", "b"), WIDTH, 10 * WIDTH),
    }


def test_what_packs_agree_on_is_not_added_twice() -> None:
    before = {"layer": torch.zeros(2, 2), TEXT_TABLE: torch.zeros(10, WIDTH)}
    same = Delta({"layer": torch.ones(2, 2)}, {TEXT_TABLE: (torch.tensor([3]), torch.ones(1, WIDTH))})
    merged, shared = merge(["a", "b", "c"], [same, same, same], before.__getitem__)
    assert shared == []
    assert torch.equal(merged.whole["layer"], torch.ones(2, 2))
    assert torch.equal(merged.rows[TEXT_TABLE][1], torch.ones(1, WIDTH))


@pytest.mark.slow  # torch takes two seconds to import its optimisers
def test_tokens_of_one_pack_keep_what_they_become_beside_another() -> None:
    """Two packs that trained projection and rows: a token of one alone comes nearer to its own input than by adding weights up."""
    made = torch.Generator().manual_seed(1)
    shapes = {PROJECTION[0]: (12, 12), PROJECTION[1]: (12,), PROJECTION[2]: (12, 12), PROJECTION[3]: (12,), TEXT_TABLE: (9, 12)}
    before = {name: torch.randn(shape, generator=made) for name, shape in shapes.items()}
    packs = []
    for ids in ([0, 1, 2], [2, 3, 4]):
        whole = {n: before[n] + 0.2 * torch.randn(before[n].shape, generator=made) for n in PROJECTION}
        rows = before[TEXT_TABLE][ids] + 0.2 * torch.randn(3, 12, generator=made)
        packs.append(Delta(whole, {TEXT_TABLE: (torch.tensor(ids), rows)}))
    merged, shared = merge(["a", "b"], packs, before.__getitem__)
    assert {s.tensor for s in shared} == shapes.keys()
    ids, rows = merged.rows[TEXT_TABLE]
    assert ids.tolist() == [0, 1, 2, 3, 4]

    def become(rows: torch.Tensor, whole: dict[str, torch.Tensor]) -> torch.Tensor:
        return _projected(rows, [whole[n] for n in PROJECTION])

    own = become(packs[0].rows[TEXT_TABLE][1][:2], packs[0].whole)
    added = {n: before[n] + sum(p.whole[n] - before[n] for p in packs) for n in PROJECTION}
    by_sum = become(packs[0].rows[TEXT_TABLE][1][:2], added)
    assert (become(rows[:2], merged.whole) - own).norm() < 0.5 * (by_sum - own).norm()


def test_nothing_of_the_base_is_read_where_packs_do_not_meet() -> None:
    def read(name: str) -> torch.Tensor:
        raise AssertionError(name)

    a, b = Delta({"layer": torch.ones(2, 2)}), Delta(rows={TEXT_TABLE: (torch.tensor([3]), torch.ones(1, WIDTH))})
    merged, shared = merge(["a", "b"], [a, b], read)
    assert (set(merged.whole), set(merged.rows), shared) == ({"layer"}, {TEXT_TABLE}, [])


@pytest.mark.parametrize(
    ("packs", "says"),
    [
        ([pack("malay", 2072), pack("malay", 2073)], "malay.qpack brings the pack `malay` as well"),
        ([pack("english", 2072)], "the base has the language `english` already"),
        ([pack("malay", 2072, identity="sha256:other")], "made from a base of another content"),
        ([pack("malay", 2072, whole={"layer": torch.ones(3, 2)})], "`layer` has another shape in the base"),
        ([pack("malay", 2072, whole={"nothing": torch.ones(3, 2)})], "`nothing` has another shape in the base, or is not in it"),
        ([pack("malay", 2072, judging={"settings": {}})], "not those of its languages"),
        ([pack("malay", 2072, judging={"datasets": {"dev": "iban"}})], "its gates speak `iban`"),
        ([gated({})], "it holds no data `dev`"),
        ([gated(data="keep")], "a gate on `talker_nll` of `keep` cannot be judged"),
        ([gated(metric="nothing")], "a gate on `nothing` of `dev` cannot be judged"),
        ([gated(min=0.5)], "cannot be judged"),
        ([gated(max=None, max_increase=1.0)], "has no baseline"),
        ([gated(max=None, max_increase=1.0, baseline="previous")], "has no baseline"),
        ([gated(speak_as="iban")], "its gates speak `iban`"),
        ([pack("malay", 4000)], "has other rows in the base"),
        ([pack("malay", 2072, rows={CODEC_TABLE: (torch.tensor([2080]), torch.ones(1, WIDTH))})], "no row 2072 for its language"),
    ],
)
def test_packs_that_do_not_fit(packs: list[Pack], says: str) -> None:
    with pytest.raises(BundleError) as e:
        require_fit(packs, base())
    assert says in e.value.problems[0].message
    assert e.value.problems[0].code == "QR064"


@pytest.fixture(scope="module")
def packed(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """Two languages that were taught to one base apart, each as a pack, and the folder of their bundles."""
    folder = tmp_path_factory.mktemp("packs")
    datasets = json.loads(json.dumps(recipes.RECIPE["datasets"]).replace('"malay"', '"iban"'))
    changes = {
        "name": "other",
        "languages": {"iban": {"bcp47": "iba", "init": {"copy": "spanish"}, "lead": 0.16, "replace": {"km": "kilometer"}}},
        "datasets": datasets,
    }
    gates = [
        {"metric": "talker_nll", "data": "dev", "max": 100.0},
        {"metric": "talker_nll", "data": "dev", "max_increase": 100.0, "baseline": "base"},
    ]
    other = recipes.write(folder, recipes.recipe(**changes, accept=gates))
    bundle = run_recipe(other, folder).bundle
    assert bundle is not None
    assert finished.outcome.bundle is not None
    made = {}
    for name, file, source in (("tiny", finished.recipe, finished.outcome.bundle), ("other", other, bundle)):
        made[name] = folder / f"{name}.qpack"
        done = here("pack", str(source), "--recipe", str(file), "--out", str(made[name]), cwd=folder, environment={})
        assert done.returncode == 0, done.stderr
    return folder, made


def test_a_pack_is_what_the_bundle_changed(finished: Finished, mini: LocalBase, packed: tuple[Path, dict[str, Path]]) -> None:
    read = read_pack(packed[1]["tiny"])
    assert finished.outcome.bundle is not None
    before, after = load_weights(mini.folder), load_weights(finished.outcome.bundle)
    changed = {n for n in before if not torch.equal(before[n].view(torch.uint8), after[n].view(torch.uint8))}
    assert {*read.delta.whole, *read.delta.rows} == changed
    for name, values in read.delta.whole.items():
        assert torch.equal(values, after[name].float())
    assert read.delta.rows[CODEC_TABLE][0].tolist() == [2072]
    assert packed[1]["tiny"].stat().st_size < sum(f.stat().st_size for f in weight_files(mini.folder)) / 2


def test_a_pack_has_the_same_bytes_again(finished: Finished, packed: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    again = tmp_path / "again.qpack"
    done = here("pack", str(finished.outcome.bundle), "--recipe", str(finished.recipe), "--out", str(again), cwd=tmp_path, environment={})
    assert done.returncode == 0, done.stderr
    assert again.read_bytes() == packed[1]["tiny"].read_bytes()


def test_two_packs_on_one_base(mini: LocalBase, packed: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    """Each language on a row of its own, gates of both judged, and the rest of the base as it was."""
    files = [str(f) for f in packed[1].values()]
    done = here("bundle", "build", "--packs", *files, "--name", "both", "--format", "json", cwd=tmp_path, environment={})
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["rows"] == {"malay": 2072, "iban": 2073}
    assert {name: [v["outcome"] for v in vs] for name, vs in result["verdicts"].items()} == {"tiny": ["pass"], "other": ["pass", "pass"]}
    assert {"tensor", "packs", "elements", "of"} == set(result["shared"][0])

    bundle = tmp_path / result["bundle"]
    assert verify(bundle) == []
    manifest = read_manifest(bundle)
    assert [p.name for p in manifest.packs] == ["tiny", "other"]
    config = json.loads((bundle / "config.json").read_text())["talker_config"]["codec_language_id"]
    assert (config["malay"], config["iban"]) == (2072, 2073)
    weights, before = load_weights(bundle), load_weights(mini.folder)
    apart = {name: read_pack(f).delta for name, f in packed[1].items()}
    assert torch.equal(weights[CODEC_TABLE][2072].float(), apart["tiny"].rows[CODEC_TABLE][1][0])
    assert torch.equal(weights[CODEC_TABLE][2073].float(), apart["other"].rows[CODEC_TABLE][1][0])
    touched = {n for d in apart.values() for n in (*d.whole, *d.rows)}
    assert all(torch.equal(weights[n].view(torch.uint8), before[n].view(torch.uint8)) for n in before.keys() - touched)
    name = next(iter(apart["tiny"].whole))
    assert name in PROJECTION
    changes = torch.stack([d.whole[name] - before[name].float() for d in apart.values()])
    assert torch.allclose(weights[name].float(), before[name].float() + changes.mean(0), rtol=2**-7)
    card = (bundle / "README.md").read_text()
    assert "| malay | ms | 2072 |" in card
    iban = manifest.languages["iban"]
    assert (iban.token_id, iban.lead, iban.replace) == (2073, 0.16, {"km": "kilometer"}), "what the pack's bundle said of its language"
    assert "in iban begins with 0.16 s of silence" in card
    assert "rule `sum`" in card

    again = here("bundle", "build", "--packs", *files, "--name", "both", "--format", "json", cwd=tmp_path, environment={})
    assert again.returncode == 0, "the same packs give the same bytes"
    other = here("bundle", "build", "--packs", files[0], "--name", "both", cwd=tmp_path, environment={})
    assert other.returncode == 2
    assert "[QR061]" in other.stderr
    packs_again = here("pack", str(bundle), "--recipe", "x.yaml", cwd=tmp_path, environment={})
    assert packs_again.returncode == 2


def test_shared_weights_can_be_refused(packed: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    files = [str(f) for f in packed[1].values()]
    done = here("bundle", "build", "--packs", *files, "--name", "both", "--merge", "refuse", cwd=tmp_path, environment={})
    assert done.returncode == 2
    assert "[QR064]" in done.stderr
    assert "text_projection" in done.stderr
    assert not (tmp_path / "bundles").exists()


def test_a_gate_that_does_not_pass_any_more_means_no_bundle(packed: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    """A pack whose gate asks for more than it can give: exit code 3, and nothing is written."""
    source = packed[1]["tiny"]
    tensors = load_file(source)
    with open(source, "rb") as f:
        length = int.from_bytes(f.read(8), "little")
        value = json.loads(json.loads(f.read(length))["__metadata__"]["qrecipe"])
    value["judging"]["accept"][0]["max"] = 0.0001
    save_file(tensors, str(tmp_path / "strict.qpack"), metadata={"qrecipe": json.dumps(value)})
    done = here("bundle", "build", "--packs", "strict.qpack", "--name", "strict", cwd=tmp_path, environment={})
    assert done.returncode == 3, done.stderr
    assert "talker_nll(dev) max 0.0001 is fail" in done.stderr
    assert not (tmp_path / "bundles").exists()


def test_a_changed_pack_is_refused(packed: tuple[Path, dict[str, Path]], tmp_path: Path) -> None:
    content = bytearray(packed[1]["tiny"].read_bytes())
    content[-5] ^= 1
    (tmp_path / "changed.qpack").write_bytes(content)
    with pytest.raises(BundleError, match="was changed") as e:
        read_pack(tmp_path / "changed.qpack")
    assert e.value.problems[0].code == "QR063"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bundle", "build", "--packs", "none.qpack", "--name", "x"], "there is no such file"),
        (["bundle", "build", "--packs", "none.qpack"], "needs a --name"),
        (["bundle", "build", "a", "b"], "language packs need --packs"),
        (["bundle", "build", "--packs", "a", "--name", "../x"], "cannot be used"),
        (["bundle", "build", "--packs", "a", "--name", "x", "--stages", "y"], "--packs has none"),
        (["pack", "nothing"], "there is no such folder"),
    ],
)
def test_wrong_arguments(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = here(*arguments, cwd=tmp_path, environment={})
    assert done.returncode == 2
    assert says in done.stderr


def test_names_of_files_in_a_pack_stay_in_its_folder(tmp_path: Path) -> None:
    one = pack("malay", 2072)
    for name in ("data/../../x", "data/a/b", "/etc/x", "data/x\\..", "data/.hidden"):
        from qrecipe.bundle.pack import _DATA

        assert _DATA.match(name) is None, name
    Pack(one.path, one.manifest, one.delta, {"data/a.jsonl": b"x", "recipe.yaml": b"y"}).extract(tmp_path)
    assert [PurePath(f).name for f in tmp_path.rglob("*") if f.is_file()] == ["a.jsonl"]
