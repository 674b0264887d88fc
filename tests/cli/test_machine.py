"""Errors of the machine: each names its file or folder and a remedy, and none is called an error of ours."""

from __future__ import annotations

import errno
import getpass
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import soundfile

from qrecipe import interrupts
from qrecipe.cli import main
from qrecipe.cli.container import settle_user
from qrecipe.cli.machine import problem_of
from qrecipe.data.audio import encoded
from qrecipe.errors import BaseModelError, Place, UserError
from qrecipe.files import WriteError, cache_dir, digest, new_folder, read_json, replacing, write_json, write_text, writing
from qrecipe.inputs import hub
from qrecipe.recipe.base import Base
from qrecipe.run.events import Events
from qrecipe.run.store import RunStore
from qrecipe.store import Journal, JsonStore, try_lock
from tests.support import commands, recipes

NOWHERE = Path("/proc/none")
"""A folder that not even root can make."""


def _new_folder(path: Path) -> None:
    with new_folder(path):
        pass


WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda p: write_text(p, "x"),
    "folder": _new_folder,
    "lock": try_lock,
    "events": Events,
    "journal": lambda p: Journal(p).get_or_make("a", lambda: 1),
    "store": lambda p: JsonStore(p.parent).put(p.name, {}),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_cannot_be_written_is_named(writer: str) -> None:
    with pytest.raises(WriteError) as raised:
        WRITERS[writer](NOWHERE / "folder" / "file")
    assert str(raised.value.filename).startswith(str(NOWHERE / "folder" / "file"))
    problem = problem_of(raised.value)
    assert problem is not None
    assert (problem.code, problem.place.file) == ("QR075", str(raised.value.filename))
    assert "--runs" in str(problem.help)


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(WriteError, match=r"Not a directory|File exists"):
        write_text(tmp_path / "runs" / "x" / "file", "x")


