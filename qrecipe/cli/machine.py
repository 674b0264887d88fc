"""Errors that are the machine's, as problems with a remedy: full disks, folders that cannot be written, no memory."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from qrecipe.errors import Place, Problem, UserError
from qrecipe.files import WriteError, cache_dir, says_full
from qrecipe.report.terminal import can_write

NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "unable to allocate", "failed to map segment", "can't start new thread")
"""Words of torch, the operating system, numpy, the linker and Python."""


def problem_of(error: BaseException) -> Problem | None:
    """The problem of an error that no file of the user's and no fault of ours is to blame for, else None."""
    if says_full(error):
        return _full(getattr(error, "filename", None))
    if type(error).__name__ == "OutOfMemoryError":
        help_ = "see what else uses it, or take a larger one"
        return Problem("QR074", "the GPU has no memory left; what was finished before is kept", Place("GPU"), help_)
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
        help_ = "close what else takes memory, train fewer frames at once (`batch`), or take a larger machine"
        return Problem("QR074", "the machine has no memory left; what was finished before is kept", Place("memory"), help_)
    if isinstance(error, ImportError) and not str(error.name).startswith("qrecipe"):
        message = f"a package cannot be imported: {error}"
        return Problem("QR080", message, Place(error.name or "import"), "`qrecipe doctor` says what is missing", "error")
    return _refused(error) if isinstance(error, OSError) else None


def _full(file: str | bytes | None) -> Problem:
    if file is None and not can_write(sys.stdout):
        return Problem("QR073", "the disk that standard output goes to is full", Place("standard output"), "free some room there")
    folder = _fullest() if file is None else _folder(Path(os.fsdecode(file)))
    message = f"the disk of {folder} is full; what was finished before is kept"
    help_ = "free some room (`qrecipe gc` lists what no run refers to) and run the same command again"
    return Problem("QR073", message, Place(str(folder)), help_)


def _folder(file: Path) -> Path:
    """The folder that a file is in, as far as it exists."""
    return next((p for p in file.absolute().parents if p.is_dir()), Path("/"))


def _fullest() -> Path:
    """The folder with the least free disk, of those that libraries write to; their errors name none."""
    folders = [Path(os.environ.get("TMPDIR", "/tmp")), Path.cwd()]
    with suppress(UserError):
        folders.insert(0, cache_dir())
    return min((_folder(f / "file") for f in folders), key=lambda f: shutil.disk_usage(f).free)


def _refused(error: OSError) -> Problem | None:
    """An error of the operating system about a file, or about the lack of a place for temporary ones."""
    if str(error.strerror).startswith("No usable temporary directory"):
        help_ = "set TMPDIR to a folder that can be written"
        return Problem("QR075", "there is no folder for temporary files", Place("TMPDIR"), help_)
    if error.filename is None or error.strerror is None:
        return None
    path = Path(os.fsdecode(error.filename))
    verb = "written" if isinstance(error, WriteError) else "used"
    return Problem("QR075", f"cannot be {verb}: {error.strerror}", Place(str(path)), _remedy(path))


def _remedy(path: Path) -> str:
    """The setting that names the folder of a path."""
    with suppress(UserError):
        if path.is_relative_to(cache_dir()):
            return "set QRECIPE_CACHE to a folder that can be written"
    if "huggingface" in path.parts:
        return "set HF_HOME to a folder that can be written"
    if path.is_relative_to(os.environ.get("TMPDIR", "/tmp")):
        return "set TMPDIR to a folder that can be written"
    return "make it readable and writable, or name another place (`--runs`, `--bundles`, `--out`)"
