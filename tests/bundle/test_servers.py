"""`bundle check`: each server's answer follows from the folder's name and the languages' keys."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

import pytest

from qrecipe.bundle.servers import SERVERS, Served, check_servers
from qrecipe.recipe.language import fragile_key, language_key_problem
from tests.support.commands import here

MANIFEST = {
    "bundle": 1,
    "name": "malay",
    "version": "0.1.0",
    "plan": "0" * 64,
    "base": {"model": "builtin:mini", "revision": None, "identity": "x", "dtype": "BF16"},
    "languages": {"malay": {"bcp47": "ms", "token_id": 2072}},
    "stages": [],
    "accepted": True,
    "qrecipe": "0",
    "files": {},
}


def answers(folder: str, **languages: int) -> dict[str, str]:
    return {c.server.name: c.answer for c in check_servers(Served(PurePath(folder), languages), list(SERVERS))}


def test_a_plain_key_in_a_plain_folder() -> None:
    got = answers("bundles/malay-0.1.0", malay=2072)
    assert [name for name, answer in got.items() if answer == "yes"] == [
        "qwen-tts",
        "qwen-tts-hf",
        "qwentts.cpp",
        "audio.cpp",
    ]
    assert [name for name, answer in got.items() if answer == "no"] == ["sglang-omni", "gabriele-c", "tensorrt-edge-llm"]


@pytest.mark.parametrize(
    ("folder", "taken"),
    [
        ("qwen3-tts-malay-0.1.0-base", True),
        ("Qwen3-TTS-12Hz-1.7B-Base", True),
        ("qwen3-tts-malay-0.1.0", False),
        ("malay-base", False),
        ("qwen3-tts-base/malay-0.1.0", False),
    ],
)
def test_sglang_goes_by_the_folder_and_its_remedy_helps(folder: str, taken: bool) -> None:
    assert (answers(folder, malay=2072)["sglang-omni"] != "no") is taken
    (check,) = check_servers(Served(PurePath(folder), {"malay": 2072}), ["sglang-omni"])
    for finding in check.findings:
        assert finding.remedy is not None
        assert answers(finding.remedy.split("`")[1], malay=2072)["sglang-omni"] == "yes"


@pytest.mark.parametrize(
    ("key", "vllm", "cpp"),
    [("malay", "with care", "yes"), ("māori", "with care", "with care"), ("ﬁnnish", "no", "with care"), ("o'odham", "with care", "yes")],
)
def test_keys_that_change_on_their_way(key: str, vllm: str, cpp: str) -> None:
    assert language_key_problem(key) is None, "stock finds it"
    got = answers("x", **{key: 2072})
    assert (got["vllm-omni"], got["qwentts.cpp"]) == (vllm, cpp)
    assert (fragile_key(key) is not None) == (vllm == "no" or cpp != "yes"), "validate warns of what a server would refuse"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "malay-0.1.0"
    folder.mkdir()
    (folder / "bundle.json").write_text(json.dumps(MANIFEST))
    return folder


def test_the_command(bundle: Path) -> None:
    done = here("bundle", "check", str(bundle), cwd=bundle.parent, environment={"COLUMNS": "200"})
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in SERVERS)
    assert "qwen3-tts-malay-0.1.0-base" in done.stdout
    assert "2072 for `malay`" in done.stdout


@pytest.mark.parametrize(("servers", "code"), [("vllm-omni", 0), ("vllm-omni, sglang-omni", 2), ("tensorrt-edge-llm", 2), ("vlm-omni", 2)])
def test_a_named_server_decides_the_exit_code(servers: str, code: int, bundle: Path) -> None:
    done = here("bundle", "check", str(bundle), "--for", servers, "--format", "json", cwd=bundle.parent, environment={})
    assert done.returncode == code
    if servers == "vlm-omni":
        assert "did you mean `vllm-omni`?" in done.stderr
    else:
        assert [c["server"] for c in json.loads(done.stdout)["servers"]] == servers.split(", ")