def test_the_help_names_the_setting_of_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QRECIPE_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    for file, setting in (("c/codes/x", "QRECIPE_CACHE"), ("t/x", "TMPDIR"), ("h/huggingface/hub/x", "HF_HOME"), ("x", "--out")):
        problem = problem_of(PermissionError(errno.EACCES, "Permission denied", str(tmp_path / file)))
        assert setting in str(problem and problem.help)
    problem = problem_of(FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"))
    assert problem is not None
    assert problem.place.file == "TMPDIR"


FULL: dict[str, Callable[[], Any]] = {
    "an error without a name": lambda: Path("/dev/full").write_bytes(b"x"),
    "a native library's words": lambda: (_ for _ in ()).throw(RuntimeError("IoError(Os { message: No space left on device })")),
}


@pytest.mark.parametrize("how", FULL)
def test_a_full_disk_is_named_by_its_folder(how: str, tmp_path: Path) -> None:
    target = tmp_path / "results" / "file"
    with pytest.raises(WriteError) as raised, replacing(target):
        FULL[how]()
    problem = problem_of(raised.value)
    assert problem is not None
    assert (problem.code, problem.place.file) == ("QR073", str(target.parent))
    assert list(target.parent.iterdir()) == []


def test_a_full_disk_that_nothing_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The folder with the least space of those that libraries write to."""
    monkeypatch.setenv("QRECIPE_CACHE", str(tmp_path))
    usage = {tmp_path: 0}
    monkeypatch.setattr("shutil.disk_usage", lambda f: type("Usage", (), {"free": usage.get(Path(f), 10**9)}))
    problem = problem_of(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert problem is not None
    assert problem.place.file == str(tmp_path)


def test_an_error_about_another_file_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, writing(tmp_path / "a" / "out"):
        (tmp_path / "b" / "in").read_bytes()
    assert not isinstance(raised.value, WriteError)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")])
def test_no_memory(error: Exception) -> None:
    problem = problem_of(error)
    assert problem is not None
    assert problem.code == "QR074"


def test_an_error_of_ours_stays_one() -> None:
    assert problem_of(ValueError("x")) is None
    assert problem_of(OSError("no number, no name")) is None


def test_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nobody(uid: int) -> Any:
        raise KeyError("getpwuid(): uid not found: 1234")

    for name in ("QRECIPE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(UserError) as raised:
        cache_dir()
    assert raised.value.problems[0].code == "QR075"
    assert "QRECIPE_CACHE" in str(raised.value.problems[0].help)
    recipes.write(tmp_path)
    done = commands.here("plan", "recipe.yaml", cwd=tmp_path, environment={"PATH": os.environ["PATH"]})
    assert (done.returncode, "QR075" in done.stderr) == (2, True)


def test_a_user_whom_the_system_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch asks for the user's name, and a dependency of librosa for a home."""

    def nobody(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("QRECIPE_CACHE", "/cache")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    settle_user()
    assert getpass.getuser().startswith("uid-")
    assert os.environ["XDG_CACHE_HOME"] == "/cache"


def test_a_signal_in_the_hands_of_a_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """numba and C modules make another error of the `KeyboardInterrupt`."""

    def interrupted(*_: Any, **__: Any) -> None:
        with suppress(KeyboardInterrupt):
            interrupts.stop()
        raise RuntimeError("no compiled object yet for <Library 'x'>")

    monkeypatch.setattr("qrecipe.recipe.load", interrupted)
    done = commands.here("plan", "recipe.yaml", cwd=tmp_path, environment=dict(os.environ))
    interrupts.install()
    assert (done.returncode, "interrupted" in done.stderr) == (130, True)


def test_a_file_system_without_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def without(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    store = RunStore(tmp_path / "runs" / "x")
    with store.held() as is_locked:
        assert is_locked
    monkeypatch.setattr("fcntl.flock", without)
    with store.held() as is_locked:
        assert not is_locked


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "x.json", {"path": name})
    assert read_json(tmp_path / "x.json") == {"path": name}
    assert digest({"path": name}) != digest({"path": "caf"})
    events = Events(tmp_path / "events.jsonl")
    events.emit("put_aside", path=name)
    events.close()
    assert json.loads((tmp_path / "events.jsonl").read_text())["path"] == name


def test_a_broken_package_is_not_an_error_of_ours() -> None:
    problem = problem_of(ModuleNotFoundError("No module named 'qwen_tts'", name="qwen_tts"))
    assert problem is not None
    assert (problem.code, problem.severity) == ("QR080", "error")
    assert problem_of(ImportError("cannot import name 'x'", name="qrecipe.files")) is None


def test_a_sound_is_encoded_before_it_is_written(tmp_path: Path) -> None:
    """libsndfile would report a full disk as `System error.`; the bytes are those that it would write."""
    import numpy as np

    samples = np.sin(np.arange(24_000) / 20, dtype=np.float32) / 2
    soundfile.write(str(tmp_path / "a.flac"), samples, 24_000, subtype="PCM_16")
    assert encoded(samples, 24_000, "FLAC", "PCM_16") == (tmp_path / "a.flac").read_bytes()


# what the hub says

MODEL = "some/Qwen3-TTS-12Hz-1.7B-Bse"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "abcdefghij" * 3


def _answer(status: int) -> Any:
    import requests

    answer = requests.Response()
    answer.status_code = status
    return answer


def _errors() -> dict[str, tuple[Callable[[], Exception], tuple[str, ...]]]:
    """Errors of the hub's client, with words of the message and of the help."""
    import requests
    from huggingface_hub import errors

    def hub_error(name: str, status: int) -> Callable[[], Exception]:
        words = f"{status} Client Error. (Request ID: 1)\n\nInvalid credentials in Authorization header {TOKEN}"
        error: Callable[[], Exception] = lambda: getattr(errors, name)(words, response=_answer(status))  # noqa: E731
        return error

    pool = f"HTTPSConnectionPool(host='hub.invalid', port=443): Max retries exceeded with url: /?token={TOKEN}"
    return {
        "gated": (hub_error("GatedRepoError", 403), ("is gated", "HF_TOKEN")),
        "absent": (hub_error("RepositoryNotFoundError", 401), ("has no some/", "private", "did you mean `Qwen/Qwen3-TTS-12Hz-1.7B-Base`")),
        "revision": (hub_error("RevisionNotFoundError", 404), (f"no revision `{COMMIT}`",)),
        "bad token": (hub_error("HfHubHTTPError", 401), ("does not accept the access token", "HF_TOKEN")),
        "too many": (hub_error("HfHubHTTPError", 429), ("no more requests", "wait")),
        "broken": (hub_error("HfHubHTTPError", 502), ("fault (HTTP 502)", "later")),
        "slow": (lambda: requests.exceptions.ReadTimeout(pool), ("did not answer in time", "HF_HUB_DOWNLOAD_TIMEOUT")),
        "certificate": (lambda: requests.exceptions.SSLError(pool), ("certificate", "REQUESTS_CA_BUNDLE")),
        "proxy": (lambda: requests.exceptions.ProxyError(pool), ("proxy", "HTTPS_PROXY")),
        "no network": (lambda: requests.exceptions.ConnectionError(pool), ("no connection", "hf download")),
        "unknown": (lambda: ValueError("First words. More."), ("First words", "hf download")),
    }


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    def refuse(error: Exception, wrapped: bool = True) -> None:
        def snapshot_download(*_: Any, **__: Any) -> None:
            try:
                raise error
            except Exception as e:
                if wrapped:  # as the client does with what it meets on the way
                    raise FileNotFoundError("An error happened while trying to locate the files on the Hub.") from e
                raise

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)

    return refuse


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", sorted(_errors()))
def test_what_the_hub_says(kind: str, wrapped: bool, online: Any) -> None:
    """One sentence and its remedy, whether the client passes its error on or wraps it; never the token."""
    make, words = _errors()[kind]
    online(make(), wrapped)
    with pytest.raises(BaseModelError) as raised:
        hub.download(Base(model=MODEL, revision=COMMIT), Place("recipe.yaml", 1, 1))
    (problem,) = raised.value.problems
    assert problem.code == "QR050"
    for word in words:
        assert word in f"{problem.message}\n{problem.help}"
    assert TOKEN not in str(problem)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_download_that_cannot_be_stored(number: int, online: Any) -> None:
    file = "/home/me/.cache/huggingface/hub/blobs/x"
    online(OSError(number, os.strerror(number), file))
    with pytest.raises(WriteError) as raised:
        hub.download(Base(model=MODEL, revision=COMMIT), Place("recipe.yaml"))
    problem = problem_of(raised.value)
    assert problem is not None
    assert problem.code == ("QR073" if number == errno.ENOSPC else "QR075")


def test_the_end_of_a_file_is_no_interruption(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """click takes every `EOFError` for Ctrl-D at a prompt, also a library's that read half a file."""

    def broken(*arguments: object) -> None:
        raise EOFError("Compressed file ended before the end-of-stream marker was reached")

    monkeypatch.setattr("qrecipe.cli.validate.check", broken)
    with pytest.raises(SystemExit) as ended:
        main(["validate", "recipe.yaml"])
    assert ended.value.code == 1
    assert "did not expect: EOFError: Compressed file ended" in capfd.readouterr().err
