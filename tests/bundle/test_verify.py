"""`verify` finds whatever differs from what was written, and a bundle is never overwritten with something else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qrecipe.bundle.verify import MANIFEST, read_manifest, verify
from qrecipe.errors import BundleError
from tests.support.running import run_recipe
from tests.support.shared import Finished


@pytest.fixture
def bundle(finished: Finished, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.outcome.bundle, tmp_path / "bundle"))


def test_a_bundle_verifies(bundle: Path) -> None:
    assert verify(bundle) == []
    manifest = read_manifest(bundle)
    assert manifest.accepted
    assert manifest.languages["malay"].token_id == 2072
    assert {s.id: s.status for s in manifest.stages} == {"language": "kept"}
    assert {
        "model.safetensors",
        "config.json",
        "recipe.yaml",
        "recipe.lock",
        "verdicts.json",
        "README.md",
    } <= manifest.files.keys()


WEIGHTS = "model.safetensors"


def one_bit(bundle: Path) -> None:
    content = bytearray((bundle / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (bundle / WEIGHTS).write_bytes(content)


def linked(bundle: Path) -> None:
    outside = bundle.parent / "outside.json"
    shutil.move(bundle / "config.json", outside)
    (bundle / "config.json").symlink_to(outside)


def linked_folder(bundle: Path) -> None:
    shutil.move(bundle / "speech_tokenizer", bundle.parent / "elsewhere")
    (bundle / "speech_tokenizer").symlink_to(bundle.parent / "elsewhere")


def hub_link(bundle: Path) -> None:
    (bundle / ".gitattributes").symlink_to("config.json")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed bit of the weights": (one_bit, f"{WEIGHTS} was changed"),
    "a changed text": (lambda b: (b / "recipe.yaml").write_text("x: 1\n"), "recipe.yaml was changed"),
    "a missing file": (lambda b: (b / "generation_config.json").unlink(), "generation_config.json is missing"),
    "a missing file of the speech tokenizer": (
        lambda b: (b / "speech_tokenizer" / "config.json").unlink(),
        "speech_tokenizer/config.json is missing",
    ),
    "an extra file": (lambda b: (b / "extra.py").write_text("import os"), "extra.py does not belong"),
    "a hidden extra file": (lambda b: (b / "speech_tokenizer" / ".x").write_text(""), "speech_tokenizer/.x does not belong"),
    "a dangling link": (lambda b: (b / "extra").symlink_to("nowhere"), "extra does not belong"),
    "a link in place of a file": (linked, "config.json is a link"),
    "a link in place of a folder": (linked_folder, "speech_tokenizer"),
    "a link among the hub's files": (hub_link, ".gitattributes does not belong"),
    "the hub's file in another folder": (
        lambda b: (b / "speech_tokenizer" / ".gitattributes").write_text(""),
        "speech_tokenizer/.gitattributes does not belong",
    ),
    "a missing card": (lambda b: (b / "README.md").unlink(), "README.md is missing"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_is_found(what: str, bundle: Path) -> None:
    change, message = CHANGES[what]
    change(bundle)
    problems = verify(bundle)
    assert any(message in p.message for p in problems), problems
    assert {p.code for p in problems} == {"QR060"}


def test_files_of_the_hub_may_stand_beside_the_bundle(bundle: Path) -> None:
    (bundle / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    metadata = bundle / ".cache" / "huggingface" / "download" / "config.json.metadata"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("0\n")
    assert verify(bundle) == []


def test_an_edited_card_is_a_warning_and_hides_nothing(bundle: Path) -> None:
    card = bundle / "README.md"
    card.write_text(card.read_text().replace("---", "---\nlicense: cc0-1.0", 1))
    (warning,) = verify(bundle)
    assert (warning.severity, warning.place.file) == ("warning", str(card))
    (bundle / "recipe.lock").write_text("{}")
    assert "recipe.lock was changed" in [p.message for p in verify(bundle)]


@pytest.mark.parametrize("name", ["../outside.json", "/etc/passwd", "speech_tokenizer/../../outside.json"])
def test_a_manifest_that_points_outside_is_refused(name: str, bundle: Path) -> None:
    """Without reading what it points at."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"][name] = "0" * 64
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    (problem,) = verify(bundle)
    assert "outside the bundle" in problem.message


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "cannot be read"),
        ("[]", "is not of type 'object'"),
        ('{"bundle": 1}', "missing"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_manifest_that_is_none(content: str, why: str, bundle: Path) -> None:
    (bundle / MANIFEST).write_text(content)
    with pytest.raises(BundleError, match=why):
        verify(bundle)


def test_unknown_fields_are_refused(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps(manifest | {"surprise": 1}))
    with pytest.raises(BundleError, match="surprise"):
        read_manifest(bundle)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a bundle"):
        verify(tmp_path)
    with pytest.raises(BundleError, match="no such folder"):
        verify(tmp_path / "nowhere")


def test_the_same_run_again_is_the_same_bundle(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written that a full disk would refuse: no copy to compare with, and no checkpoint."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    monkeypatch.setattr("qrecipe.bundle.build.write_model", lambda *a: pytest.fail("the base was copied"))
    before = {f: (f.stat().st_mtime_ns, f.stat().st_ino) for f in finished.outcome.bundle.rglob("*")}
    again = run_recipe(finished.recipe, finished.runs.parent)
    assert again.status == "accepted"
    assert {f: (f.stat().st_mtime_ns, f.stat().st_ino) for f in finished.outcome.bundle.rglob("*")} == before


def test_another_result_under_the_same_version_is_refused(finished: Finished) -> None:
    """Before anything trains, with what to do."""
    with pytest.raises(BundleError) as caught:
        run_recipe(finished.recipe, finished.runs.parent, sets=["stages.language.steps=2"])
    (problem,) = caught.value.problems
    assert problem.code == "QR061"
    assert problem.help is not None
    assert "raise `version`" in problem.help
    assert verify(finished.outcome.bundle) == []


def test_a_damaged_bundle_is_not_taken_for_the_result(finished: Finished, tmp_path: Path) -> None:
    """A file of it was changed after it was written: the run says so instead of calling it accepted."""
    shutil.copytree(finished.outcome.bundle, tmp_path / "tiny-0.1.0")
    one_bit(tmp_path / "tiny-0.1.0")
    with pytest.raises(BundleError, match="was changed"):
        run_recipe(finished.recipe, finished.runs.parent, bundles=tmp_path)


def test_nothing_is_left_beside_a_bundle(finished: Finished) -> None:
    assert os.listdir(finished.bundles) == ["tiny-0.1.0"]
