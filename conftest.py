"""What several tests share: a cache of their own, the embedded base opened once, and one voice."""

from __future__ import annotations

import contextlib
import gc
import os
import sqlite3
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qrecipe.model import dsp
from tests.support import audio, recipes
from tests.support.running import run_recipe
from tests.support.shared import Finished, Voice

if TYPE_CHECKING:
    import torch

    from qrecipe.inputs.bases import LocalBase
    from qrecipe.model.load import LoadedBase
    from qrecipe.model.prompt import Example


os.environ.setdefault("OMP_NUM_THREADS", "1")
"""The embedded base's matrices are too small for more threads, which only wait for each other. Set before torch is imported."""


def pytest_configure(config: pytest.Config) -> None:
    """A folder for what numba compiles, which outlives the session's cache; every process that runs tests has its own."""
    hands_out = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if dsp.FOLDER not in os.environ and not hands_out:
        os.environ[dsp.FOLDER] = str(dsp.claimed(config.rootpath / ".pytest_cache" / "numba"))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache of every test of this session: nothing reads or writes the user's."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("QRECIPE_CACHE")
    os.environ["QRECIPE_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["QRECIPE_CACHE"]
    else:
        os.environ["QRECIPE_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Files need not survive a power cut: seconds of waiting for the disk. Processes that are killed sync as ever."""
    connect = sqlite3.connect

    def without_waiting(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        with contextlib.suppress(sqlite3.Error):  # of a file that is none of SQLite's: whoever reads it is told
            connection.execute("PRAGMA synchronous = OFF")
        return connection

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda fd: None)
        patched.setattr(sqlite3, "connect", without_waiting)
        yield


@pytest.fixture(scope="session")
def mini(cache: Path) -> LocalBase:
    """The embedded base."""
    from qrecipe.errors import Place
    from qrecipe.hashes import FileHashes
    from qrecipe.inputs.fetch import resolve
    from qrecipe.recipe.base import Base

    return resolve(Base(model="builtin:mini"), cache, Place("test"), FileHashes())


@pytest.fixture(scope="session")
def opened(mini: LocalBase) -> LoadedBase:
    """The embedded base in memory. A test that changes it puts it back."""
    from qrecipe.model.load import open_model

    return open_model(mini)


@pytest.fixture
def fresh(mini: LocalBase) -> LoadedBase:
    """The embedded base in memory for one test alone, which may change it."""
    from qrecipe.model.load import open_model

    return open_model(mini)


@pytest.fixture(scope="session")
def voice(opened: LoadedBase) -> Voice:
    """Two seconds of one voice."""
    samples = audio.speech(7, 2.0)
    return Voice(samples, opened.x_vector(samples), opened.encode([samples])[0])


@pytest.fixture(scope="module")
def patient(opened: LoadedBase) -> Iterator[None]:
    """Greedy decoding of the embedded base ends after a few frames; a weaker pull of the end gives more to compare."""
    pull = opened.talker.codec_head.weight.data[opened.config.talker_config.codec_eos_token_id, :1]
    before = pull.clone()
    pull.fill_(0.33)
    yield
    pull.copy_(before)


@pytest.fixture(scope="session")
def example(opened: LoadedBase, voice: Voice) -> Callable[..., Example]:
    """Makes a row of speech: `example(seed, text=..., language=..., layout=..., in_context=..., speaker=...)`."""
    from qrecipe.model.prompt import Example

    def make(
        seed: int = 0,
        *,
        text: str = "Saya suka makan nasi.",
        language: str = "english",
        layout: Any = "streaming",
        in_context: bool = False,
        speaker: bool = True,
        seconds: float = 0.8,
        codes: torch.Tensor | None = None,
        cut: bool = False,
    ) -> Example:
        role, body = opened.tokenizer.assistant(text)
        return Example(
            role=role,
            body=body,
            codes=opened.encode([audio.speech(seed, seconds)])[0] if codes is None else codes,
            x_vector=voice.x_vector if speaker else None,
            language=opened.language_row(language),
            layout=layout,
            reference_body=opened.tokenizer.reference(recipes.REFERENCE_TEXT) if in_context else None,
            reference_codes=voice.codes if in_context else None,
            cut=cut,
        )

    return make


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Writes the tiny recipe and its data into `tmp_path`: `tiny(stages=[...], accept=[...])` replaces fields."""

    def make(name: str = "recipe.yaml", **changes: Any) -> Path:
        return recipes.write(tmp_path, recipes.recipe(**changes), name)

    return make


@pytest.fixture(scope="session")
def finished(mini: LocalBase, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The tiny recipe with one gate, run once. Tests read what it left; those that change it copy it first."""
    folder = tmp_path_factory.mktemp("finished")
    accept = [{"metric": "talker_nll", "data": "dev", "max": 100.0}]
    file = recipes.write(folder, recipes.recipe(accept=accept))
    outcome = run_recipe(file, folder)
    return Finished(file, folder / "runs", folder / "bundles", outcome)


NEED_THE_BASE = {"mini", "opened", "finished", "tiny"}


LONG = (
    "test_demo.py",
    "test_crash.py",
    "test_ranks.py",
    "test_other_engines.py",
    "test_end_to_end.py",
    "test_layers.py",
    "test_resume.py",
    "test_generate.py",
)
"""Files that take long, the longest first: where processes share the files, they are begun first, so that all end at about the same time."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Imported modules live until the end, so the garbage collector need not walk through them again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What opens the embedded base waits for torch and stock qwen_tts, so it is not part of `make quick`."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda i: LONG.index(i.path.name) if i.path.name in LONG else len(LONG))
    for item in items:
        if NEED_THE_BASE & set(getattr(item, "fixturenames", ())) or "builtin" in item.path.parts:
            item.add_marker(pytest.mark.slow)
