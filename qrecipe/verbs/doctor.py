"""`doctor`: what is installed, which device trains, where a base is."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qrecipe.errors import Place, UserError
from qrecipe.files import FileHashes, cache_dir
from qrecipe.inputs.bases import describe_folder
from qrecipe.inputs.fetch import here
from qrecipe.model.load import pick_device
from qrecipe.recipe.base import Base

PACKAGES = ("qwen-tts", "transformers", "torch", "safetensors", "tokenizers", "soundfile", "librosa", "pydantic", "jsonschema")


def examine(model: str | None, revision: str | None, folder: Path) -> dict[str, Any]:
    """`environment`, `path` of the base (null if it is not here), and `missing` as sentences."""
    import torch

    environment: dict[str, str] = {"python": platform.python_version()}
    missing = []
    for name in PACKAGES:
        try:
            environment[name] = version(name)
        except PackageNotFoundError:
            missing.append(f"the package {name}: pip install {name}")
    device = pick_device()
    environment["device"] = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    environment["cache"] = str(cache_dir())
    free = cache_dir()
    while not free.exists():
        free = free.parent
    environment["free disk"] = f"{shutil.disk_usage(free).free / 1e9:.0f} GB"
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
    return {"environment": environment, "path": path, "missing": missing}
