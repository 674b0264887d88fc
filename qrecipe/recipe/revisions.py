"""A recipe as it was in a git revision, with everything beside it that the repository holds."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from qrecipe.errors import Place, Problem, UserError, suggest


@contextmanager
def at_revision(file: Path, revision: str) -> Iterator[Path]:
    """The file as of a revision, in a temporary copy of the repository's tree. Raises `UserError`."""
    folder = file.resolve().parent
    top = Path(_git(folder, "rev-parse", "--show-toplevel", why=f"{file} lies in no git repository").decode().strip())
    why = f"`{revision}` is no revision of this repository"
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", why=why).decode().strip()
    inside = os.path.relpath(file.resolve(), top)
    with TemporaryDirectory(prefix="qrecipe-") as name:
        archive = _git(top, "archive", "--format=tar", commit, why=f"git cannot read {revision}")
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(name, filter="data")
        (Path(name) / ".git").mkdir(exist_ok=True)  # so that the copy is a repository of its own for `extends`
        copy = Path(name) / inside
        if not copy.is_file():
            others = [p.name for p in copy.parent.glob("*.y*ml")]
            raise UserError(Problem("QR001", f"{inside} is not in {revision}", Place(str(file)), suggest(file.name, others)))
        yield copy


def _git(folder: Path, *arguments: str, why: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except OSError:
        raise UserError(Problem("QR070", "git is not installed", Place("--against"))) from None
    if done.returncode:
        raise UserError(Problem("QR070", why, Place("--against")))
    return done.stdout
