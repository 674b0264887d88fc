"""Models out of packages on PyPI: parts are joined into the user's cache, once, and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from qrecipe.errors import Place, Problem, RecipeError
from qrecipe.files import is_file, new_folder
from qrecipe.inputs.evaluators import EvaluatorModel, WheelModel, package_folder


def materialise(evaluator: EvaluatorModel, place: Place) -> Path:
    """The model's folder with its files in it: parts out of packages are joined and checked, once. Raises `RecipeError`."""
    assert evaluator.folder is not None, "what is missing was reported"
    if evaluator.wheel is None or is_file(evaluator.folder / "model.bin"):
        return evaluator.folder
    with new_folder(evaluator.folder) as temporary:
        for name, expected in evaluator.wheel.sha256.items():
            checksum = hashlib.sha256()
            with open(temporary / name, "wb") as f:
                for chunk in _chunks(evaluator.wheel, name):
                    checksum.update(chunk)
                    f.write(chunk)
            if checksum.hexdigest() != expected:
                module = evaluator.wheel.parts[-1][0].replace("_", "-")
                message = f"{name} out of {module} is not the file that it should be (its SHA-256 differs)"
                raise RecipeError(Problem("QR081", message, place, "install it again, or name another model"))
    return evaluator.folder


def _chunks(wheel: WheelModel, name: str) -> Iterator[bytes]:
    sources = wheel.parts if name == "model.bin" else ((wheel.parts[-1][0], name),)
    for module, file in sources:
        folder = package_folder(module)
        assert folder is not None, "what is missing was reported"
        with open(folder / file, "rb") as f:
            while chunk := f.read(1 << 20):
                yield chunk
