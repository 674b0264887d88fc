"""`push` over HTTP, to a hub on this machine: once whole, then nothing; every refusal one sentence without the token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qrecipe.bundle.push import REFUSALS, push
from qrecipe.errors import BundleError
from tests.support.commands import here
from tests.support.hub import Hub, Repository, serving

LOCK = {
    "lock": 1,
    "recipe": "malay",
    "plan": "0" * 64,
    "base": {"model": "builtin:mini", "revision": None, "identity": "x", "dtype": "bfloat16"},
    "languages": {"malay": 2072},
    "datasets": {},
    "stages": [],
    "numerics": 1,
    "versions": {},
}


def write_bundle(folder: Path, version: str = "0.1.0", **files: bytes) -> Path:
    """A bundle of small files, as far as verifying and pushing goes."""
    folder.mkdir()
    contents = {
        "README.md": b"---\nlibrary_name: qwen-tts\n---\n# malay\n",
        "config.json": b"{}\n",
        "recipe.lock": json.dumps(LOCK).encode(),
        "model.safetensors": b"weights " * 100 + version.encode(),
        "speech_tokenizer/model.safetensors": b"codec",
        **files,
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    manifest = {
        "bundle": 1,
        "name": "malay",
        "version": version,
        "plan": "0" * 64,
        "base": LOCK["base"],
        "languages": {"malay": {"bcp47": "ms", "token_id": 2072}},
        "stages": [],
        "accepted": True,
        "qrecipe": "0",
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "malay-0.1.0")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants

    with serving() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", running.token)
        yield running


def files_of(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_everything_arrives_private_and_tagged(hub: Hub, bundle: Path) -> None:
    pushed = push(bundle, "me/malay")
    repo = hub.repositories["me/malay"]
    assert repo.private
    assert repo.commits == 1, "nobody ever sees half a bundle"
    assert repo.revisions["v0.1.0"] == {**files_of(bundle), ".gitattributes": b"* lfs"}
    assert set(pushed.sent) == files_of(bundle).keys()
    assert (pushed.tag, pushed.removed, pushed.url) == ("v0.1.0", (), f"{hub.url}/me/malay")


def test_a_second_push_does_nothing(hub: Hub, bundle: Path) -> None:
    push(bundle, "me/malay")
    before = len(hub.requests)
    pushed = push(bundle, "me/malay")
    assert (pushed.sent, pushed.removed) == ((), ())
    assert [r for r in hub.requests[before:] if not r.startswith(("GET", "HEAD"))] == []
    assert hub.repositories["me/malay"].commits == 1


def test_a_push_that_was_cut_off_sends_the_rest_alone(hub: Hub, bundle: Path) -> None:
    hub.refuse["/api/models/me/malay/commit/main"] = 400
    with pytest.raises(BundleError):
        push(bundle, "me/malay")
    uploads = hub.uploads
    assert uploads == 2
    push(bundle, "me/malay")
    assert hub.uploads == uploads, "large files were there"
    assert hub.repositories["me/malay"].revisions["v0.1.0"].keys() > files_of(bundle).keys()


def test_a_push_that_ended_before_its_tag_gets_it(hub: Hub, bundle: Path) -> None:
    hub.refuse["/api/models/me/malay/tag/main"] = 400
    with pytest.raises(BundleError):
        push(bundle, "me/malay")
    assert push(bundle, "me/malay").tag == "v0.1.0"
    assert hub.repositories["me/malay"].commits == 1


def test_a_new_version_replaces_what_changed_and_removes_what_is_gone(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    push(bundle, "me/malay")
    hub.repositories["me/malay"].revisions["main"]["old.json"] = b"{}"
    newer = write_bundle(tmp_path / "malay-0.2.0", "0.2.0")
    pushed = push(newer, "me/malay")
    assert set(pushed.sent) == {"model.safetensors", "bundle.json"}
    assert pushed.removed == ("old.json",)
    revisions = hub.repositories["me/malay"].revisions
    assert revisions["v0.2.0"] == {**files_of(newer), ".gitattributes": b"* lfs"}
    assert revisions["v0.1.0"]["model.safetensors"] == files_of(bundle)["model.safetensors"]


def test_other_bytes_of_the_same_version_are_refused(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    push(bundle, "me/malay")
    other = write_bundle(tmp_path / "other", **{"config.json": b'{"a": 1}\n'})
    with pytest.raises(BundleError) as e:
        push(other, "me/malay")
    assert e.value.problems[0].code == "QR061"
    assert "config.json" in e.value.problems[0].message


def test_what_arrived_is_compared(hub: Hub, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    original = HfApi.create_tag

    def meddle(self: HfApi, *arguments: Any, **named: Any) -> None:
        hub.repositories["me/malay"].revisions["main"]["config.json"] = b"other"
        original(self, *arguments, **named)

    monkeypatch.setattr(HfApi, "create_tag", meddle)
    with pytest.raises(BundleError, match=r"holds other bytes: config\.json"):
        push(bundle, "me/malay")


def test_nothing_is_shown_to_everybody_unasked(hub: Hub, bundle: Path) -> None:
    hub.repositories["me/malay"] = Repository(private=False)
    with pytest.raises(BundleError, match="everybody can see me/malay"):
        push(bundle, "me/malay")
    assert push(bundle, "me/malay", public=True).sent
    push(bundle, "me/new", public=True)
    assert not hub.repositories["me/new"].private


def test_a_bundle_that_does_not_verify_is_not_pushed(hub: Hub, bundle: Path) -> None:
    (bundle / "config.json").write_text("{ }")
    with pytest.raises(BundleError, match=r"config\.json was changed"):
        push(bundle, "me/malay")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("change", "repository", "says"),
    [
        ("token", "me/malay", "does not accept the access token"),
        ("none", "me/malay", "has no access token"),
        ("gated", "me/malay", "is gated"),
        ("offline", "me/malay", "HF_HUB_OFFLINE"),
        ("down", "me/malay", "no connection to the hub"),
        ("forbidden", "me/malay", "may not write to me/malay"),
        ("fault", "me/malay", "a fault (HTTP 500)"),
        ("", "malay", "no name of a repository"),
        ("", "me/ma/lay", "no name of a repository"),
        ("", "me/ma lay", "no name of a repository"),
        ("", "me/..", "no name of a repository"),
    ],
)
def test_every_refusal_is_one_sentence_without_the_token(
    change: str, repository: str, says: str, hub: Hub, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    environment = {"HF_TOKEN": hub.token, "COLUMNS": "200"}
    if change == "token":
        environment["HF_TOKEN"] = "hf_aWrongTokenThatNobodyMaySee1"
    elif change == "none":
        del environment["HF_TOKEN"]
    elif change == "gated":
        hub.gated.add("me/malay")
    elif change == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif change == "down":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    elif change == "forbidden":
        hub.refuse["/api/repos/create"] = 403
    elif change == "fault":
        hub.refuse["/api/models/me/malay"] = 500
    done = here("push", str(bundle), repository, cwd=bundle.parent, environment=environment)
    assert done.returncode == 2
    assert "[QR065]" in done.stderr
    assert says in done.stderr
    assert "help: " in done.stderr
    assert "hf_a" not in done.stdout + done.stderr
    assert hub.repositories.keys() <= {"me/malay"}


def test_the_command_says_where_it_is(hub: Hub, bundle: Path) -> None:
    environment = {"HF_TOKEN": hub.token}
    first = here("push", str(bundle), "me/malay", cwd=bundle.parent, environment=environment)
    assert first.stdout == f"{hub.url}/me/malay: v0.1.0, 6 files, 6 of them sent, all compared\n"
    assert first.stderr == ""
    second = here("push", str(bundle), "me/malay", "--format", "json", cwd=bundle.parent, environment=environment)
    assert json.loads(second.stdout)["sent"] == []
    assert hub.token not in first.stdout + second.stdout


def test_refusals_name_the_repository_alone() -> None:
    for message, help_ in REFUSALS.values():
        assert message.format(repo="x")
        assert help_
